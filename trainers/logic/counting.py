"""How many different losses there are: distinct ratios of weighted model counts over n predictions."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import comb

from trainers.logic.errors import StructureError
from trainers.logic.formula import order
from trainers.logic.polynomial import ratio, same_ratio
from trainers.logic.structure import Structure

# A table's weighted count is multi-affine, so any factorisation of it splits the atoms into blocks, and the
# blocks' tables are unique. A ratio in lowest terms is hence a pair of tables without a common block, and such
# pairs are counted by inclusion and exclusion over sets of blocks that both sides share.


def non_empty(n: int) -> int:
    return 2 ** (2**n) - 1


@cache
def _on_all(k: int) -> int:
    """Tables that depend on each of their k atoms."""
    return sum((-1) ** (k - j) * comb(k, j) * non_empty(j) for j in range(k + 1))


@cache
def _irreducible(k: int) -> int:
    """Tables on all of k atoms that are no product over two blocks of them."""
    return _on_all(k) - sum(comb(k - 1, j - 1) * _irreducible(j) * _on_all(k - j) for j in range(1, k))


@cache
def _signed(k: int) -> int:
    """Sum over the ways to split k atoms into shared irreducible blocks, each block carrying a minus."""
    if k == 0:
        return 1
    return sum(comb(k - 1, j - 1) * -_irreducible(j) * _signed(k - j) for j in range(1, k + 1))


def distinct_ratios(n: int) -> int:
    """Distinct ratio functions with both sides satisfiable, the constant 1 included."""
    return sum(comb(n, k) * _signed(k) * non_empty(n - k) ** 2 for k in range(n + 1))


def distinct_structures(structures: list[Structure]) -> list[Structure]:
    """One structure for each ratio function, the first that comes."""
    # Equal functions agree at any point, so only structures that agree at one need the full comparison.
    names = order(name for structure in structures for name in structure.atoms)
    point = {name: Fraction(1, 3 + 4 * i) for i, name in enumerate(names)}
    found: dict[Fraction, list[Structure]] = {}
    for structure in structures:
        alike = found.setdefault(ratio(structure, point), [])
        if not any(same_ratio(structure, known) for known in alike):
            alike.append(structure)
    return [structure for alike in found.values() for structure in alike]


def all_structures(atoms: tuple[str, ...]) -> list[Structure]:
    """Every structure over these atoms that is neither degenerate nor constant."""
    if len(atoms) > 2:
        raise StructureError(
            f"{len(atoms)} atoms have {4 ** (2 ** len(atoms)):,} structures",
            way_out="enumerate two atoms at most; `neighbours` walks from any structure",
        )
    sides = range(1, non_empty(len(atoms)) + 1)
    return [Structure(t, b, atoms) for t in sides for b in sides if t != b]
