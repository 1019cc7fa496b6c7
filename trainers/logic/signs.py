"""In which direction rho moves with each probability, tested exactly on a grid of rationals."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import Literal

from trainers.logic import tables
from trainers.logic.polynomial import count
from trainers.logic.structure import Structure

Sign = Literal["+", "-", "0", "mixed"]


@lru_cache(maxsize=1024)
def sign(structure: Structure, name: str) -> Sign:
    """Of d rho / d log p for one atom: it never changes (+, -, 0) or it does (mixed)."""
    if name not in structure.atoms:
        return "0"
    i, n = structure.atoms.index(name), len(structure.atoms)
    others = tuple(a for a in structure.atoms if a != name)

    def side(mask: int, value: bool) -> int:
        return tables.rewrite(tables.cofactor(mask, i, n, value), structure.atoms, others)

    # With T = p T1 + (1-p) T0 and the same for B, the slope of T/B has the sign of T1 B0 - T0 B1, without p.
    t1, t0 = side(structure.t, True), side(structure.t, False)
    b1, b0 = side(structure.b, True), side(structure.b, False)
    seen: set[Sign] = {
        _direction(
            count(t1, others, at) * count(b0, others, at) - count(t0, others, at) * count(b1, others, at)
        )
        for at in _interior(others)
    }
    seen.discard("0")
    if not seen:
        return "0"
    return seen.pop() if len(seen) == 1 else "mixed"


def _direction(x: Fraction | int) -> Sign:
    return "+" if x > 0 else "-" if x < 0 else "0"


def _interior(atoms: tuple[str, ...]) -> Iterable[dict[str, Fraction]]:
    # 11 points for the two-atom losses; fewer where the grid has more dimensions.
    steps = 11 if len(atoms) <= 2 else 5 if len(atoms) == 3 else 2
    points = [Fraction(k, steps + 1) for k in range(1, steps + 1)]
    for values in product(points, repeat=len(atoms)):
        yield dict(zip(atoms, values, strict=True))


def is_monotone(structure: Structure) -> bool:
    """Whether rho never falls when the winner rises and never rises when the loser does."""
    return sign(structure, "Winner") in ("+", "0") and sign(structure, "Loser") in ("-", "0")
