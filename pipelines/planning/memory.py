"""The peak memory of a training step, part by part, counted from the shape of the model and one batch.

Follows the code that runs: what autograd keeps of transformers' decoder blocks, what our engine's head or TRL's holds
while it works, and what the optimiser adds. docs/planning.md has the arithmetic and how far off it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipelines.planning.layouts import Batch
from pipelines.planning.setup import FLOAT, Setup

HEAD_LOGITS = {"cpu": 2**24, "cuda": 2**28}
HEAD_ROWS_CPU, HEAD_ROWS_LEAST = 256, 16
"""Of trainers/engine/tiles.py: logits, and rows, that are made at once."""
TRL_ROWS, TRL_COLUMNS = 4096, 32768
"""The tile of logits that TRL's head works on."""
TRL_TILES = {"cpu": 8.25, "cuda": 1.0}
"""Matrices of a tile's size at once in its backward: torch's operators keep their steps, Triton's kernel none."""
KL_MATRICES = 5
"""Matrices of a piece of the vocabulary at once where two distributions are compared."""
HOLES = 0.33
"""Of what comes and goes in a step: memory between blocks in use, freed, and of no size that is asked for again. Found
by benchmarks/plan on glibc, where all else is counted to within some percent."""
HOLES_RECOMPUTED = 1.0
"""The same of the layers with checkpointing, where each block is made, freed, and made again among others."""
Moment = Literal["head", "block", "update"]
"""When most is in use: at the head, in the backward of the last block, or once all gradients are there."""
PARTS = (
    "weights", "file", "adapters", "gradients", "optimiser", "reference", "activations", "head", "working", "holes",
)  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """Bytes by part at the moment when most are in use."""

    parts: Mapping[str, float]
    moment: Moment

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def peak(setup: Setup, batch: Batch) -> Memory:
    """Of the second step and all later ones: from then on the optimiser's state is there too."""
    learnt = float(FLOAT * setup.learns)
    earlier = learnt if setup.accumulation > 1 else 0.0
    held = {
        "weights": setup.weights,
        "file": setup.mapped,
        "adapters": float(FLOAT * (setup.adapter + setup.saved_parameters + setup.below)),
        "optimiser": 2 * learnt,
        "reference": setup.copies * setup.weights,
    }
    table = FLOAT * setup.shape.vocab_size * setup.shape.hidden_size
    own_head = table if setup.learns_head else 0.0
    moments: dict[Moment, dict[str, float]] = {
        "head": held
        | {
            "gradients": earlier,
            "activations": activations(setup, batch),
            "head": head(setup, batch) + own_head,
        },
        "block": held
        | {
            "gradients": earlier + own_head,
            "activations": activations(setup, batch),
            "working": in_block(setup, batch),
        },
        # The table's gradient is made whole before it is added to what is there.
        "update": held | {"gradients": learnt, "working": 0.0 if setup.use_peft else table},
    }
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = moments[moment]
    if setup.device == "cpu":
        layers = parts.get("activations", 0.0) + parts.get("working", 0.0)
        share = HOLES_RECOMPUTED if setup.checkpointing else HOLES
        parts["holes"] = HOLES * parts.get("head", 0.0) + share * layers
    return Memory({name: parts[name] for name in PARTS if parts.get(name)}, moment)


def activations(setup: Setup, batch: Batch) -> float:
    """What the forward leaves for the backward."""
    layers = setup.shape.num_hidden_layers
    block = of_block(setup, batch)
    ends = batch.positions * setup.shape.hidden_size * setup.compute_bytes * (1 if setup.use_peft else 2)
    if setup.checkpointing:
        # The input of every block; one block is computed again, whole, in the backward.
        return layers * batch.positions * setup.shape.hidden_size * setup.compute_bytes + block + ends
    first = batch.positions * setup.shape.hidden_size * setup.compute_bytes if setup.use_peft else 0.0
    return layers * block + ends - first


def of_block(setup: Setup, batch: Batch) -> float:
    """What autograd keeps of one block."""
    shape, size = setup.shape, setup.compute_bytes
    wide, middle = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.query_width, shape.key_width
    names = {one.name for one in setup.adapted}
    full = not setup.use_peft

    def taken(*wanted: str) -> bool:
        """Whether these layers need their input again."""
        return full or bool(names & set(wanted))

    kept = 2 * wide  # what both norms read
    kept += 2 * wide if full else 0  # and, where their weights learn, what they multiply
    kept += wide * (taken("q_proj", "k_proj", "v_proj") + taken("gate_proj", "up_proj"))
    repeated = setup.engine != "padded" or batch.masked or keys == queries
    kept += queries + 2 * (queries if repeated else keys)  # as attention reads them
    kept += queries  # what it gives
    if setup.engine != "padded" and taken("o_proj"):
        kept += queries  # put together from its stretches
    kept += 3 * middle + (middle if taken("down_proj") else 0)  # gate, its silu, up, and their product
    if setup.use_peft:
        kept += setup.rank * len(setup.adapted)
        if setup.dropout:
            kept += sum(one.inputs for one in setup.adapted)
    found = float(batch.positions * kept * size)
    found += batch.positions * (2 + shape.num_attention_heads) * FLOAT  # the norms' scale, attention's sums
    if setup.use_peft and setup.dropout:
        found += batch.positions * sum(one.inputs for one in setup.adapted)  # masks, a byte each
    if size < FLOAT:
        found += batch.positions * 2 * wide * FLOAT  # norms are computed in float32
    return found + attention_extra(setup, batch)


def attention_extra(setup: Setup, batch: Batch) -> float:
    """Keys and values behind a shared prompt, once more for each answer, and the masks that are written out."""
    if setup.device == "cuda" and setup.engine != "padded":
        behind = sum(one.before + one.own for one in batch.stretches) if _shares(batch) else 0
        return float(2 * behind * setup.shape.key_width * setup.compute_bytes)
    again = sum(one.before + one.own for one in batch.stretches if one.before)
    masks = sum(one.own * (one.before + one.own) for one in batch.stretches if one.before) + batch.masked
    return float(2 * again * setup.shape.query_width * setup.compute_bytes + masks * setup.compute_bytes)


def _shares(batch: Batch) -> bool:
    return any(one.before for one in batch.stretches)


def in_block(setup: Setup, batch: Batch) -> float:
    """Gradients and copies at work in the backward of one block."""
    shape, size = setup.shape, setup.compute_bytes
    working = float(batch.positions * size * (3 * shape.intermediate_size + 2 * shape.hidden_size))
    largest = max(one.inputs * one.outputs for one in shape.linears())
    if setup.quantised in ("nf4", "fp4"):
        working += largest * size  # one matrix at a time, unpacked
    return working


def head(setup: Setup, batch: Batch) -> float:
    """What the projection onto the vocabulary holds while it works, beside a gradient of its own weights."""
    shape = setup.shape
    states = 2.0 * batch.scored * shape.hidden_size * FLOAT
    if setup.trl_head:
        rows, columns = min(batch.scored, TRL_ROWS), min(shape.vocab_size, TRL_COLUMNS)
        number = FLOAT if setup.device == "cpu" else setup.compute_bytes
        return TRL_TILES[setup.device] * rows * columns * number + states
    most = max(HEAD_ROWS_LEAST, HEAD_LOGITS[setup.device] // shape.vocab_size)
    rows = min(batch.scored, min(HEAD_ROWS_CPU, most) if setup.device == "cpu" else most)
    found = 2.0 * rows * shape.vocab_size * FLOAT + states
    if setup.distributions:
        # Afterwards, and over fewer rows: two heads, and what their difference is made of.
        pair = max(HEAD_ROWS_LEAST, HEAD_LOGITS[setup.device] // (3 * shape.vocab_size))
        found = max(found, KL_MATRICES * min(rows, pair) * shape.vocab_size * FLOAT + states)
    if setup.learns_head:
        found += shape.vocab_size * shape.hidden_size * FLOAT  # one piece's share, before it is added
    return found
