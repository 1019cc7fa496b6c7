"""The loop every trainer of ours shares: go on from the newest whole checkpoint, train, measure, save the policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers.trainer_callback import PrinterCallback, TrainerCallback

from data.errors import TrainingError
from trainers.models import Loaded, save_policy
from trainers.training import checkpoints, ranks
from trainers.training.preemption import train_until_asked
from trainers.training.watching import summary
from trainers.work import Work

MODEL = "model"


def run_training(
    trainer: Any, loaded: Loaded, work: Work, *, name: str, keep: int, keys: tuple[str, ...]
) -> dict[str, Any]:
    """Returns the figures for the run's record; `keys` are the logged ones whose last value belongs there."""
    if ranks.sharded() and not trainer.is_fsdp_enabled:
        raise TrainingError(
            "FSDP was asked for, and accelerate has it on GPUs only: each process would hold the whole model",
            where="resources.accelerate_config",
            way_out="Ask for GPUs, or leave it out.",
        )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LogTheEnd())
    trainer.keep_checkpoints = keep
    watch = getattr(trainer, "watch", None)
    with trainer.accelerator.main_process_first():  # The first sets broken ones aside.
        if watch is not None:
            watch.recall()
        checkpoint: Path | None = checkpoints.newest(work.scratch / checkpoints.FOLDER, work.say)
    if checkpoint is not None:
        _same_group(trainer.args, checkpoints.processes(checkpoint), work)
        work.say(f"going on from {checkpoint.name}")
    started = time.monotonic()
    result = train_until_asked(trainer, checkpoint)
    while watch is not None and (checkpoint := watch.again(trainer)) is not None:
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
    if watch is not None:
        metrics |= watch.figures()
    # Every process gives its part, also those that do not save.
    parts = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.args.should_save:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if parts is not None:  # Gathered, tied weights are no longer one tensor, and would be written twice.
            tied = getattr(model, "all_tied_weights_keys", None) or {}
            parts = {name: tensor for name, tensor in parts.items() if name not in tied}
        out = work.out / MODEL
        save_policy(model, loaded.tokenizer, loaded.policy, name, out, state_dict=parts, eyes=loaded.eyes)
    return metrics


class LogTheEnd(TrainerCallback):
    """A line for the last step too: the record's figures are those of the log, and would leave out what follows it."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_log = control.should_log or state.global_step >= state.max_steps
        return control


def _same_group(args: Any, before: int, work: Work) -> None:
    """A step of another number of processes is a step of other rows: neither the old run's nor a new one's."""
    rows = args.train_batch_size * args.gradient_accumulation_steps
    if before != args.world_size:
        raise TrainingError(
            f"it was begun by {before} processes, of {before * rows} rows a step, and would go on with "
            f"{args.world_size}, of {args.world_size * rows}",
            where=str(work.out),
            way_out="Ask for as many GPUs or nodes as before, or begin the stage anew with --from.",
        )


def mean_loss(history: list[dict[str, Any]], otherwise: float) -> float:
    """Over all steps: transformers' own figure leaves out the steps before a resume."""
    seen, total, last = 0, 0.0, 0
    for line in history:
        if "loss" in line:
            steps = int(line["step"]) - last
            total, seen, last = total + steps * float(line["loss"]), seen + steps, int(line["step"])
    return total / seen if seen else otherwise
