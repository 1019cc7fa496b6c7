"""The value of a loss and its gradient in plain floats, and the value it must have before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from data.errors import RecipeError
from trainers.logic import algebras, links
from trainers.logic.expansion import expand
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
    check_floor(floor)
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


def check_floor(floor: float) -> None:
    if not 0 < floor < 1:
        raise RecipeError(f"the floor of 1 - p is {floor}", way_out="it must lie between 0 and 1")


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
    constant: str | None = None,
    offset: float | Iterable[float] = 0.0,
) -> float:
    """The mean loss that must be seen while policy and reference are the same model.

    Reference atoms are read from the policy's log-probs, so a reference that differs shows as a difference.
    Without log-probs only structures whose rho is then 0 have a value: DPO ln 2, IPO 1/(4 beta^2).
    """
    check_beta(beta)
    check_floor(floor)
    if constant is None and starts_at_zero(structure):
        return scale * links.value(link, 0.0, beta)
    if logps is None:
        raise RecipeError(
            "the value at step 0 of this loss depends on the log-probs",
            way_out="give those of the first batch",
        )
    columns = {name: _column(values) for name, values in logps.items()}
    size = max((len(values) for values in columns.values()), default=0)
    if constant is not None:
        gaps = _column(offset)
        made = [constants(constant, gap) for gap in (gaps * size if len(gaps) == 1 else gaps)]
        columns |= {name: [each[name] for each in made] for name in constants(constant, 0.0)}
    tied = {name: _tied(columns, name, constant) for name in structure.atoms}
    wrong = {name: len(values) for name, values in tied.items() if len(values) != size}
    if wrong or not size:
        raise RecipeError(f"a batch of {size} needs {size} log-probs of each atom: found {wrong}")
    losses: list[float] = []
    for i in range(size):
        point = {name: values[i] for name, values in tied.items()}
        losses.append(links.value(link, algebras.rho(expand(structure), point, floor), beta))
    return scale * math.fsum(losses) / size


def _column(values: float | Iterable[float]) -> list[float]:
    # A tensor without dimensions is iterable by type only.
    if isinstance(values, Iterable) and getattr(values, "ndim", 1):
        return [float(x) for x in values]
    return [float(cast(float, values))]


def _tied(columns: Mapping[str, Sequence[float]], name: str, constant: str | None) -> Sequence[float]:
    made = constant is not None and name.startswith(f"{constant}.")
    return algebras.look_up(columns, name if made else name.removeprefix("Ref."))
