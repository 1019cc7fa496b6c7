"""A preference structure: which truth-table rows count for the preference (T) and which against it (B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trainers.logic import tables
from trainers.logic.errors import StructureError
from trainers.logic.formula import FALSE, TRUE, Formula, is_reference, order, to_text
from trainers.logic.language import parse
from trainers.logic.simplify import simplify

Mark = Literal["check", "cross", "both", "neither"]
_MARKS: dict[tuple[bool, bool], Mark] = {
    (True, False): "check",
    (False, True): "cross",
    (True, True): "both",
    (False, False): "neither",
}


class Core(NamedTuple):
    """One way of writing a structure: the core formula P, its condition P_C, and what counts on both sides."""

    formula: Formula
    given: Formula
    also: Formula

    def texts(self) -> dict[str, str]:
        return {name: to_text(part) for name, part in zip(self._fields, self, strict=True)}


@dataclass(frozen=True, slots=True)
class Structure:
    """Equal iff T and B are: P is free where P_C is false or P_A is true, so it never takes part.

    Canonical on construction: atoms in table order, those that neither side depends on dropped.
    """

    t: int
    b: int
    atoms: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.t:
            raise StructureError(
                "degenerate: no row of the truth table counts for the formula",
                way_out="`given` excludes every row where the formula holds, or the formula is never true",
            )
        if not self.b:
            raise StructureError(
                "degenerate: no row of the truth table counts against the formula",
                way_out="the formula always holds under `given`, so its loss would be zero everywhere",
            )
        if self.t == self.b:
            raise StructureError(
                "constant: the same rows count for and against the formula, so its log ratio is always 0",
                way_out="make `also` smaller: rows in it count on both sides",
            )
        if len(self.atoms) > tables.MAX_ATOMS or len(set(self.atoms)) != len(self.atoms):
            raise StructureError(f"the atoms must be different and at most {tables.MAX_ATOMS}")
        if not 0 < max(self.t, self.b) <= tables.full(len(self.atoms)) or min(self.t, self.b) < 0:
            raise StructureError(f"the sides mark rows that {len(self.atoms)} atoms do not have")
        kept = order(tables.relevant(self.atoms, self.t, self.b))
        if kept != self.atoms:
            object.__setattr__(self, "t", tables.rewrite(self.t, self.atoms, kept))
            object.__setattr__(self, "b", tables.rewrite(self.b, self.atoms, kept))
            object.__setattr__(self, "atoms", kept)

    def on(self, atoms: Sequence[str]) -> tuple[int, int]:
        """(T, B) over other atoms, which must hold those of the structure."""
        return tables.rewrite(self.t, self.atoms, atoms), tables.rewrite(self.b, self.atoms, atoms)

    def marks(self, atoms: Sequence[str]) -> list[Mark]:
        t, b = self.on(atoms)
        return [_MARKS[bool(t >> r & 1), bool(b >> r & 1)] for r in range(1 << len(atoms))]

    def core(self) -> Core:
        """P := B -> T, P_C := T or B, P_A := T and B; their formula forms are T and B again."""
        implied = (tables.full(len(self.atoms)) & ~self.b) | self.t
        return Core(
            simplify(implied, self.atoms),
            simplify(self.t | self.b, self.atoms),
            simplify(self.t & self.b, self.atoms),
        )

    @property
    def needs_reference(self) -> bool:
        return any(is_reference(name) for name in self.atoms)

    @property
    def collapses(self) -> bool:
        """Whether rho grows without bound as every answer of the trained model becomes improbable together.

        With all their probabilities near some small e, a side weighs e to the fewest answers that it needs valid.
        """
        policy = sum(1 << i for i, name in enumerate(self.atoms) if is_policy(name))
        fewest_t, fewest_b = (
            min((row & policy).bit_count() for row in tables.rows(side)) for side in (self.t, self.b)
        )
        return fewest_t < fewest_b

    @property
    def columns(self) -> tuple[str, ...]:
        """The atoms worth a column in its truth table: a loss of pairs shows both answers, NPO only its own."""
        pairs = not self.needs_reference or {"Winner", "Ref.Winner"} & set(self.atoms)
        known = any(name in ("Winner", "Loser") for name in self.atoms)
        return order((*self.atoms, "Winner", "Loser")) if pairs and known else self.atoms


def is_policy(name: str) -> bool:
    """Whether the atom is a prediction of the model in training: every prefix names another, fixed, model."""
    return "." not in name


def from_core(core: Formula | str, given: Formula | str = TRUE, also: Formula | str = FALSE) -> Structure:
    """The structure of (P, P_C, P_A): T := (P or P_A) and P_C, B := (not P or P_A) and P_C."""
    p, condition, both = _formula(core), _formula(given), _formula(also)
    atoms = tables.atoms_of(p, condition, both)
    rows, scope, shared = (tables.table(x, atoms) for x in (p, condition, both))
    return Structure((rows | shared) & scope, ((tables.full(len(atoms)) ^ rows) | shared) & scope, atoms)


def from_sides(top: Formula | str, bottom: Formula | str) -> Structure:
    """The structure whose check rows satisfy `top` and whose cross rows satisfy `bottom`."""
    t, b = _formula(top), _formula(bottom)
    atoms = tables.atoms_of(t, b)
    return Structure(tables.table(t, atoms), tables.table(b, atoms), atoms)


def reference_form(structure: Structure) -> Structure:
    """rho minus log(rw/rl): T & Ref.Loser against B & Ref.Winner. That of CPO is DPO."""
    atoms = order((*structure.atoms, "Ref.Winner", "Ref.Loser"))
    t, b = structure.on(atoms)
    n = len(atoms)
    return Structure(
        t & tables.column(atoms.index("Ref.Loser"), n),
        b & tables.column(atoms.index("Ref.Winner"), n),
        atoms,
    )


def _formula(source: Formula | str) -> Formula:
    return parse(source) if isinstance(source, str) else source
