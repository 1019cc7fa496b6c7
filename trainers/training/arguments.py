"""Our options as one of TRL's config objects."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from data.errors import RecipeError
from trainers.config import TrainingOptions
from trainers.work import Work

Config = TypeVar("Config")
Made = TypeVar("Made")


def training_arguments(
    kind: type[Config], options: TrainingOptions, out: Path, work: Work, **own: Any
) -> Config:
    """Build TRL's config: what every loop of ours shares, what this loop sets, then the recipe's `training`."""
    if "tensorboard" in options.report_to:
        # Its default lies below output_dir, which goes when the stage is done.
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(work.out / "tensorboard"))
    cuda = torch.cuda.is_available()
    bf16 = options.bf16
    if bf16 is None:
        bf16 = cuda and torch.cuda.is_bf16_supported()
        work.choose("bf16", bf16, "mixed precision where CUDA has it")
    checkpointing = options.gradient_checkpointing
    if checkpointing is None:
        checkpointing = cuda
        work.choose("gradient_checkpointing", checkpointing, "on for CUDA, off on CPU")
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "num_train_epochs": options.num_train_epochs,
        "max_steps": options.max_steps,
        "per_device_train_batch_size": options.per_device_train_batch_size,
        "per_device_eval_batch_size": options.per_device_eval_batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation_steps,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": options.lr_scheduler_type,
        "warmup_steps": options.warmup_steps,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "bf16": bf16,
        "fp16": False,
        "gradient_checkpointing": checkpointing,
        "seed": options.seed,
        "logging_steps": options.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": options.save_steps,
        "save_total_limit": None,  # SealedCheckpoints rotates, after the new one is whole
        "report_to": list(options.report_to) or "none",
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "eval_strategy": "no",
        **own,
        **options.training,
    }
    try:
        with warnings.catch_warnings():
            # Its new name is not yet one that TRL reads, and TRL's own default sets the old one.
            warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
            return kind(**settings)
    except (TypeError, ValueError) as broken:
        raise RecipeError(str(broken), where="training", way_out=f"See {kind.__name__} of TRL.") from broken


def build(trainer: Callable[..., Made], **parts: Any) -> Made:
    """Make a trainer; what transformers and TRL find wrong with the settings then is the recipe's to mend."""
    try:
        return trainer(**parts)
    except (ValueError, ImportError, NotImplementedError) as broken:
        text = " ".join(str(broken).split())
        raise RecipeError(text, where="training", way_out="Change that setting of the stage.") from broken
