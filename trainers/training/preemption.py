"""Training that can be told to stop: it saves at the end of the step, and leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from trainers.training.interruption import Interrupted, heeding


class StopWhenAsked(TrainerCallback):
    """Saves and stops after the step in which it was asked; several processes stop after the same one."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked = asked
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            return  # After the last step there is nothing to come back for.
        if control.should_training_stop or not self._agreed(args):
            return  # A watchdog that ends training has its checkpoint already, and wants no later one.
        self.stopped = True
        control.should_save = True
        control.should_training_stop = True

    def _agreed(self, args: Any) -> bool:
        """A signal may reach some processes a step before the others: one that was asked stops all."""
        asked = self.asked()
        if args.world_size == 1:
            return asked
        flag = torch.tensor([float(asked)], device=args.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())


def train_until_asked(trainer: Any, checkpoint: Path | None) -> Any:
    """`trainer.train`, from the checkpoint where there is one. Interrupted: it was asked to stop, and has saved."""
    with heeding() as asked:
        watcher = StopWhenAsked(asked)
        trainer.add_callback(watcher)
        if getattr(trainer, "watch", None) is not None:
            trainer.watch.resume(checkpoint)
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.remove_callback(watcher)
    if watcher.stopped:
        raise Interrupted(f"saved after step {trainer.state.global_step} of {trainer.state.max_steps}")
    return result
