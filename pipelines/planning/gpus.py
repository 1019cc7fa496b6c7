"""The same stage on a GPU of a cluster, and the `resources:` to ask for: figures that were never measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.planning.cost import GPU_SHARE, GPU_TENSOR
from pipelines.planning.estimate import Estimate, Estimator, Here
from pipelines.stage import Stage

CARDS = (16e9, 24e9, 40e9, 48e9, 80e9, 141e9)
USABLE = 0.92
"""Of a card's memory; the rest is the driver's and lost between blocks."""
COMMON = "A100"
SLACK = 1.5
"""Hours asked for, over those predicted: data, saving, and a figure that was never measured."""


@dataclass(frozen=True)
class Proposal:
    """What to write under a stage for `heliograph submit`."""

    gpus: int
    hours: float | None
    card: float | None
    """The smallest usual card that holds it, in bytes; None: none of one GPU does."""
    estimate: Estimate

    @property
    def resources(self) -> dict[str, float]:
        found: dict[str, float] = {"gpus": self.gpus}
        return found | ({"hours": self.hours} if self.hours is not None else {})


def propose(estimator: Estimator, stage: Stage) -> Proposal | None:
    """One GPU: how a model that needs several is split is not counted here."""
    flops, memory = next((peak, size) for name, peak, size in GPU_TENSOR if name == COMMON)
    here = Here("cuda", COMMON, memory, memory, 8)
    found = estimator.estimate(stage, here)
    if found.memory is None:
        return None
    card = next((size for size in CARDS if found.total <= size * USABLE), None)
    hours = None
    if found.seconds is not None and flops * GPU_SHARE:
        # Loading and saving take minutes whatever the stage does.
        hours = max(0.25, math.ceil((found.seconds * SLACK / 3600 + 0.1) * 4) / 4)
    return Proposal(1, hours, card, found)
