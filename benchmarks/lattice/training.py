"""One policy from scratch, one arm on top of it, and what held-out pairs say of it on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.lattice.arms import Arm, learn, pairs
from data.ledger import LedgerLimits
from data.sources import Mixture
from trainers.config import PreferOptions, SftOptions, SymbolicLoss
from trainers.engine.scoring import score
from trainers.preference import preference_trainer
from trainers.sft import train_sft
from trainers.training.prepare import prepare_pairs, prepare_sft
from trainers.work import Work

EVERY = 10
"""Steps between two measurements."""


class Watch(TrainerCallback):
    """Measures the held-out pairs: what a token of either side is worth, and how often the chosen one is worth more."""

    def __init__(self, trainer: Any, rows: Any) -> None:
        self.trainer = trainer
        self.rows = rows
        self.curve: list[dict[str, float]] = []
        self.measure(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % EVERY == 0 or state.global_step == state.max_steps:
            self.measure(state.global_step)

    def measure(self, step: int) -> None:
        trainer, model = self.trainer, self.trainer.model
        training = model.training
        model.eval()
        chosen, rejected = list[torch.Tensor](), list[torch.Tensor]()
        for start in range(0, len(self.rows), 16):
            batch = trainer.data_collator(
                [self.rows[i] for i in range(start, min(start + 16, len(self.rows)))]
            )
            with torch.no_grad():
                found = trainer.batches.inputs(batch, score(trainer, model, batch["layout"]))
            chosen.append(found.chosen / found.chosen_length)
            rejected.append(found.rejected / found.rejected_length)
        model.train(training)
        better, worse = torch.cat(chosen), torch.cat(rejected)
        self.curve.append(
            {
                "step": step,
                "accuracy": (better > worse).float().mean().item(),
                "chosen": better.mean().item(),
                "rejected": worse.mean().item(),
            }
        )


def start_policy(folder: Path, seed: int, steps: int) -> Path:
    """The `tiny` model, taught to write telegrams."""
    work = _work(folder)
    options = SftOptions(
        model="tiny",
        max_steps=steps,
        learning_rate=5e-3,
        per_device_train_batch_size=8,
        seed=seed,
        logging_steps=1000,
    )
    rows = _write(folder / "rows.jsonl", learn(200))
    prepare_sft(options, "tiny", rows, None, folder, LedgerLimits(), work)
    train_sft(options, "tiny", work, name="sft")
    return folder / "model"


def train(arm: Arm, start: Path, folder: Path, seed: int, steps: int) -> list[dict[str, float]]:
    """The curve of one arm; full fine-tuning, averages per token, beta 1, as the paper's models were trained."""
    work = _work(folder)
    options = PreferOptions(
        model=str(start),
        loss=SymbolicLoss(formula=arm.loss, beta=1.0, sft_weight=arm.sft_weight, average_log_prob=True),
        max_steps=steps,
        learning_rate=1e-3,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=8,
        seed=seed,
        logging_steps=1000,
        save_steps=100_000,
    )
    data = _write(folder / "train.jsonl", pairs("train", seed))
    held_out = _write(folder / "eval.jsonl", pairs("eval", seed))
    prepare_pairs(options, str(start), data, held_out, folder, LedgerLimits(), work)
    trainer = preference_trainer(options, str(start), work)
    watch = Watch(trainer, trainer.eval_dataset)
    trainer.add_callback(watch)
    trainer.train()
    return watch.curve


def _work(folder: Path) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(out=folder, say=lambda _: None)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> Mixture:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Mixture.model_validate(str(path))
