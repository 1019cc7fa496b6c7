"""Every loss by its name, with what a trainer must know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from trainers.losses import pairs as pair
from trainers.losses import unpaired as single
from trainers.losses.inputs import Pairs, Rows, Settings

Inputs = TypeVar("Inputs", Pairs, Rows)
Start = Callable[[Settings], float | None]


def _unknown(how: Settings) -> None:
    return None


@dataclass(frozen=True)
class Loss(Generic[Inputs]):
    """A loss function and what a trainer must know of it."""

    name: str
    function: Callable[[Inputs, Settings], Tensor]
    start: Start = _unknown
    """Its value where policy and reference are the same model; None where that depends on the data."""
    needs_reference: bool = True
    length_normalised: bool = False
    beta: float = 0.1
    """The default."""
    sft_weight: float = 0.0
    """Weight of the `sft` term that its paper or TRL adds by default."""
    smooths: bool = False
    """Reads `label_smoothing`."""
    diverges: bool = False
    """Reads `f_divergence_type`."""
    by_tokens: bool = False
    """A row counts by its tokens: the mean over the batch is a mean over tokens."""
    by_rank: bool = False
    """Sorts the batch, so that a loss belongs to no row."""

    def __call__(self, inputs: Inputs, how: Settings) -> Tensor:
        """One loss for each row, in float32 at least and outside autocast."""
        with torch.autocast(device_type=inputs.first.device.type, enabled=False):
            return self.function(inputs, how)


def _constant(value: float) -> Start:
    return lambda how: value


_LN2 = math.log(2)


def _ipo_start(how: Settings) -> float:
    return 1 / (4 * how.beta**2)


def _exo_start(how: Settings) -> float:
    eps = how.label_smoothing
    return -_LN2 - 0.5 * (math.log1p(-eps) + math.log(eps))


def _prospect_start(how: Settings) -> float | None:
    # With unlike weights it depends on how many answers of the batch are wanted.
    alike = how.desirable_weight == how.undesirable_weight
    return how.desirable_weight / 2 if alike else None


_P, _R = Loss[Pairs], Loss[Rows]

PAIRED: Mapping[str, Loss[Pairs]] = {
    loss.name: loss
    for loss in (
        # TRL's DPOTrainer, in its order.
        _P("sigmoid", pair.sigmoid, _constant(_LN2), diverges=True),
        _P("hinge", pair.hinge, _constant(1.0), diverges=True),
        _P("ipo", pair.ipo, _ipo_start, length_normalised=True, diverges=True),
        _P("exo_pair", pair.exo_pair, _exo_start, smooths=True, diverges=True),
        _P("nca_pair", pair.nca_pair, _constant(2 * _LN2)),
        _P("robust", pair.robust, _constant(_LN2), smooths=True, diverges=True),
        _P("bco_pair", pair.bco_pair, _constant(2 * _LN2)),
        _P("sppo_hard", pair.sppo_hard, lambda how: 1 / (2 * how.beta**2)),
        _P("aot", pair.aot, _constant(_LN2), smooths=True, by_rank=True),
        _P("aot_unpaired", pair.aot_unpaired, _constant(_LN2), smooths=True, by_rank=True),
        _P("apo_zero", pair.apo_zero, _constant(1.0)),
        _P("apo_down", pair.apo_down, _constant(1.0)),
        _P("discopop", pair.discopop, _constant((_LN2 + 1) / 2), diverges=True),
        # TRL lets `sft` stand beside an f-divergence, which it does not read.
        _P("sft", pair.sft, needs_reference=False, length_normalised=True, diverges=True, by_tokens=True),
        _P("sigmoid_norm", pair.sigmoid_norm, _constant(_LN2), length_normalised=True, diverges=True),
        # Ours, and those of TRL's other trainers.
        _P("cdpo", pair.cdpo, _constant(_LN2), smooths=True, diverges=True),
        _P("cpo", pair.cpo, needs_reference=False, smooths=True, sft_weight=1.0),
        _P("cpo_hinge", pair.cpo_hinge, needs_reference=False, sft_weight=1.0),
        _P("cpo_ipo", pair.cpo_ipo, needs_reference=False, length_normalised=True, sft_weight=1.0),
        _P("simpo", pair.simpo, needs_reference=False, length_normalised=True, beta=2.0, smooths=True),
        _P("orpo", pair.orpo, needs_reference=False, length_normalised=True, sft_weight=1.0),
    )
}

UNPAIRED: Mapping[str, Loss[Rows]] = {
    loss.name: loss
    for loss in (
        _R("ga", single.ga, needs_reference=False, length_normalised=True, by_tokens=True),
        _R("npo", single.npo, lambda how: 2 / how.beta * _LN2),
        _R("simnpo", single.simnpo, needs_reference=False, length_normalised=True, beta=4.5),
        _R("kto", single.kto, _prospect_start),
        _R("apo_zero_unpaired", single.apo_zero_unpaired, _prospect_start),
        _R("nll", single.nll, needs_reference=False, length_normalised=True, by_tokens=True),
    )
}
