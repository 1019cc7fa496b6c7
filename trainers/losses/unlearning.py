"""Forgetting by name: what each method takes away, what it keeps, and the losses that stand in no other family.

A training loss is gamma * forget + alpha * retain. `ga`, `npo` and `simnpo` read the answer to forget alone;
`idk_dpo` and `flat` a pair, whose chosen answer is the template ("I don't know") and whose rejected one is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import RecipeError
from trainers.engine.logprobs import sums
from trainers.losses.inputs import Pairs, Rows, Settings, average, reference_of
from trainers.losses.known import UNPAIRED, Loss
from trainers.losses.pairs import sigmoid

Retain = Literal["nll", "kl"]
FlatDivergence = Literal["kl", "tv", "js", "pearson"]

# Each would lower the template and raise the answer to forget, by the signs of its derivatives at probabilities.
_WRONG_SIGN = ("reverse_kl", "squared_hellinger", "neyman")


# ---------------------------------------------------------------- per-answer quantities


def answer_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """Token values summed by answer; answer i owns those from offsets[i] to offsets[i + 1], as in `Scored`."""
    return sums(values, offsets)


def answer_means(values: Tensor, offsets: Tensor) -> Tensor:
    """Token values averaged over each answer's own tokens; 0 for an answer without tokens."""
    return average(sums(values, offsets), offsets.diff().to(values.device))


def mean_probability(token_logps: Tensor, offsets: Tensor) -> Tensor:
    """The mean of an answer's token probabilities (not of their logarithms), which FLAT reads."""
    return answer_means(token_logps.exp(), offsets)


# ---------------------------------------------------------------- pairs: template and answer to forget


def idk_dpo(pairs: Pairs, how: Settings) -> Tensor:
    """DPO with a refusal as the chosen answer, scaled by 2 / beta as NPO is (arXiv 2404.05868)."""
    return 2 / how.beta * sigmoid(pairs, how)


@dataclass(frozen=True)
class _Flat:
    """g* and f*(g*) of one divergence, as functions of a mean probability."""

    reward: Callable[[Tensor], Tensor]
    penalty: Callable[[Tensor], Tensor]


def _half_tanh(v: Tensor) -> Tensor:
    return torch.tanh(v) / 2


_FLAT: Mapping[FlatDivergence, _Flat] = {
    "kl": _Flat(lambda v: v, lambda v: torch.exp(v - 1)),
    "tv": _Flat(_half_tanh, _half_tanh),
    "js": _Flat(
        lambda v: math.log(2) - F.softplus(-v),
        lambda v: v + F.softplus(-v) - math.log(2),
    ),
    "pearson": _Flat(lambda v: v, lambda v: v**2 / 4 + v),
}


def check_flat(divergence: str) -> None:
    """Refuses a divergence that FLAT cannot be run with, and says why."""
    if divergence in _WRONG_SIGN:
        raise RecipeError(
            f"flat with {divergence} would learn the answer that is to be forgotten: in FLAT's public code its "
            "loss rises with the template's probability and falls with the other's",
            way_out=f"take one of {', '.join(get_args(FlatDivergence))}",
        )
    if divergence not in get_args(FlatDivergence):
        raise RecipeError(
            f"flat has no divergence {divergence!r}",
            way_out=f"it is one of {', '.join(get_args(FlatDivergence))}",
        )


def flat(template: Tensor, forget: Tensor, divergence: FlatDivergence = "tv") -> Tensor:
    """FLAT (arXiv 2410.11143): -(g*(P of template) - f*(g*(P of forget))), of `mean_probability`s of each pair.

    The means run over each answer's own tokens; the public code's run over prompts and padding too, so that its loss
    is smaller by a factor that the batch decides.
    """
    check_flat(divergence)
    form = _FLAT[divergence]
    return form.penalty(forget) - form.reward(template)


# ---------------------------------------------------------------- what a person watches


@torch.no_grad()
def npo_weight(rows: Rows, how: Settings) -> Tensor:
    """NPO's weight on each answer's gradient: 1 at the start, 0 once it is forgotten, below 2 always."""
    return 2 * torch.sigmoid(how.beta * (rows.logps - reference_of("ref_logps", rows.ref_logps)))


@torch.no_grad()
def simnpo_weight(rows: Rows, how: Settings) -> Tensor:
    """SimNPO's weight on the gradient of each answer's summed log-probability."""
    inside = how.beta * average(rows.logps, rows.length) + how.simnpo_gamma
    return average(2 * torch.sigmoid(inside), rows.length)


# ---------------------------------------------------------------- the methods


@dataclass(frozen=True)
class Method:
    """A way of forgetting with open-unlearning's or its paper's defaults."""

    name: str
    forget: Loss[Rows] | Loss[Pairs] | None
    """None for `flat`, which reads mean probabilities in place of sums."""
    gamma: float = 1.0
    """Weight of the forget term."""
    alpha: float = 1.0
    """Weight of the retain term; 0: without one."""
    template: bool = False
    """Trains on pairs: the template answer and the answer to forget."""

    @property
    def beta(self) -> float | None:
        return self.forget.beta if self.forget is not None and self.name not in ("ga", "graddiff") else None

    def needs_reference(self, retain: Retain | None) -> bool:
        """Whether the model before forgetting must be kept: for the forget term, or to measure KL against."""
        return retain == "kl" or (self.forget is not None and self.forget.needs_reference)


def _idk_start(how: Settings) -> float:
    return 2 / how.beta * math.log(2)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("ga", UNPAIRED["ga"], alpha=0.0),
        Method("graddiff", UNPAIRED["ga"]),
        Method("npo", UNPAIRED["npo"]),
        Method("simnpo", UNPAIRED["simnpo"], gamma=0.125),
        Method("idk_dpo", Loss[Pairs]("idk_dpo", idk_dpo, _idk_start, diverges=True), template=True),
        Method("flat", None, alpha=0.0, template=True),
    )
}
