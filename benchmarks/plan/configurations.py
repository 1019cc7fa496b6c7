"""What is measured: stages of several kinds, engines, adapters and sizes, each small enough for a minute."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers import aliases

Row = tuple[int, Sequence[int]]
"""Tokens of a prompt, and of each answer to it."""


@dataclass(frozen=True)
class Configuration:
    """One stage, the model it starts from, and the lengths of its rows."""

    name: str
    model: str
    """A name of `MODELS`, or an alias."""
    kind: str
    options: dict[str, Any]
    rows: Sequence[Row]
    """Of one batch; repeated for every batch there is."""


MODELS: dict[str, dict[str, int | bool]] = {
    "w128": {
        "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": True,
    },
    "w256": {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    "w384": {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 6, "vocab_size": 32000, "tie_word_embeddings": True,
    },
    "w512": {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 8192, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""Llamas with random weights: several widths, vocabularies from small to large, with grouped queries and without."""

LORA: dict[str, Any] = {"use_peft": True, "lora_r": 16}
QLORA: dict[str, Any] = {**LORA, "load_in_4bit": True}


def _rows(batch: int, prompt: int, *answers: int) -> list[Row]:
    return [(prompt, answers)] * batch


def _made(name: str, model: str, kind: str, rows: Sequence[Row], **options: Any) -> Configuration:
    given = {"per_device_train_batch_size": len(rows), "learning_rate": 1e-5, **options}
    return Configuration(name, model, kind, given, rows)


RAGGED: list[Row] = [(310, (40, 170)), (90, (220, 60)), (200, (128, 96)), (32, (300, 350))]

CONFIGURATIONS: tuple[Configuration, ...] = (
    _made("sft full", "w256", "sft", _rows(2, 256, 256)),
    _made("sft lora", "w512", "sft", _rows(4, 128, 256), **LORA),
    _made("sft nf4", "w512", "sft", _rows(4, 64, 192), **QLORA),
    _made("prefer full, tree", "w256", "prefer", _rows(2, 384, 128, 128)),
    _made("prefer lora, tree", "w512", "prefer", _rows(3, 384, 128, 128), **LORA),
    _made("prefer lora, padded, ragged", "w256", "prefer", RAGGED, engine="padded", **LORA),
    _made("prefer nf4, tree", "w512", "prefer", _rows(3, 256, 128, 128), **QLORA),
    _made("unlearn npo lora", "w384", "unlearn", _rows(4, 64, 192), method="npo", **LORA),
    _made("sft full, checkpointing", "w512", "sft", _rows(6, 64, 320), gradient_checkpointing=True),
    _made("prefer lora, packed", "w384", "prefer", _rows(2, 256, 128, 128), engine="packed", **LORA),
    _made("prefer lora, tree, checkpointing", "w512", "prefer", _rows(6, 384, 128, 128),
          gradient_checkpointing=True, **LORA),
    _made("smollm2 sft lora", "smollm2-135m", "sft", _rows(1, 64, 128), **LORA),
    _made("prefer full, accumulated", "w512", "prefer", _rows(1, 256, 256, 256), gradient_accumulation_steps=2),
    _made("unlearn npo full, kl", "w256", "unlearn", _rows(3, 64, 192), method="npo", retain_loss_type="kl"),
    _made("smollm2 prefer nf4, tree", "smollm2-135m", "prefer", _rows(1, 96, 48, 48), **QLORA),
    _made("sft full, small vocabulary", "w128", "sft", _rows(16, 64, 192)),
    _made("prefer kto lora", "w384", "prefer", _rows(4, 128, 96, 96), loss_type="kto", **LORA),
    _made("prefer lora, groups of four", "w384", "prefer", _rows(2, 256, 96, 96, 96, 96),
          group_by_prompt=True, **LORA),
    _made("prefer lora, tree, ragged", "w256", "prefer", RAGGED, **LORA),
    _made("smollm2 prefer lora, checkpointing", "smollm2-135m", "prefer", _rows(1, 128, 64, 64),
          gradient_checkpointing=True, **LORA),
)  # fmt: skip


def model_folder(name: str, folder: Path) -> Path:
    """The model with its tokenizer, made in `folder` where it is not an alias."""
    if aliases.is_alias(name):
        return aliases.resolve(name)
    made = folder / name
    if made.is_dir():
        return made
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings: Any = {**MODELS[name], "max_position_embeddings": 2048}
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(made)
    for file in aliases.resolve("tiny").glob("*token*"):
        shutil.copy(file, made)
    return made
