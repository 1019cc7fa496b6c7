"""Structures: the way from formulas to (T, B) and back, equality, refusals, counting."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product

import pytest

from tests.test_logic_table import PAIR, QUAD, TABLE, by_marks
from trainers.logic import tables
from trainers.logic.counting import all_structures, distinct_ratios, distinct_structures
from trainers.logic.errors import StructureError
from trainers.logic.formula import to_text
from trainers.logic.polynomial import count, same_ratio, starts_at_zero
from trainers.logic.simplify import simplify
from trainers.logic.structure import Structure, from_core, from_sides, reference_form


def test_all_two_atom_pairs_come_back_or_are_refused() -> None:
    made = 0
    for t, b in product(range(16), repeat=2):
        if not t or not b or t == b:
            with pytest.raises(StructureError, match="constant" if t and b else "degenerate"):
                Structure(t, b, PAIR)
            # The formulas behind a refused pair are refused too.
            with pytest.raises(StructureError):
                from_sides(simplify(t, PAIR), simplify(b, PAIR))
            continue
        structure = Structure(t, b, PAIR)
        assert structure.on(PAIR) == (t, b)
        assert from_core(*structure.core()) == structure
        assert from_core(*structure.core().texts().values()).on(PAIR) == (t, b)
        made += 1
    assert made == 256 - 31 - 15


def test_random_four_atom_pairs_come_back() -> None:
    rng = random.Random(1)
    for _ in range(1500):
        t, b = rng.randrange(1, 1 << 16), rng.randrange(1, 1 << 16)
        if t == b:
            continue
        structure = Structure(t, b, QUAD)
        assert from_core(*structure.core().texts().values()).on(QUAD) == (t, b)


def test_random_structures_keep_their_sides_though_not_their_core() -> None:
    rng = random.Random(2)
    other_core = made = 0
    while made < 600:
        p, given, also = (rng.randrange(1 << 16) for _ in range(3))
        t, b = (p | also) & given, ((0xFFFF ^ p) | also) & given
        if not t or not b or t == b:
            continue
        made += 1
        structure = from_core(*(simplify(mask, QUAD) for mask in (p, given, also)))
        assert structure.on(QUAD) == (t, b)
        core = structure.core()
        assert from_core(*core) == structure
        other_core += tables.table(core.formula, QUAD) != p
    assert other_core > 300  # P is not unique, which is why structures are compared on their sides


def test_equality_does_not_depend_on_how_a_structure_is_written() -> None:
    assert from_core("L -> W", "W | L", "W & L") == from_sides("W", "L")
    assert from_core("~L", "W | L", "W & L") == from_sides("W", "L")  # P is free outside P_C
    assert from_core("W & (L | ~L)") == from_core("W")
    assert from_core("W").atoms == ("Winner",)
    assert Structure(0b1010, 0b0101, PAIR) == Structure(0b1100, 0b0011, ("Loser", "Winner"))
    assert len({from_core("W"), from_core("W | W & L"), from_core("L")}) == 2


@pytest.mark.parametrize(
    ("core", "given", "also", "why"),
    [
        ("W & ~W", "TRUE", "FALSE", "counts for"),
        ("W", "FALSE", "FALSE", "counts for"),
        ("W | ~W", "TRUE", "FALSE", "counts against"),
        ("L -> W", "W", "FALSE", "counts against"),
        ("W", "TRUE", "TRUE", "constant"),
    ],
)
def test_refusals_say_why(core: str, given: str, also: str, why: str) -> None:
    with pytest.raises(StructureError, match=why) as caught:
        from_core(core, given, also)
    assert caught.value.way_out


def test_rows_beyond_the_table_are_refused() -> None:
    with pytest.raises(StructureError, match="rows"):
        Structure(1 << 16, 1, PAIR)


@pytest.mark.parametrize("name", TABLE)
def test_reference_form_subtracts_the_reference_log_ratio(name: str) -> None:
    """Against T & Ref.Loser and B & Ref.Winner, spelled out row by row."""
    plain = by_marks(TABLE[name].marks)
    t, b = reference_form(plain).on(QUAD)
    plain_t, plain_b = plain.on(PAIR)
    for row in range(16):
        assert bool(t >> row & 1) == (bool(plain_t >> (row & 3) & 1) and bool(row & 8))
        assert bool(b >> row & 1) == (bool(plain_b >> (row & 3) & 1) and bool(row & 4))


def test_collapse_is_predicted_for_the_four_losses_that_count_neither_answer() -> None:
    collapsing = {name for name, row in TABLE.items() if by_marks(row.marks).collapses}
    assert collapsing == {"fUnl", "cfUnl", "unCPO", "l14"}
    with_reference = {name for name, row in TABLE.items() if reference_form(by_marks(row.marks)).collapses}
    assert with_reference == collapsing
    # The same function as fUnl with a factor w on both sides.
    assert from_sides("W & ~L", "W & L").collapses


def test_starts_at_zero_only_where_policy_and_reference_cancel() -> None:
    assert starts_at_zero(reference_form(by_marks("XTB-")))
    assert starts_at_zero(from_sides("Ref.L", "L"))
    assert not starts_at_zero(by_marks("XTB-"))
    assert not starts_at_zero(reference_form(by_marks("-TB-")))


def test_weighted_count_is_the_sum_over_rows() -> None:
    rng = random.Random(3)
    for _ in range(50):
        mask = rng.randrange(1 << 16)
        p = {name: Fraction(rng.randrange(1, 20), 20) for name in QUAD}
        total = Fraction(0)
        for row in range(16):
            if mask >> row & 1:
                weight = Fraction(1)
                for i, name in enumerate(QUAD):
                    weight *= p[name] if row >> i & 1 else 1 - p[name]
                total += weight
        assert count(mask, QUAD, p) == total


def _ratios(n: int, field: int | None) -> int:
    """Distinct values of T/B at one generic point, in the rationals or in a prime field."""
    rng = random.Random(4)
    found: set[object] = set()
    p = [rng.randrange(2, 1 << 60) for _ in range(n)]
    weights = [1] * (1 << n)
    for row in range(1 << n):
        for i in range(n):
            weights[row] *= p[i] if row >> i & 1 else 1 - p[i]
    values = [sum(w for row, w in enumerate(weights) if mask >> row & 1) for mask in range(1, 1 << (1 << n))]
    if field is None:
        found = {Fraction(t, b) for t in values for b in values}
    else:
        inverses = [pow(v % field, -1, field) for v in values]
        found = {t * b % field for t in values for b in inverses}
    return len(found)


@pytest.mark.parametrize(("n", "expected"), [(1, 7), (2, 187), (3, 63_475), (4, 4_294_246_507)])
def test_counts_of_distinct_losses(n: int, expected: int) -> None:
    assert distinct_ratios(n) == expected


@pytest.mark.parametrize(("n", "expected"), [(1, 7), (2, 187)])
def test_the_counts_by_brute_force(n: int, expected: int) -> None:
    assert _ratios(n, None) == expected


def test_the_count_for_three_by_brute_force_in_a_prime_field() -> None:
    assert _ratios(3, (1 << 61) - 1) == 63_475


def test_distinct_structures_are_all_ratios_but_the_constant() -> None:
    everything = all_structures(PAIR)
    assert len(everything) == 210
    assert len(distinct_structures(everything)) == 186
    with pytest.raises(StructureError, match="65,536"):
        all_structures(("a", "b", "c"))


def test_common_factors_make_different_structures_the_same_loss() -> None:
    factored = from_sides("W & L", "~W & L")
    assert factored != from_core("W")
    assert same_ratio(factored, from_core("W"))
    assert not same_ratio(from_core("W"), from_core("L"))


def test_simplification_is_minimal_for_every_two_atom_table() -> None:
    longest = max((to_text(simplify(mask, PAIR)) for mask in range(16)), key=len)
    assert all(to_text(simplify(mask, PAIR)).count("er") <= 2 for mask in range(16)), longest
