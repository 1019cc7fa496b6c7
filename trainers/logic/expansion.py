"""Shannon expansion of a structure: log weighted model counts as sums of literals and logaddexp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias, TypeVar

from trainers.logic import tables
from trainers.logic.structure import Structure


@dataclass(frozen=True, slots=True)
class Lit:
    """The log-probability of an atom, or log(1 - p) of it."""

    atom: str
    positive: bool


@dataclass(frozen=True, slots=True)
class Sum:
    """A product of probabilities; without parts it is log 1."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class LogAdd:
    """A sum of probabilities of disjoint events."""

    left: Node
    right: Node


Node: TypeAlias = Lit | Sum | LogAdd

V = TypeVar("V")


class Algebra(Protocol[V]):
    """What the nodes mean: numbers, tensors, dual numbers or text."""

    def atom(self, name: str) -> V: ...

    def complement(self, name: str) -> V:
        """log(1 - p) of the atom."""
        ...

    def add(self, parts: Sequence[V]) -> V: ...

    def logaddexp(self, left: V, right: V) -> V: ...


def fold(node: Node, algebra: Algebra[V]) -> V:
    match node:
        case Lit(atom, positive):
            return algebra.atom(atom) if positive else algebra.complement(atom)
        case Sum(parts):
            return algebra.add([fold(part, algebra) for part in parts])
        case LogAdd(left, right):
            return algebra.logaddexp(fold(left, algebra), fold(right, algebra))


@dataclass(frozen=True, slots=True)
class Expansion:
    """rho is the log weight of the check rows (top) minus that of the cross rows (bottom)."""

    top: Node
    bottom: Node

    @property
    def needs_length_normalisation(self) -> bool:
        """True unless rho is a plain sum of log-probs.

        With summed log-probs 1 - p is 1 to machine precision, so these losses turn into one another or into
        constants; per-token averages keep them apart.
        """
        nodes = [*walk(self.top), *walk(self.bottom)]
        return any(isinstance(n, LogAdd) or (isinstance(n, Lit) and not n.positive) for n in nodes)


def walk(node: Node) -> Iterator[Node]:
    yield node
    if isinstance(node, Sum):
        for part in node.parts:
            yield from walk(part)
    elif isinstance(node, LogAdd):
        yield from walk(node.left)
        yield from walk(node.right)


def literals(node: Node) -> tuple[str, ...]:
    """The atoms of a plain sum of log-probs, in its order."""
    return tuple(part.atom for part in walk(node) if isinstance(part, Lit))


@lru_cache(maxsize=1024)
def expand(structure: Structure) -> Expansion:
    return Expansion(expand_table(structure.t, structure.atoms), expand_table(structure.b, structure.atoms))


def expand_table(mask: int, atoms: Sequence[str]) -> Node:
    """The table must not be empty: log 0 has no expansion."""
    n = len(atoms)
    parts: list[Node] = []
    for i, name in enumerate(atoms):
        here = tables.column(i, n)
        if not tables.depends(mask, i, n):
            continue  # p + (1 - p) is never computed
        if not mask & ~here:
            parts.append(Lit(name, True))
            mask = tables.cofactor(mask, i, n, True)
        elif not mask & here:
            parts.append(Lit(name, False))
            mask = tables.cofactor(mask, i, n, False)
    if mask != tables.full(n):
        parts.append(_branch(mask, atoms))
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _branch(mask: int, atoms: Sequence[str]) -> LogAdd:
    n = len(atoms)
    options = [_split(mask, i, atoms) for i in range(n) if tables.depends(mask, i, n)]
    # Ties go to the later atom: `l + (1-l)*(1-w)` is how the papers write it, not `(1-w) + w*l`.
    return min(reversed(options), key=size)


def _split(mask: int, i: int, atoms: Sequence[str]) -> LogAdd:
    n = len(atoms)
    sides = [expand_table(tables.cofactor(mask, i, n, value), atoms) for value in (True, False)]
    present, absent = (
        _with(Lit(atoms[i], value), side, atoms) for value, side in zip((True, False), sides, strict=True)
    )
    return LogAdd(present, absent)


def _with(literal: Lit, rest: Node, atoms: Sequence[str]) -> Node:
    parts = rest.parts if isinstance(rest, Sum) else (rest,)
    if not parts:
        return literal
    literals = [literal, *(part for part in parts if isinstance(part, Lit))]
    literals.sort(key=lambda x: (not x.positive, atoms.index(x.atom)))
    return Sum((*literals, *(part for part in parts if not isinstance(part, Lit))))


def size(node: Node) -> int:
    return sum(isinstance(part, Lit) for part in walk(node))
