"""From a loss equation to its logic, refused unless the logic gives back exactly the same polynomial."""

from __future__ import annotations

from collections import Counter
from math import prod

from trainers.logic import tables
from trainers.logic.equation import Number as Constant
from trainers.logic.equation import Polynomial, Product, Terms, Var, read
from trainers.logic.errors import DecompileError
from trainers.logic.formula import TRUE, Atom, Const, Formula, Not, conj, disj
from trainers.logic.polynomial import Number, Weights, count, grid
from trainers.logic.render import short
from trainers.logic.structure import Structure, from_sides


def decompile(equation: str) -> Structure:
    """`log (w*(1-l)) / (l*(1-w))` is ORPO: W & ~L counts for it, L & ~W against it."""
    ratio = read(equation)
    return from_sides(checked(ratio.num, "numerator"), checked(ratio.den, "denominator"))


def sem(polynomial: Polynomial) -> Formula:
    """The logic of a polynomial: products are `and`, sums are `or`, `1 - e` is `not`."""
    match polynomial:
        case Var(name):
            return Atom(name)
        case Constant(value):
            return Const(bool(value))
        case Product(parts):
            return conj(*(sem(part) for part in parts))
        case Terms(parts):
            return _signed(parts)


def _signed(parts: tuple[tuple[bool, Polynomial], ...]) -> Formula:
    # In the order written, because 1 - l + w*l is (1 - l) + w*l and not 1 + w*l - l.
    result: Formula | None = None
    for plus, part in parts:
        meaning = sem(part)
        if plus:
            result = meaning if result is None else disj(result, meaning)
        elif result is None:
            result = conj(Const(False), Not(meaning))
        else:
            result = Not(meaning) if result == TRUE else conj(result, Not(meaning))
    return result if result is not None else Const(False)


def checked(polynomial: Polynomial, side: str) -> Formula:
    """SEM of the polynomial, once its weighted model count is known to be that polynomial."""
    square = next((name for name, degree in _degrees(polynomial).items() if degree > 1), None)
    if square is not None:
        raise DecompileError(
            f"{short(square)} is multiplied with itself in the {side}: not a multilinear polynomial",
            way_out=f"use a copied atom for the second one: {short(square)}'",
        )
    meaning = sem(polynomial)
    atoms = tables.atoms_of(meaning)
    rows = tables.table(meaning, atoms)
    # Both are multilinear, so that agreeing on the corners of the unit cube is agreeing everywhere.
    for point in grid(atoms, 1):
        found = evaluate(polynomial, point)
        if found != count(rows, atoms, point):
            raise DecompileError(
                f"the {side} is not the weight of a set of truth-table rows: {_explain(point, found)}",
                way_out="the terms of a sum must exclude each other: write w + (1-w)*l instead of w + l",
            )
    return meaning


def _explain(point: Weights, found: Number) -> str:
    row = ", ".join(f"{short(name)} {'true' if value else 'false'}" for name, value in point.items())
    return f"it counts the row ({row}) {found} times"


def _degrees(polynomial: Polynomial) -> Counter[str]:
    """The highest power of each atom, as written."""
    match polynomial:
        case Var(name):
            return Counter({name: 1})
        case Constant():
            return Counter()
        case Product(parts):
            return sum((_degrees(part) for part in parts), Counter[str]())
        case Terms(parts):
            highest: Counter[str] = Counter()
            for _, part in parts:
                highest |= _degrees(part)
            return highest


def evaluate(polynomial: Polynomial, point: Weights) -> Number:
    match polynomial:
        case Var(name):
            return point[name]
        case Constant(value):
            return value
        case Product(parts):
            return prod((evaluate(part, point) for part in parts), start=1)
        case Terms(parts):
            return sum((evaluate(p, point) * (1 if plus else -1) for plus, p in parts), 0)
