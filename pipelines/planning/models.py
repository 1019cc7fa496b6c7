"""Which model a stage starts from, found without loading it: an alias, a folder, or what earlier stages will make."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import ModelError
from pipelines.planning.shapes import Shape, lora_parameters, read_shape
from pipelines.stage import Stage
from trainers import aliases


@dataclass(frozen=True)
class Start:
    """A model as a stage would find it."""

    shape: Shape
    where: str
    """What it is made of, for a person."""
    tokenizer: Path | None
    """The folder of its tokenizer, where that is at hand."""
    dtype: str = "auto"
    quantised: Mapping[str, Any] | None = None
    below: int = 0
    """Parameters of the adapters on it."""


class Models:
    """The starts of a recipe's stages, each worked out once."""

    def __init__(self, base: Path, stages: Mapping[str, Stage]) -> None:
        self.base, self.stages = base, stages
        self.known: dict[str, Start] = {}

    def start(self, name: str) -> Start:
        """ModelError with the way out where nothing here tells the shape."""
        if name not in self.known:
            self.known[name] = self._made_by(self.stages[name]) if name in self.stages else self._given(name)
        return self.known[name]

    def _made_by(self, stage: Stage) -> Start:
        """What the stage will leave, by its options: a plan is made before there is anything to look at."""
        kind, options = getattr(stage, "kind", ""), _Options(stage)
        below = self.start(str(options.model))
        if kind == "merge":
            return replace(below, below=0, quantised=None)
        if not options.use_peft or kind == "rerank":
            dtype = options.dtype if options.dtype != "auto" else below.dtype
            return replace(below, dtype="float32" if dtype == "auto" else dtype, quantised=None, below=0)
        added = lora_parameters(
            below.shape, options.lora_r, options.lora_target_modules, dora=options.use_dora
        )
        return replace(below, below=below.below + added, quantised=quantisation(stage, below))

    def _given(self, name: str) -> Start:
        if aliases.is_alias(name):
            alias, folder = aliases.ALIASES[name], aliases.folder_of(name)
            shape = Shape(
                hidden_size=alias.hidden_size,
                intermediate_size=alias.intermediate_size,
                num_hidden_layers=alias.num_hidden_layers,
                num_attention_heads=alias.num_attention_heads,
                num_key_value_heads=alias.num_key_value_heads,
                vocab_size=alias.vocab_size,
                tie_word_embeddings=alias.tie_word_embeddings,
                max_position_embeddings=alias.max_position_embeddings,
            )
            return Start(shape, name, folder if folder.is_dir() else None)
        local = (self.base / Path(name).expanduser()).absolute()
        folder = local if local.is_dir() else _cached(name)
        if folder is None:
            raise ModelError(
                "its shape is not known here: it is no alias, no folder, and not in the hub's cache",
                where=name,
                way_out=f"`heliograph fetch RECIPE` brings it, or `hf download {name} config.json tokenizer.json "
                "tokenizer_config.json`, or give the folder of a local copy; a plan guesses no shapes.",
            )
        return Start(read_shape(folder), name, folder)


class _Options:
    """A stage's settings by name, with what a kind that lacks them would have."""

    def __init__(self, stage: Stage) -> None:
        self.model: object = getattr(stage, "model", None)
        self.use_peft: bool = getattr(stage, "use_peft", False)
        self.lora_r: int = getattr(stage, "lora_r", 16)
        self.lora_target_modules: str | tuple[str, ...] = getattr(stage, "lora_target_modules", "all-linear")
        self.use_dora: bool = getattr(stage, "use_dora", False)
        self.dtype: str = getattr(stage, "dtype", "auto")


def quantisation(stage: Stage, start: Start) -> Mapping[str, Any] | None:
    """The stage's own, or that of the stage it starts from."""
    four, eight = getattr(stage, "load_in_4bit", None), getattr(stage, "load_in_8bit", None)
    if four:
        return {
            "kind": getattr(stage, "bnb_4bit_quant_type", "nf4"),
            "nested": getattr(stage, "use_bnb_nested_quant", False),
        }
    if eight:
        return {"kind": "int8", "nested": False}
    return None if four is False or eight is False else start.quantised


def _cached(name: str) -> Path | None:
    """The snapshot of a hub model whose config.json is in the cache of huggingface_hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    found = sorted(cache.glob("snapshots/*/config.json"), key=lambda file: file.stat().st_mtime)
    return found[-1].parent if found else None


def weights_in(folder: Path) -> int | None:
    """Parameters in the safetensors files of a folder, from their headers; None where there are none."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(size))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for width in tensor["shape"]:
                    count *= width
                total += count
    return total or None
