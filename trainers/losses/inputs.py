"""What a loss is computed from: sums of token log-probabilities, token counts, and its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import RecipeError
from trainers.logic.compiled import ClampCount

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

# Where exp goes on along its tangent: there an f-divergence is 1e13 already, and its square, with a log-ratio
# of 1e5 beyond, still fits float32. TRL stops alpha_divergence dead at 80 and lets forward_kl overflow.
_EXP_CAP = 30.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of pairs; log-probabilities are summed over the answer's tokens, all tensors have one dimension."""

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    """Answer tokens that were summed."""
    rejected_length: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    chosen_plain: Tensor | None = None
    """The chosen sums before `ld_alpha`, where it is used: the likelihood of `sft` is without it, as in TRL."""

    def __post_init__(self) -> None:
        _settle(self, "chosen", "rejected", "ref_chosen", "ref_rejected", "chosen_plain")

    @property
    def first(self) -> Tensor:
        """Any of the sums, for its device and type."""
        return self.chosen

    @property
    def tokens(self) -> Tensor:
        """The tokens that a mean over tokens counts."""
        return self.chosen_length


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of single answers; log-probabilities are summed over the answer's tokens."""

    logps: Tensor
    length: Tensor
    """Answer tokens that were summed."""
    ref_logps: Tensor | None = None
    label: Tensor | None = None
    """True where the answer is wanted (KTO and its relatives)."""
    kl: Tensor | None = None
    """KTO's baseline: mean log-ratio of mismatched answers over all processes, detached, at least 0."""

    def __post_init__(self) -> None:
        _settle(self, "logps", "ref_logps")

    @property
    def first(self) -> Tensor:
        """Any of the sums, for its device and type."""
        return self.logps

    @property
    def tokens(self) -> Tensor:
        """The tokens that a mean over tokens counts."""
        return self.length


@dataclass(frozen=True)
class Settings:
    """The numbers of all losses under TRL's names; each loss reads its own."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    f_divergence_type: Divergence = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    discopop_tau: float = 0.05
    simpo_gamma: float = 0.5
    """SimPO's margin inside the sigmoid: beta times the margin between the two averages."""
    simnpo_gamma: float = 0.0
    """SimNPO's gamma (arXiv 2410.07163); open-unlearning's delta times beta."""
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    clamps: ClampCount | None = field(default=None, compare=False, repr=False)
    """Counts the values of log(1 - p) at their floor, where given."""


def _settle(inputs: Pairs | Rows, *names: str) -> None:
    # A bf16 sum cannot tell two close answers apart, and 1 - p is 0 in it from p = 0.998 on.
    shape = inputs.first.shape
    for name in names:
        value = getattr(inputs, name)
        if value is None:
            continue
        if value.dim() != 1 or value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, not one number a row as {tuple(shape)}")
        object.__setattr__(inputs, name, value if value.dtype == torch.float64 else value.float())


def average(sums: Tensor, length: Tensor) -> Tensor:
    """Per token; an answer without tokens has sum and average 0, as in TRL."""
    return sums / length.clamp(min=1)


def reference_of(name: str, reference: Tensor | None) -> Tensor:
    """The reference's sums, or an error that says which are missing."""
    if reference is None:
        raise RecipeError(
            f"this loss needs {name}", way_out="give it the reference's log-probs, or take a loss without one"
        )
    return reference


def log_ratios(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """log(policy / reference) of the chosen and of the rejected answers."""
    return (
        pairs.chosen - reference_of("ref_chosen", pairs.ref_chosen),
        pairs.rejected - reference_of("ref_rejected", pairs.ref_rejected),
    )


def scores(pairs: Pairs, how: Settings) -> tuple[Tensor, Tensor]:
    """f'(policy / reference) of both answers (arXiv 2309.16240), less its value at 1; log-ratios for reverse_kl."""
    chosen, rejected = log_ratios(pairs)
    return _score(chosen, how), _score(rejected, how)


def _score(log_ratio: Tensor, how: Settings) -> Tensor:
    match how.f_divergence_type:
        case "reverse_kl":
            return log_ratio
        case "forward_kl":
            return -_expm1(-log_ratio)
        case "js_divergence":
            return math.log(2) + F.logsigmoid(log_ratio)
        case "alpha_divergence":
            order = how.f_alpha_divergence_coef - 1
            # The limit, where TRL takes it.
            return log_ratio if abs(order) < 1e-6 else _expm1(order * log_ratio) / order


def _expm1(x: Tensor) -> Tensor:
    beyond = torch.relu(x - _EXP_CAP) * math.exp(_EXP_CAP)
    return torch.expm1(x.clamp(max=_EXP_CAP)) + beyond
