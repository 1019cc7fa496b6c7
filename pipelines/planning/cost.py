"""Steps, tokens, operations and time of a training stage, from the lengths of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.planning.layouts import Batch, Row, lay_out
from pipelines.planning.setup import Device, Setup

CPU_CORE = {"avx512f": 60e9, "avx2": 30e9, "": 10e9}
"""Operations a second that a core does in float32, by what it has. The first is the middle of what benchmarks/plan
measured on one core; the others were not measured."""
GPU_TENSOR: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250e12, 180e9), ("H200", 989e12, 141e9), ("H100", 989e12, 80e9), ("A100", 312e12, 80e9),
    ("L40", 181e12, 48e9), ("A6000", 155e12, 48e9), ("4090", 165e12, 24e9), ("L4", 121e12, 24e9),
    ("A10", 125e12, 24e9), ("V100", 112e12, 32e9), ("T4", 65e12, 16e9),
)  # fmt: skip
"""Names of GPUs, bfloat16 (float16) operations a second on their data sheets, and bytes of memory."""
GPU_SHARE = 0.35
"""Of the data sheet that training reaches; a usual figure, not measured here."""


@dataclass(frozen=True)
class Steps:
    """How often the stage's loop turns."""

    per_epoch: int
    total: int
    epochs: float
    rows_per_step: int


def steps(rows: float, batch_size: int, accumulation: int, epochs: float, max_steps: int) -> Steps:
    """As transformers counts them: the last batch of an epoch may be short, and so may its last step."""
    batches = math.ceil(round(rows) / batch_size)
    per_epoch = max(1, math.ceil(batches / accumulation))
    total = max_steps if max_steps > 0 else math.ceil(epochs * per_epoch)
    return Steps(per_epoch, total, total / per_epoch, batch_size * accumulation)


def operations(setup: Setup, batch: Batch) -> float:
    """Floating-point operations of one forward and backward over the batch."""
    once = forward(setup, batch)
    trunk = 2.0 * setup.shape.trunk_parameters * batch.positions
    attention = once - trunk
    # Gradients of the states cost as much as the forward; those of the weights again, where weights learn.
    backward = trunk * (1 if setup.use_peft else 2) + 2 * attention
    adapters = 6.0 * setup.adapter * batch.positions + 2.0 * setup.below * batch.positions
    again = once if setup.checkpointing else 0.0
    return once + backward + adapters + again + head_operations(setup, batch)


def forward(setup: Setup, batch: Batch) -> float:
    """Of the layers alone."""
    attention = 4.0 * batch.pairs * setup.shape.query_width * setup.shape.num_hidden_layers
    return 2.0 * setup.shape.trunk_parameters * batch.positions + attention


def head_operations(setup: Setup, batch: Batch) -> float:
    """Once for the logits and once for the states' gradient; made again where the head is TRL's, or learns."""
    once = 2.0 * setup.shape.hidden_size * setup.shape.vocab_size * batch.scored
    return once * (2 + (setup.trl_head or setup.learns_head) + setup.learns_head)


def reference_operations(setup: Setup, rows: Sequence[Row], weights: Sequence[float]) -> float:
    """One forward over every answer, before the first step."""
    total = 0.0
    for row, weight in zip(rows, weights, strict=True):
        batch = lay_out([row], setup.engine)
        total += weight * (
            forward(setup, batch) + 2.0 * setup.shape.hidden_size * setup.shape.vocab_size * batch.scored
        )
    return total


def pace(device: Device, name: str, cores: int, flags: Sequence[str]) -> tuple[float, str]:
    """Operations a second, and where the figure is from."""
    if device == "cuda":
        for known, peak, _ in GPU_TENSOR:
            if known.lower() in name.lower():
                return peak * GPU_SHARE, f"{GPU_SHARE:.0%} of the {known}'s data sheet"
        return 100e12 * GPU_SHARE, f"{GPU_SHARE:.0%} of 100 TFLOP/s: the GPU is not known"
    best: Literal["avx512f", "avx2", ""] = (
        "avx512f" if "avx512f" in flags else "avx2" if "avx2" in flags else ""
    )
    return cores * CPU_CORE[best], f"{cores} x {CPU_CORE[best] / 1e9:.0f} GFLOP/s, a usual figure"


def mean_batch(rows: Sequence[Row], weights: Sequence[float], batch_size: int, engine: str) -> Batch:
    """A batch as it comes on average: rows spread evenly over all lengths, as a shuffle gives them."""
    ordered = sorted(zip(rows, weights, strict=True), key=lambda pair: pair[0].longest)
    total = sum(weights)
    chosen: list[Row] = []
    reached, place = 0.0, 0
    for i in range(batch_size):
        at = (i + 0.5) * total / batch_size
        while place < len(ordered) - 1 and reached + ordered[place][1] < at:
            reached += ordered[place][1]
            place += 1
        chosen.append(ordered[place][0])
    return lay_out(chosen, engine)  # pyright: ignore[reportArgumentType]
