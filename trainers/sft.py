"""Supervised fine-tuning: TRL's trainer over rows that are tokenised already."""

from __future__ import annotations

from typing import Any

from trl import SFTConfig, SFTTrainer

from trainers.config import SftOptions
from trainers.engine.completions import CompletionsOnly
from trainers.models import load_policy
from trainers.training import checkpoints
from trainers.training.adapter_types import give_back, trained_types
from trainers.training.arguments import build, training_arguments
from trainers.training.loop import run_training
from trainers.training.prepare import check_context, load_rows
from trainers.training.watching import FiniteLoss, Teller
from trainers.vision.rows import PicturedBatch
from trainers.work import Work


class HeliographSFTTrainer(FiniteLoss, CompletionsOnly, checkpoints.SealedCheckpoints, SFTTrainer):
    """TRL's SFTTrainer, with sealed checkpoints and finite losses."""


class SeeingSFTTrainer(FiniteLoss, checkpoints.SealedCheckpoints, SFTTrainer):
    """The same for a model that sees: TRL's fused head has no place for pictures."""


def train_sft(options: SftOptions, start: str, work: Work, *, name: str) -> dict[str, Any]:
    """Train, or go on training, from the newest whole checkpoint; leave the policy in `out/model`."""
    train_rows, eval_rows = load_rows(work.out)
    loaded = load_policy(start, options, work, train=options, seed=options.seed)
    eyes = loaded.eyes
    tokenizer: Any = loaded.tokenizer
    own: dict[str, Any] = {}
    if eyes is not None:
        own = {"data_collator": PicturedBatch(tokenizer.pad_token_id, eyes)}
    args = training_arguments(
        SFTConfig,
        options,
        work.scratch / checkpoints.FOLDER,
        work,
        packing=options.packing,
        # Rows come cut to this length; TRL needs the number only to pack them.
        max_length=options.max_length if options.packing else None,
        dataset_kwargs=None if options.packing else {"skip_prepare_dataset": True},
        **({} if eyes is None else {"remove_unused_columns": False}),
    )
    check_context(loaded.model, work)
    types = trained_types(loaded.model)
    trainer = build(
        HeliographSFTTrainer if eyes is None else SeeingSFTTrainer,
        model=loaded.model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        callbacks=[Teller(work)],
        **own,
    )
    give_back(trainer.model, types)
    keys = ("loss", "mean_token_accuracy")
    return run_training(trainer, loaded, work, name=name, keep=options.save_total_limit, keys=keys)
