"""Exact weighted model counting, and when two structures compute the same ratio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import TypeAlias

from trainers.logic import tables
from trainers.logic.formula import order
from trainers.logic.structure import Structure

# Integers stay integers: they are points of the grids below, and many times faster.
Number: TypeAlias = Fraction | int
Weights = Mapping[str, Number]


def count(mask: int, atoms: Sequence[str], weights: Weights) -> Number:
    """The summed weight of the rows, each atom being true independently with its own probability."""
    pairs = [(1 - weights[name], weights[name]) for name in atoms]
    return _count(mask, len(atoms), pairs)


def _count(mask: int, n: int, pairs: Sequence[tuple[Number, Number]]) -> Number:
    if not mask:
        return 0
    if mask == tables.full(n):
        return 1
    # The last atom splits the integer into two halves: false below, true above.
    half = 1 << (n - 1)
    low, high = mask & ((1 << half) - 1), mask >> half
    absent, present = pairs[n - 1]
    return absent * _count(low, n - 1, pairs) + present * _count(high, n - 1, pairs)


def ratio(structure: Structure, weights: Weights) -> Fraction:
    """exp(rho), exactly."""
    top, bottom = (count(side, structure.atoms, weights) for side in (structure.t, structure.b))
    return Fraction(top) / Fraction(bottom)


def same_ratio(one: Structure, other: Structure) -> bool:
    """Whether rho agrees for all probabilities, which structures with common factors can without being equal."""
    atoms = order((*one.atoms, *other.atoms))
    (t1, b1), (t2, b2) = one.on(atoms), other.on(atoms)

    def crosswise(point: Weights) -> bool:
        left = count(t1, atoms, point) * count(b2, atoms, point)
        return left == count(t2, atoms, point) * count(b1, atoms, point)

    return all(crosswise(point) for point in grid(atoms, 2))


def starts_at_zero(structure: Structure) -> bool:
    """Whether rho is 0 whatever the log-probs are, as long as policy and reference are the same model."""
    policy = order(name.removeprefix("Ref.") for name in structure.atoms)

    def equal(point: Weights) -> bool:
        tied = {name: point[name.removeprefix("Ref.")] for name in structure.atoms}
        return count(structure.t, structure.atoms, tied) == count(structure.b, structure.atoms, tied)

    return all(equal(point) for point in grid(policy, 2))


def grid(atoms: Sequence[str], degree: int) -> Iterator[dict[str, int]]:
    """Enough points to tell apart any two polynomials of at most this degree in each atom.

    They need not be probabilities: an identity of polynomials holds everywhere or fails on the grid.
    """
    for point in product(range(degree + 1), repeat=len(atoms)):
        yield dict(zip(atoms, point, strict=True))
