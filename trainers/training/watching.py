"""What every training loop of ours has: figures on the way, and a stop at the first number that is not finite."""

from __future__ import annotations

import math
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from data.errors import TrainingError
from trainers.work import Work

SHOWN = (
    "loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "logps/forget", "logps/retain",
    "num_tokens",
)  # fmt: skip
"""Figures for whoever watches; all others are in metrics.jsonl."""


class Teller(TrainerCallback):
    """Passes the loop's figures on to whoever waits."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.work.log({"event": "resumed", "step": state.global_step})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            figures = {**self.last, "memory": memory()}
            self.work.progress(done=state.global_step, total=state.max_steps, unit="steps", **figures)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        figures = {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}
        self.work.log({"step": state.global_step, **figures})
        self.last |= {k: figures[k] for k in SHOWN if k in figures}


def memory() -> float:
    """Bytes in use: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.memory_allocated())
    return float(psutil.Process().memory_info().rss)


class FiniteLoss:
    """Mixin over a Trainer: a loss that is NaN or infinite ends the stage with its step named.

    transformers replaces such losses in its logs by default, and goes on. One process's loss ends all of them, which
    would wait for it otherwise.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        me: Any = self
        total: Any = loss.detach()
        if me.accelerator.num_processes > 1:
            total = me.accelerator.reduce(total.float(), reduction="sum")
        if not torch.isfinite(total).all():
            raise TrainingError(
                f"the loss is {total.item()} at step {me.state.global_step + 1}",
                where=str(me.args.output_dir),
                way_out="Lower learning_rate, set max_grad_norm, or use float32 or bfloat16 instead of float16. "
                "Checkpoints from before it are kept.",
            )
        return loss


def summary(history: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, float]:
    """The last logged value of each key, where it is finite."""
    found: dict[str, float] = {}
    for entry in history:
        for key in keys:
            if key in entry and math.isfinite(float(entry[key])):
                found[key] = float(entry[key])
    return found
