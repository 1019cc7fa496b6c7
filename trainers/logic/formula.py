"""Formulas as values, and their text with as few parentheses as parse back to the same formula."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Atom:
    """One prediction: "this model deems this answer valid"."""

    name: str


@dataclass(frozen=True, slots=True)
class Const:
    value: bool


@dataclass(frozen=True, slots=True)
class Not:
    inner: Formula


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Xor:
    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Implies:
    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Iff:
    left: Formula
    right: Formula


Formula: TypeAlias = Atom | Const | Not | And | Xor | Or | Implies | Iff

TRUE = Const(True)
FALSE = Const(False)

_CANONICAL = {
    "w": "Winner",
    "winner": "Winner",
    "l": "Loser",
    "loser": "Loser",
    "rw": "Ref.Winner",
    "rl": "Ref.Loser",
}
ATOMS = ("Winner", "Loser", "Ref.Winner", "Ref.Loser")
"""Predictions that a row of a preference stage has log-probabilities for."""
_RANK = {name: rank for rank, name in enumerate(ATOMS)}


def atom_name(spelling: str) -> str:
    """The one name of an atom: `W`, `winner` and `Winner` are the same prediction, `Ref.w` is `Ref.Winner`."""
    bare = spelling.rstrip("'")
    primes = spelling[len(bare) :]
    model, dot, answer = bare.rpartition(".")
    if not dot:
        return _CANONICAL.get(bare.lower(), bare) + primes
    model = "Ref" if model.lower() in ("ref", "reference") else model
    answer = answer if answer.lower() in ("rw", "rl") else _CANONICAL.get(answer.lower(), answer)
    return f"{model}.{answer}{primes}"


def prediction(name: str) -> str:
    """The prediction that a copied atom stands for: `Winner'` is a second variable for `Winner`."""
    return name.rstrip("'")


def nearest_atom(name: str, known: Sequence[str] = ATOMS) -> str:
    """`; did you mean Winner?`, where one is near."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def is_reference(name: str) -> bool:
    return name.startswith("Ref.")


def order(names: Iterable[str]) -> tuple[str, ...]:
    """The column order of truth tables; unknown atoms follow the four known ones by name."""
    return tuple(sorted(set(names), key=lambda name: (_RANK.get(name, len(_RANK)), name)))


def conj(*parts: Formula) -> Formula:
    flat = [p for part in parts for p in (part.parts if isinstance(part, And) else (part,))]
    return TRUE if not flat else flat[0] if len(flat) == 1 else And(tuple(flat))


def disj(*parts: Formula) -> Formula:
    flat = [p for part in parts for p in (part.parts if isinstance(part, Or) else (part,))]
    return FALSE if not flat else flat[0] if len(flat) == 1 else Or(tuple(flat))


def xor(*parts: Formula) -> Formula:
    flat = [p for part in parts for p in (part.parts if isinstance(part, Xor) else (part,))]
    return FALSE if not flat else flat[0] if len(flat) == 1 else Xor(tuple(flat))


# How tightly a connective binds; the parser climbs the same ladder.
IFF, IMPLIES, OR, XOR, AND, NOT, ATOM = range(7)


def to_text(formula: Formula) -> str:
    return _print(formula)[0]


def _print(formula: Formula) -> tuple[str, int]:
    match formula:
        case Atom(name):
            return name, ATOM
        case Const(value):
            return ("TRUE" if value else "FALSE"), ATOM
        case Not(inner):
            return "~" + _inside(inner, NOT), NOT
        case And(parts):
            return " & ".join(_inside(p, AND + 1) for p in parts), AND
        case Xor(parts):
            return " ^ ".join(_inside(p, XOR + 1) for p in parts), XOR
        case Or(parts):
            return " | ".join(_inside(p, OR + 1) for p in parts), OR
        case Implies(left, right):
            return f"{_inside(left, IMPLIES + 1)} -> {_inside(right, IMPLIES)}", IMPLIES
        case Iff(left, right):
            return f"{_inside(left, IFF + 1)} <-> {_inside(right, IFF + 1)}", IFF


def _inside(formula: Formula, at_least: int) -> str:
    text, level = _print(formula)
    return text if level >= at_least else f"({text})"
