"""A truth table back as a short formula, without don't-cares: implications, factors, then a minimal cover."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

from trainers.logic import tables
from trainers.logic.formula import (
    FALSE,
    TRUE,
    Atom,
    Formula,
    Iff,
    Implies,
    Not,
    conj,
    disj,
    is_reference,
    xor,
)

# Above this many atoms the exact minimal cover is given up for a greedy one.
_EXACT = 4
_Cube = tuple[int, int]  # (atoms it fixes, the values it fixes them to)


def simplify(mask: int, atoms: Sequence[str]) -> Formula:
    kept = tables.relevant(atoms, mask)
    return _build(tables.rewrite(mask, atoms, kept), kept)


def _reading_order(atoms: Sequence[str]) -> list[int]:
    # As the papers print them: `Ref.Winner & Loser -> Ref.Loser & Winner`.
    return sorted(range(len(atoms)), key=lambda i: (not is_reference(atoms[i]), i))


def _build(mask: int, atoms: Sequence[str]) -> Formula:
    n = len(atoms)
    everything = tables.full(n)
    if mask in (0, everything):
        return TRUE if mask else FALSE
    needed: list[Formula] = []  # literals that the formula entails
    antecedents: list[Formula] = []  # atoms whose absence is enough
    enough: list[Formula] = []  # atoms whose presence is enough
    rest = mask
    for i in _reading_order(atoms):
        here = tables.column(i, n)
        if not mask & ~here:
            needed.append(Atom(atoms[i]))
            rest = tables.cofactor(rest, i, n, True)
        elif not mask & here:
            needed.append(Not(Atom(atoms[i])))
            rest = tables.cofactor(rest, i, n, False)
    if needed:
        return conj(*needed, *_unless(rest, everything, atoms))
    for i in _reading_order(atoms):
        here = tables.column(i, n)
        if not (everything & ~here) & ~mask:
            antecedents.append(Atom(atoms[i]))
            rest = tables.cofactor(rest, i, n, True)
        elif not here & ~mask:
            enough.append(Atom(atoms[i]))
            rest = tables.cofactor(rest, i, n, False)
    if antecedents or enough:
        consequent = [*enough, *_unless(rest, 0, atoms)]
        if not antecedents:
            return disj(*consequent)
        return Implies(conj(*antecedents), disj(*consequent)) if consequent else Not(conj(*antecedents))
    return _parity(mask, atoms) or _two_level(mask, atoms)


def _unless(mask: int, trivial: int, atoms: Sequence[str]) -> list[Formula]:
    return [] if mask == trivial else [_build(mask, atoms)]


def _parity(mask: int, atoms: Sequence[str]) -> Formula | None:
    n = len(atoms)
    kept = [i for i in range(n) if tables.depends(mask, i, n)]
    odd = 0
    for i in kept:
        odd ^= tables.column(i, n)
    parts = [Atom(atoms[i]) for i in kept]
    if mask == odd:
        return xor(*parts)
    if mask == tables.full(n) ^ odd:
        return Iff(*parts) if len(parts) == 2 else Not(xor(*parts))
    return None


def _two_level(mask: int, atoms: Sequence[str]) -> Formula:
    """The shorter of a minimal disjunction of terms and a minimal conjunction of clauses."""
    n = len(atoms)
    terms = _cover(mask, n)
    clauses = _cover(tables.full(n) ^ mask, n)
    if _literals(terms) <= _literals(clauses):
        return disj(*(_build(_cube_rows(cube, n), atoms) for cube in terms))
    return conj(*(_build(tables.full(n) ^ _cube_rows(cube, n), atoms) for cube in clauses))


def _literals(cubes: Sequence[_Cube]) -> int:
    return sum(care.bit_count() for care, _ in cubes)


@lru_cache(maxsize=1 << 14)
def _cube_rows(cube: _Cube, n: int) -> int:
    care, value = cube
    mask = tables.full(n)
    for i in range(n):
        if care >> i & 1:
            mask &= tables.column(i, n) if value >> i & 1 else ~tables.column(i, n)
    return mask


@cache
def _cubes(n: int) -> tuple[_Cube, ...]:
    return tuple((care, value) for care in range(1 << n) for value in range(1 << n) if value & ~care == 0)


def _primes(mask: int, n: int) -> list[_Cube]:
    inside = {cube for cube in _cubes(n) if not _cube_rows(cube, n) & ~mask}
    bits = [1 << i for i in range(n)]
    return [
        (care, value)
        for care, value in inside
        if not any(care & bit and (care ^ bit, value & ~bit) in inside for bit in bits)
    ]


def _cover(mask: int, n: int) -> list[_Cube]:
    # Fewest literals first; the last two keys only make the answer the same on every run.
    primes = sorted(_primes(mask, n), key=lambda c: (c[0].bit_count(), c[0], -c[1]))
    chosen = _exact(mask, primes, n) if n <= _EXACT else _greedy(mask, primes, n)
    return sorted(chosen, key=primes.index)


def _greedy(mask: int, primes: Sequence[_Cube], n: int) -> list[_Cube]:
    chosen: list[_Cube] = []
    while mask:
        best = max(primes, key=lambda c: (_cube_rows(c, n) & mask).bit_count() / max(1, c[0].bit_count()))
        chosen.append(best)
        mask &= ~_cube_rows(best, n)
    return chosen


def _exact(mask: int, primes: Sequence[_Cube], n: int) -> list[_Cube]:
    best = _greedy(mask, primes, n)

    def search(left: int, chosen: list[_Cube], cost: int) -> None:
        nonlocal best
        if cost >= _literals(best):
            return
        if not left:
            best = list(chosen)
            return
        # Branching on the row with the fewest primes keeps the tree small: an essential prime never branches.
        options = min(
            ([c for c in primes if _cube_rows(c, n) >> row & 1] for row in tables.rows(left)), key=len
        )
        for cube in options:
            search(left & ~_cube_rows(cube, n), [*chosen, cube], cost + cube[0].bit_count())

    search(mask, [], 0)
    return best
