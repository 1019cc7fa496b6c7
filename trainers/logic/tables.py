"""Truth tables as integers: bit r is row r, and atom i is true in row r iff bit i of r is set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from trainers.logic.errors import StructureError
from trainers.logic.formula import And, Atom, Const, Formula, Iff, Implies, Not, Or, Xor, order

# 2^8 rows: all of simplification stays in milliseconds, and no known loss needs more than six atoms.
MAX_ATOMS = 8


@cache
def full(n: int) -> int:
    return (1 << (1 << n)) - 1


@cache
def column(i: int, n: int) -> int:
    """The table of atom i alone."""
    block = 1 << i
    return full(n) // ((1 << block) + 1) << block


def atoms_of(*formulas: Formula) -> tuple[str, ...]:
    """The atoms in canonical order; refuses more than a table can hold."""
    names = order(name for formula in formulas for name in _names(formula))
    if len(names) > MAX_ATOMS:
        raise StructureError(
            f"{len(names)} different atoms are more than the {MAX_ATOMS} that a truth table may have",
            way_out=f"found: {', '.join(names)}",
        )
    return names


def _names(formula: Formula) -> Iterator[str]:
    match formula:
        case Atom(name):
            yield name
        case Const():
            return
        case Not(inner):
            yield from _names(inner)
        case And(parts) | Or(parts) | Xor(parts):
            for part in parts:
                yield from _names(part)
        case Implies(left, right) | Iff(left, right):
            yield from _names(left)
            yield from _names(right)


def table(formula: Formula, atoms: Sequence[str]) -> int:
    """The rows over these atoms, which must hold all atoms of the formula, that satisfy it."""
    n = len(atoms)
    everything = full(n)
    index = {name: i for i, name in enumerate(atoms)}

    def rows_of(node: Formula) -> int:
        match node:
            case Atom(name):
                return column(index[name], n)
            case Const(value):
                return everything if value else 0
            case Not(inner):
                return everything ^ rows_of(inner)
            case And(parts):
                mask = everything
                for part in parts:
                    mask &= rows_of(part)
                return mask
            case Or(parts):
                mask = 0
                for part in parts:
                    mask |= rows_of(part)
                return mask
            case Xor(parts):
                mask = 0
                for part in parts:
                    mask ^= rows_of(part)
                return mask
            case Implies(left, right):
                return (everything ^ rows_of(left)) | rows_of(right)
            case Iff(left, right):
                return everything ^ rows_of(left) ^ rows_of(right)

    return rows_of(formula)


def cofactor(mask: int, i: int, n: int, value: bool) -> int:
    """The table with atom i fixed; it stays a table over n atoms that no longer depends on i."""
    block = 1 << i
    half = mask & column(i, n) if value else mask & ~column(i, n)
    return half | (half >> block if value else half << block)


def depends(mask: int, i: int, n: int) -> bool:
    return cofactor(mask, i, n, True) != cofactor(mask, i, n, False)


def relevant(atoms: Sequence[str], *masks: int) -> tuple[str, ...]:
    """The atoms that at least one of the tables depends on."""
    n = len(atoms)
    return tuple(name for i, name in enumerate(atoms) if any(depends(mask, i, n) for mask in masks))


def rewrite(mask: int, atoms: Sequence[str], onto: Sequence[str]) -> int:
    """The same function over other atoms; an atom left out must be irrelevant (it is read as false)."""
    if tuple(atoms) == tuple(onto):
        return mask
    places = [(1 << j, 1 << atoms.index(name)) for j, name in enumerate(onto) if name in atoms]
    result = 0
    for row in range(1 << len(onto)):
        source = sum(there for here, there in places if row & here)
        if mask >> source & 1:
            result |= 1 << row
    return result


def rows(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def row_values(row: int, atoms: Sequence[str]) -> dict[str, bool]:
    return {name: bool(row >> i & 1) for i, name in enumerate(atoms)}
