"""The order of structures by entailment: comparison with a witness, neighbours, covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.logic import tables
from trainers.logic.errors import StructureError
from trainers.logic.formula import order
from trainers.logic.structure import Mark, Structure

Relation = Literal["equal", "entails", "entailed_by", "incomparable"]
Direction = Literal["up", "down"]

# One step up weakens what a row demands: cross, then both or neither, then check.
_UP: dict[Mark, tuple[Mark, ...]] = {
    "cross": ("both", "neither"),
    "both": ("check",),
    "neither": ("check",),
    "check": (),
}
_DOWN: dict[Mark, tuple[Mark, ...]] = {
    mark: tuple(low for low, highs in _UP.items() if mark in highs) for mark in _UP
}


@dataclass(frozen=True)
class Witness:
    """A row of the truth table and how each of two structures marks it."""

    row: dict[str, bool]
    a: Mark
    b: Mark


@dataclass(frozen=True)
class Comparison:
    """`witness` shows that the two differ; where they are incomparable it refutes that a entails b.

    `converse` then refutes that b entails a. The same row can do both: marks `both` and `neither` have no order.
    """

    relation: Relation
    witness: Witness | None
    converse: Witness | None = None


def entails(one: Structure, other: Structure) -> bool:
    """At least as constrained, so its rho is nowhere larger. The converse does not follow from the losses."""
    return _refuting_rows(one, other)[1] == 0


def _refuting_rows(one: Structure, other: Structure) -> tuple[tuple[str, ...], int]:
    atoms = order((*one.atoms, *other.atoms))
    (t1, b1), (t2, b2) = one.on(atoms), other.on(atoms)
    return atoms, (t1 & ~t2) | (b2 & ~b1)


def compare(a: Structure, b: Structure) -> Comparison:
    atoms, against_ab = _refuting_rows(a, b)
    _, against_ba = _refuting_rows(b, a)

    def witness(rows: int) -> Witness:
        # The last row first: "both answers valid" is the easiest to imagine.
        row = rows.bit_length() - 1
        return Witness(tables.row_values(row, atoms), a.marks(atoms)[row], b.marks(atoms)[row])

    if not against_ab and not against_ba:
        return Comparison("equal", None)
    if not against_ab:
        return Comparison("entails", witness(against_ba))
    if not against_ba:
        return Comparison("entailed_by", witness(against_ab))
    return Comparison("incomparable", witness(against_ab), witness(against_ba))


@dataclass(frozen=True)
class Step:
    """One row whose mark moves one step."""

    row: dict[str, bool]
    before: Mark
    after: Mark
    structure: Structure


def neighbours(structure: Structure, direction: Direction, atoms: Sequence[str] = ()) -> list[Step]:
    """The structures one step weaker (up) or stronger (down), over its columns and any other atoms.

    Steps to a structure that is degenerate or constant are left out.
    """
    names = order((*structure.columns, *atoms))
    t, b = structure.on(names)
    moves = _UP if direction == "up" else _DOWN
    found: list[Step] = []
    for row, mark in enumerate(structure.marks(names)):
        for after in moves[mark]:
            try:
                there = Structure(
                    _put(t, row, after in ("check", "both")), _put(b, row, after in ("cross", "both")), names
                )
            except StructureError:
                continue
            found.append(Step(tables.row_values(row, names), mark, after, there))
    return found


def _put(mask: int, row: int, value: bool) -> int:
    return mask | 1 << row if value else mask & ~(1 << row)


def covers(structures: Mapping[str, Structure]) -> list[tuple[str, str]]:
    """The pairs (a, b) in which a strictly entails b with none of the others between."""
    above = {a: {b for b, y in structures.items() if x != y and entails(x, y)} for a, x in structures.items()}
    return [
        (a, b)
        for a, bs in above.items()
        for b in structures
        if b in bs and not any(b in above[c] for c in bs)
    ]
