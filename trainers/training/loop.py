"""The loop every trainer of ours shares: go on from the newest whole checkpoint, train, measure, save the policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers.trainer_callback import PrinterCallback

from data.errors import TrainingError
from trainers.models import Loaded, save_policy
from trainers.training import checkpoints
from trainers.training.preemption import train_until_asked
from trainers.training.watching import summary
from trainers.work import Work

MODEL = "model"


def run_training(
    trainer: Any, loaded: Loaded, work: Work, *, name: str, keep: int, keys: tuple[str, ...]
) -> dict[str, Any]:
    """Returns the figures for the run's record; `keys` are the logged ones whose last value belongs there."""
    trainer.remove_callback(PrinterCallback)
    trainer.keep_checkpoints = keep
    with trainer.accelerator.main_process_first():  # The first sets broken ones aside.
        checkpoint: Path | None = checkpoints.newest(work.scratch / checkpoints.FOLDER, work.say)
    if checkpoint is not None:
        work.say(f"going on from {checkpoint.name}")
    started = time.monotonic()
    result = train_until_asked(trainer, checkpoint)
    if trainer.state.global_step == 0:
        raise TrainingError(
            "not one step was made", where=str(work.out), way_out="Give more rows or a smaller batch."
        )
    metrics: dict[str, Any] = {
        "rows": len(trainer.train_dataset),
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch or 0), 4),
        "train_loss": mean_loss(trainer.state.log_history, result.training_loss),
        "train_seconds": round(time.monotonic() - started, 2),
        **summary(trainer.state.log_history, keys),
    }
    if trainer.eval_dataset is not None:
        found = trainer.evaluate()
        metrics |= {k: v for k, v in found.items() if "runtime" not in k and "per_second" not in k}
    if trainer.args.should_save:
        model = trainer.accelerator.unwrap_model(trainer.model)
        save_policy(model, loaded.tokenizer, loaded.policy, name, work.out / MODEL)
    return metrics


def mean_loss(history: list[dict[str, Any]], otherwise: float) -> float:
    """Over all steps: transformers' own figure leaves out the steps before a resume."""
    seen, total, last = 0, 0.0, 0
    for line in history:
        if "loss" in line:
            steps = int(line["step"]) - last
            total, seen, last = total + steps * float(line["loss"]), seen + steps, int(line["step"])
    return total / seen if seen else otherwise
