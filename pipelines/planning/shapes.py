"""What a model's cost depends on: the sizes in its config.json, and how many parameters follow from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from data.errors import ModelError

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "olmo2", "helium"})
"""Decoders of one plan: grouped-query attention, a gated MLP of three matrices, RMS norms."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


class Linear(NamedTuple):
    """A linear layer of one block: its name, and the widths it goes between."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Shape:
    """A decoder, under transformers' names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int | None = None
    head_dim: int = 0
    attention_bias: bool = False
    qkv_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    model_type: str = "llama"
    dtype: str = "float32"
    """Of the weights in the file."""
    sliding_window: int | None = None

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_width

    @property
    def key_width(self) -> int:
        return self.num_key_value_heads * self.head_width

    def linears(self) -> tuple[Linear, ...]:
        """Those of one block, in the order they run."""
        width, middle = self.hidden_size, self.intermediate_size
        return (
            Linear("q_proj", width, self.query_width),
            Linear("k_proj", width, self.key_width),
            Linear("v_proj", width, self.key_width),
            Linear("o_proj", self.query_width, width),
            Linear("gate_proj", width, middle),
            Linear("up_proj", width, middle),
            Linear("down_proj", middle, width),
        )

    @property
    def block_linear_parameters(self) -> int:
        """Of the matrices of one block: what 4-bit quantisation takes."""
        return sum(one.inputs * one.outputs for one in self.linears())

    @property
    def block_parameters(self) -> int:
        biases = 0
        if self.attention_bias:
            biases += self.query_width + 2 * self.key_width + self.hidden_size
        elif self.qkv_bias:
            biases += self.query_width + 2 * self.key_width
        if self.mlp_bias:
            biases += 2 * self.intermediate_size + self.hidden_size
        norms = 2 * self.hidden_size + (2 * self.head_width if self.qk_norm else 0)
        return self.block_linear_parameters + biases + norms

    @property
    def embedding_parameters(self) -> int:
        """The table of tokens, and the head where it has weights of its own."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def parameters(self) -> int:
        blocks = self.num_hidden_layers * self.block_parameters
        return blocks + self.embedding_parameters + self.hidden_size

    @property
    def trunk_parameters(self) -> int:
        """What every token passes: the blocks, without the table and the head."""
        return self.num_hidden_layers * self.block_linear_parameters


def read_shape(folder: Path) -> Shape:
    """The shape in a model folder's config.json; ModelError where it is of a kind that no figure here is made for."""
    file = folder / "config.json"
    try:
        found: object = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise ModelError("the model folder has no config.json", where=str(folder)) from missing
    except (OSError, ValueError) as broken:
        raise ModelError(f"config.json cannot be read: {broken}", where=str(file)) from broken
    if not isinstance(found, dict):
        raise ModelError("config.json is not a mapping", where=str(file))
    return shape_of(cast("dict[str, Any]", found), str(file))


def shape_of(config: Mapping[str, Any], where: str) -> Shape:
    kind = str(config.get("model_type", ""))
    try:
        if kind not in FAMILIES:
            raise ModelError(
                f"models of the kind `{kind}` are not counted here",
                where=where,
                way_out=f"counted are {', '.join(sorted(FAMILIES))}; `heliograph plan --measure` runs a step of any.",
            )
        return _decoder(config, kind)
    except (KeyError, TypeError, ValueError) as missing:
        raise ModelError(f"config.json has no usable {missing}", where=where) from missing


def _decoder(config: Mapping[str, Any], kind: str) -> Shape:
    heads = int(config["num_attention_heads"])
    window = config.get("sliding_window") if config.get("use_sliding_window", kind == "mistral") else None
    return Shape(
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_hidden_layers=int(config["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        vocab_size=int(config["vocab_size"]),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        max_position_embeddings=config.get("max_position_embeddings"),
        head_dim=int(config.get("head_dim") or 0),
        attention_bias=bool(config.get("attention_bias", False)),
        qkv_bias=kind == "qwen2",
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=kind in ("qwen3", "olmo2"),
        model_type=kind,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        sliding_window=window,
    )


def adapted(shape: Shape, targets: str | tuple[str, ...]) -> Iterator[Linear]:
    """The layers of one block that get an adapter."""
    for one in shape.linears():
        if isinstance(targets, str):
            part = "mlp" if one.name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            # A text is a pattern over whole names, as PEFT takes it.
            if targets == "all-linear" or re.fullmatch(targets, f"model.layers.0.{part}.{one.name}"):
                yield one
        elif one.name in targets:
            yield one


def lora_parameters(shape: Shape, rank: int, targets: str | tuple[str, ...], *, dora: bool = False) -> int:
    """A is [rank, inputs] and B [outputs, rank]; DoRA adds a length for each output."""
    block = sum(
        rank * (one.inputs + one.outputs) + (one.outputs if dora else 0) for one in adapted(shape, targets)
    )
    return shape.num_hidden_layers * block


def nf4_bytes(parameters: int, *, nested: bool = False) -> int:
    """Half a byte a weight, and for every 64 of them a constant: float32, or one byte where they are quantised too."""
    constants = parameters // 64
    # Nested constants are themselves in blocks of 256, each with a float32.
    return parameters // 2 + (constants + constants // 256 * 4 if nested else constants * 4)


def int8_bytes(parameters: int, outputs: int) -> int:
    """A byte a weight, and a float32 for each output."""
    return parameters + 4 * outputs
