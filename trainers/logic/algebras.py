"""Numbers to evaluate an expansion with: floats, floats with their gradient, and mpmath."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import RecipeError
from trainers.logic.expansion import Expansion, fold
from trainers.logic.formula import prediction

_LN2 = math.log(2)


def log1mexp(x: float) -> float:
    """log(1 - exp(x)) for x < 0, accurate near 0 and far from it."""
    return math.log(-math.expm1(x)) if x > -_LN2 else math.log1p(-math.exp(x))


def logaddexp(x: float, y: float) -> float:
    top = max(x, y)
    return top + math.log1p(math.exp(-abs(x - y)))


def look_up(logps: Mapping[str, Any], name: str) -> Any:
    """A copied atom without a value of its own has that of the prediction it copies."""
    for key in (name, prediction(name)):
        if key in logps:
            return logps[key]
    raise RecipeError(
        f"no log-probability is given for {name}", way_out=f"given: {', '.join(logps) or 'none'}"
    )


@dataclass(frozen=True)
class Floats:
    logps: Mapping[str, float]
    floor: float = 0.0

    def atom(self, name: str) -> float:
        return float(look_up(self.logps, name))

    def complement(self, name: str) -> float:
        return log1mexp(min(self.atom(name), -self.floor))

    def add(self, parts: Sequence[float]) -> float:
        return math.fsum(parts)

    def logaddexp(self, left: float, right: float) -> float:
        return logaddexp(left, right)


@dataclass(frozen=True)
class Dual:
    """A value and its derivative with respect to each atom's log-probability."""

    value: float
    slope: Mapping[str, float]


@dataclass(frozen=True)
class Duals:
    """Forward-mode derivatives; the clamp passes the slope at the floor, as the compiled loss does."""

    logps: Mapping[str, float]
    floor: float = 0.0

    def atom(self, name: str) -> Dual:
        return Dual(float(look_up(self.logps, name)), {name: 1.0})

    def complement(self, name: str) -> Dual:
        x = min(float(look_up(self.logps, name)), -self.floor)
        return Dual(log1mexp(x), {name: math.exp(x) / math.expm1(x)})

    def add(self, parts: Sequence[Dual]) -> Dual:
        return Dual(math.fsum(p.value for p in parts), _mix([(1.0, p.slope) for p in parts]))

    def logaddexp(self, left: Dual, right: Dual) -> Dual:
        value = logaddexp(left.value, right.value)
        shares = [(math.exp(side.value - value), side.slope) for side in (left, right)]
        return Dual(value, _mix(shares))


def _mix(weighted: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    names = dict.fromkeys(name for _, slope in weighted for name in slope)
    return {name: math.fsum(w * slope.get(name, 0.0) for w, slope in weighted) for name in names}


@dataclass(frozen=True)
class Mpmath:
    """As many digits as `mp.mp.dps` says; the module is handed in because only checks need it."""

    mp: Any
    logps: Mapping[str, Any]

    def atom(self, name: str) -> Any:
        return look_up(self.logps, name)

    def complement(self, name: str) -> Any:
        return self.mp.log(-self.mp.expm1(self.atom(name)))

    def add(self, parts: Sequence[Any]) -> Any:
        return self.mp.fsum(parts)

    def logaddexp(self, left: Any, right: Any) -> Any:
        return self.mp.log(self.mp.exp(left) + self.mp.exp(right))


def rho(expansion: Expansion, logps: Mapping[str, float], floor: float = 0.0) -> float:
    numbers = Floats(logps, floor)
    return fold(expansion.top, numbers) - fold(expansion.bottom, numbers)


def rho_and_slope(
    expansion: Expansion, logps: Mapping[str, float], floor: float = 0.0
) -> tuple[float, dict[str, float]]:
    """rho and its derivative by log-probability; copies of an atom count towards the prediction they copy."""
    numbers = Duals(logps, floor)
    top, bottom = fold(expansion.top, numbers), fold(expansion.bottom, numbers)
    slope: dict[str, float] = {}
    for name, part in _mix([(1.0, top.slope), (-1.0, bottom.slope)]).items():
        key = name if name in logps else prediction(name)
        slope[key] = slope.get(key, 0.0) + part
    return top.value - bottom.value, slope
