"""The value of a loss and its gradient in plain floats, and the value it must have before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.errors import RecipeError
from trainers.logic import algebras, links
from trainers.logic.expansion import expand
from trainers.logic.formula import prediction
from trainers.logic.links import Link
from trainers.logic.polynomial import starts_at_zero
from trainers.logic.structure import Structure

# 1 - p below this is taken for this: it bounds the gradient of log(1-p) by a million.
FLOOR = 1e-6


@dataclass(frozen=True)
class Measured:
    rho: float
    loss: float
    grad: dict[str, float]  # by atom, with respect to its log-probability


def constants(model: str, offset: float) -> dict[str, float]:
    """Log-probs of a model made by hand whose log-ratio of winner to loser is `offset`."""
    return {f"{model}.Winner": min(offset, 0.0), f"{model}.Loser": min(-offset, 0.0)}


def measure(
    structure: Structure,
    logps: Mapping[str, float],
    *,
    link: Link = "logistic",
    beta: float = 1.0,
    scale: float = 1.0,
    floor: float = FLOOR,
) -> Measured:
    check_beta(beta)
    for name, x in logps.items():
        if not math.isfinite(x) or x > 0:
            raise RecipeError(
                f"{x} is no log-probability of {name}", way_out="log-probs are finite and at most 0"
            )
    rho, slope = algebras.rho_and_slope(expand(structure), logps, floor)
    outer = scale * links.derivative(link, rho, beta)
    grad = {name: outer * part + 0.0 for name, part in slope.items()}
    return Measured(rho, scale * links.value(link, rho, beta), grad)


def check_beta(beta: float) -> None:
    if not (math.isfinite(beta) and beta > 0):
        raise RecipeError(f"beta is {beta}", way_out="it must be a finite number above 0")


def check_units(structure: Structure, *, averages: bool, allow_sums: bool = False) -> None:
    """Refuses summed log-probs for a structure in which they make 1 - p equal to 1."""
    if averages or allow_sums or not expand(structure).needs_length_normalisation:
        return
    raise RecipeError(
        "this loss uses 1 - p or a sum of probabilities, which summed log-probs turn into constants",
        way_out="train on per-token averages, or allow sums explicitly",
    )


def step0_value(
    structure: Structure,
    link: Link,
    beta: float,
    logps: Mapping[str, float | Iterable[float]] | None = None,
    *,
    scale: float = 1.0,
    floor: float = FLOOR,
) -> float:
    """The mean loss that must be seen while policy and reference are the same model.

    Reference atoms are read from the policy's log-probs, so a reference that differs shows as a difference.
    Without log-probs only structures whose rho is then 0 have a value: DPO ln 2, IPO 1/(4 beta^2).
    """
    check_beta(beta)
    if starts_at_zero(structure):
        return scale * links.value(link, 0.0, beta)
    if logps is None:
        raise RecipeError(
            "the value at step 0 of this loss depends on the log-probs",
            way_out="give those of the first batch",
        )
    columns = {name: _column(values) for name, values in logps.items()}
    tied = {name: _tied(columns, name) for name in structure.atoms}
    sizes = {len(values) for values in tied.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise RecipeError(f"the atoms have different numbers of log-probs: {sorted(sizes)}")
    losses = [
        links.value(link, algebras.rho(expand(structure), dict(zip(tied, point, strict=True)), floor), beta)
        for point in zip(*tied.values(), strict=True)
    ]
    return scale * math.fsum(losses) / len(losses)


def _column(values: float | Iterable[float]) -> list[float]:
    return [float(x) for x in values] if isinstance(values, Iterable) else [float(values)]


def _tied(columns: Mapping[str, Sequence[float]], name: str) -> Sequence[float]:
    policy = name.removeprefix("Ref.")
    # A loss of one answer and its reference may come without the policy's other answer.
    return algebras.look_up(columns, policy if prediction(policy) in columns or policy in columns else name)
