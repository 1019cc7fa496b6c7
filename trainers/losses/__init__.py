"""From the names in a recipe to the number to train on; rows are weighted and reduced here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from data.errors import RecipeError
from trainers.losses.inputs import Divergence, Pairs, Rows, Settings
from trainers.losses.known import PAIRED, UNPAIRED, Inputs, Loss

__all__ = [
    "PAIRED",
    "UNPAIRED",
    "Divergence",
    "Loss",
    "Pairs",
    "Rows",
    "Settings",
    "Term",
    "Totals",
    "check",
    "combine",
    "judged",
    "judged_terms",
    "reduce",
    "sft_term",
    "step0",
    "terms",
    "totals",
]


@dataclass(frozen=True)
class Term(Generic[Inputs]):
    """One summand of a training loss."""

    loss: Loss[Inputs]
    weight: float = 1.0


def terms(
    names: Sequence[str], loss_weights: Sequence[float] | None = None, sft_weight: float | None = None
) -> tuple[Term[Pairs], ...]:
    """The summands that a recipe asks for; without `sft_weight`, each loss brings its own `sft` term."""
    weights = [1.0] * len(names) if loss_weights is None else list(loss_weights)
    if not names or len(weights) != len(names):
        raise RecipeError(
            f"{len(names)} losses and {len(weights)} loss_weights", way_out="give one weight for each loss"
        )
    unknown = [name for name in names if name not in PAIRED]
    if unknown:
        raise RecipeError(
            f"no loss over pairs is called {', '.join(unknown)}", way_out=f"there are {', '.join(PAIRED)}"
        )
    found = [Term(PAIRED[name], weight) for name, weight in zip(names, weights, strict=True)]
    if sft_weight is None:
        sft_weight = sum(term.weight * term.loss.sft_weight for term in found)
    return (*found, *sft_term(sft_weight))


def sft_term(weight: float) -> tuple[Term[Pairs], ...]:
    """The likelihood of the chosen answers beside another loss; none at weight 0."""
    return (Term(PAIRED["sft"], weight),) if weight else ()


def judged(names: Sequence[str]) -> bool:
    """Whether these losses are of single answers; a mixture of both kinds has no data it could be trained on."""
    single = [name for name in names if name in UNPAIRED]
    if single and len(single) < len(names):
        others = ", ".join(name for name in names if name not in single)
        raise RecipeError(
            f"{', '.join(single)} is a loss of single answers, and {others} of pairs",
            way_out="take losses of one kind",
        )
    return bool(single)


def judged_terms(
    names: Sequence[str], loss_weights: Sequence[float] | None = None, sft_weight: float | None = None
) -> tuple[Term[Rows], ...]:
    """The summands over single answers."""
    weights = [1.0] * len(names) if loss_weights is None else list(loss_weights)
    if len(weights) != len(names):
        raise RecipeError(
            f"{len(names)} losses and {len(weights)} loss_weights", way_out="give one weight for each loss"
        )
    if sft_weight:
        raise RecipeError("sft_weight has no effect on losses of single answers", way_out="leave it out")
    return tuple(Term(UNPAIRED[name], weight) for name, weight in zip(names, weights, strict=True))


def check(of: Sequence[Term[Inputs]], how: Settings, *, weighted: bool = False) -> None:
    """Refuses settings under which a loss has no value, or that no loss would read."""
    losses = [term.loss for term in of]
    names = ", ".join(loss.name for loss in losses)
    eps = how.label_smoothing
    if not (math.isfinite(how.beta) and how.beta > 0):
        raise RecipeError(f"beta is {how.beta}", way_out="it must be a finite number above 0")
    if not 0 <= eps < 0.5:
        raise RecipeError(f"label_smoothing is {eps}", way_out="it must be at least 0 and below 0.5")
    if eps and not any(loss.smooths for loss in losses):
        raise RecipeError(
            f"label_smoothing has no effect on {names}",
            way_out="leave it out; or take cdpo or robust, which are sigmoid with it",
        )
    if not eps and any(loss.name == "exo_pair" for loss in losses):
        raise RecipeError(
            "exo_pair needs label_smoothing above 0", way_out="set label_smoothing: 0.001, as its paper does"
        )
    # Above 1 the exponential side wins where the margin is negative, and overflows.
    if not 0 < how.discopop_tau <= 1:
        raise RecipeError(f"discopop_tau is {how.discopop_tau}", way_out="it lies above 0 and at most at 1")
    fixed = [loss.name for loss in losses if not loss.diverges]
    if how.f_divergence_type != "reverse_kl" and fixed:
        raise RecipeError(
            f"{', '.join(fixed)} has no form for f_divergence_type {how.f_divergence_type}",
            way_out="leave f_divergence_type at reverse_kl",
        )
    if weighted:
        _refuse_weights(losses)


def _refuse_weights(losses: Sequence[Loss[Inputs]]) -> None:
    ranked = [loss.name for loss in losses if loss.by_rank]
    if ranked:
        raise RecipeError(
            f"{', '.join(ranked)} sorts the batch: its losses belong to no row that could have a weight",
            way_out="leave the weights out, or take another loss",
        )


def step0(of: Sequence[Term[Inputs]], how: Settings) -> float | None:
    """The loss before the first step of a policy that is its own reference; None where the data decide it."""
    values = [(term.weight, term.loss.start(how)) for term in of]
    known = [weight * value for weight, value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def reduce(losses: Tensor, weights: Tensor | None = None, total: Tensor | float | None = None) -> Tensor:
    """The weighted mean: a row of weight 2 counts as the row twice, a batch of weight 0 gives 0.

    `total` is what to divide by where the mean goes over more than these rows: the weights of all
    micro-batches and processes of a step.
    """
    weights = torch.ones_like(losses) if weights is None else weights.to(losses)
    whole = weights.sum() if total is None else torch.as_tensor(total).to(losses)
    return (losses * weights).sum() / whole.clamp(min=torch.finfo(losses.dtype).tiny)


@dataclass(frozen=True)
class Totals:
    """What the means of a batch divide by; those of micro-batches and processes add up."""

    rows: Tensor
    tokens: Tensor

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.rows + other.rows, self.tokens + other.tokens)


def totals(inputs: Inputs, weights: Tensor | None = None) -> Totals:
    """The batch's rows and tokens, each row counted by its weight."""
    weights = torch.ones_like(inputs.first) if weights is None else weights.to(inputs.first)
    return Totals(weights.sum().detach(), (weights * inputs.tokens).sum().detach())


def combine(
    of: Sequence[Term[Inputs]],
    inputs: Inputs,
    how: Settings,
    *,
    weights: Tensor | None = None,
    over: Totals | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The number to train on, and by name this batch's mean of every loss in it before its `loss_weight`.

    `weights` are those of the rows; `over` is the sum of `totals` over all batches of a step, where the number is
    this batch's share of a mean over them all. Without both it is what TRL computes.
    """
    if weights is not None:
        _refuse_weights([term.loss for term in of])
    total, parts = inputs.first.new_zeros(()), dict[str, Tensor]()
    for term in of:
        losses = term.loss(inputs, how)
        by, whole = weights, over and over.rows
        if term.loss.by_tokens:
            by = inputs.tokens if weights is None else weights.to(losses) * inputs.tokens
            whole = over and over.tokens
        total = total + term.weight * reduce(losses, by, whole)
        parts[term.loss.name] = reduce(losses.detach(), by)
    return total, parts
