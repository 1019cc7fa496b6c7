"""The order of losses: the 32 covers, entailment against exact values, witnesses, neighbours, search."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from tests.test_logic_table import PAIR, TABLE, by_marks, sides
from trainers.logic import lattice, search
from trainers.logic.decompile import decompile
from trainers.logic.errors import StructureError
from trainers.logic.lookup import named
from trainers.logic.named import LATTICE
from trainers.logic.polynomial import ratio, same_ratio
from trainers.logic.signs import sign
from trainers.logic.structure import Structure, from_core

# One step up for the rows TT and FF, the two on which the sixteen differ.
_STEPS = {"B": "X-", "X": "T", "-": "T", "T": ""}


def test_the_cover_relation_of_the_sixteen() -> None:
    names = {row.marks: name for name, row in TABLE.items()}
    expected = set()
    for marks, name in names.items():
        for place in (0, 3):
            for after in _STEPS[marks[place]]:
                expected.add((name, names[marks[:place] + after + marks[place + 1 :]]))
    assert len(expected) == 32
    found = lattice.covers({name: named(name).structure for name in LATTICE})
    assert len(found) == 32
    assert set(found) == expected
    assert ("CPO", "cCPO") in expected
    assert ("ORPO", "cfUnl") in expected


def test_ceunl_is_least_and_uncpo_greatest() -> None:
    for name in LATTICE:
        assert lattice.entails(named("CEUnl").structure, named(name).structure)
        assert lattice.entails(named(name).structure, named("unCPO").structure)


def test_entailment_orders_the_losses_exactly() -> None:
    """All ordered pairs of the 225 two-atom pairs of sides, at rational points, without a rounding error."""
    points = list(product([Fraction(k, 13) for k in (1, 3, 6, 8, 11, 12)], repeat=2))
    weights = [[(1 - w) * (1 - x), w * (1 - x), (1 - w) * x, w * x] for w, x in points]  # rows FF, TF, FT, TT
    counts = {m: [sum(y for r, y in enumerate(at) if m >> r & 1) for at in weights] for m in range(1, 16)}
    pairs = list(product(range(1, 16), repeat=2))
    assert len(pairs) == 225
    structures = {pair: Structure(*pair, PAIR) for pair in pairs if pair[0] != pair[1]}
    entailing = 0
    for (t1, b1), (t2, b2) in product(pairs, repeat=2):
        holds = t1 & ~t2 == 0 and b2 & ~b1 == 0
        if (t1, b1) in structures and (t2, b2) in structures:
            assert lattice.entails(structures[t1, b1], structures[t2, b2]) == holds
        if holds and (t1, b1) != (t2, b2):
            entailing += 1
            for i in range(len(points)):
                assert counts[t1][i] * counts[b2][i] < counts[t2][i] * counts[b1][i]
    assert entailing == 4000


def test_a_larger_rho_is_no_entailment() -> None:
    """The converse of monotonicity fails already where common factors cancel."""
    factored, ce = from_core("W", "L"), named("CE").structure
    assert same_ratio(factored, ce)
    assert lattice.compare(factored, ce).relation == "incomparable"
    assert not lattice.entails(ce, factored)


@pytest.mark.parametrize(("a", "b"), list(product(LATTICE, repeat=2)))
def test_compare_and_its_witness(a: str, b: str) -> None:
    x, y = by_marks(TABLE[a].marks), by_marks(TABLE[b].marks)
    found = lattice.compare(x, y)
    forth, back = lattice.entails(x, y), lattice.entails(y, x)
    expected = {(True, True): "equal", (True, False): "entails", (False, True): "entailed_by"}
    assert found.relation == expected.get((forth, back), "incomparable")
    assert (found.witness is None) == (a == b)
    if found.witness is None:
        return
    place = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[
        found.witness.row["Winner"], found.witness.row["Loser"]
    ]
    words = {"T": "check", "B": "cross", "X": "both", "-": "neither"}
    assert found.witness.a == words[TABLE[a].marks[place]]
    assert found.witness.b == words[TABLE[b].marks[place]]
    assert found.witness.a != found.witness.b
    if found.relation == "incomparable":
        assert found.converse is not None


def test_compare_over_different_atoms() -> None:
    assert lattice.compare(named("CPO").structure, named("DPO").structure).relation == "incomparable"
    assert lattice.compare(named("DPO").structure, named("ref-cCPO").structure).relation == "entails"
    assert lattice.compare(from_core("W"), from_core("L -> W")).relation == "entails"


def test_neighbours_are_the_covers_and_the_steps_outside_the_sixteen() -> None:
    cpo = named("CPO").structure
    up = {s.structure for s in lattice.neighbours(cpo, "up")}
    assert {named(n).structure for n in ("cCPO", "l14")} <= up
    down = {s.structure for s in lattice.neighbours(cpo, "down")}
    assert {named(n).structure for n in ("cUNL", "sCE")} <= down
    for direction in ("up", "down"):
        for step in lattice.neighbours(cpo, direction):
            forth = lattice.entails(cpo, step.structure)
            assert forth == (direction == "up")
            assert step.before != step.after
    # CE mentions one atom only, and still has neighbours that mention both.
    assert named("bCPO").structure in {s.structure for s in lattice.neighbours(named("CE").structure, "up")}


def test_every_cover_is_a_neighbour() -> None:
    losses = {name: named(name).structure for name in LATTICE}
    for below, above in lattice.covers(losses):
        assert losses[above] in {s.structure for s in lattice.neighbours(losses[below], "up")}
        assert losses[below] in {s.structure for s in lattice.neighbours(losses[above], "down")}


def test_neighbours_leave_out_what_is_no_loss() -> None:
    with pytest.raises(StructureError):
        Structure(1, 0, ("Winner",))
    ce = Structure(0b10, 0b01, ("Winner",))
    steps = lattice.neighbours(ce, "up", ())
    assert all(s.structure.b for s in steps)


def test_monotone_search() -> None:
    """52 structures and 40 losses, counted again by hand on an 11 by 11 grid of rationals."""
    grid = [Fraction(k, 12) for k in range(1, 12)]

    def value(mask: int, w: Fraction, v: Fraction) -> Fraction:
        rows = [(1 - w) * (1 - v), w * (1 - v), (1 - w) * v, w * v]
        return sum((x for r, x in enumerate(rows) if mask >> r & 1), Fraction(0))

    expected: dict[tuple[int, int], tuple[Fraction, ...]] = {}
    for t, b in product(range(1, 16), repeat=2):
        table = [[value(t, w, v) / value(b, w, v) for v in grid] for w in grid]
        rises = all(table[i][j] <= table[i + 1][j] for i in range(10) for j in range(11))
        falls = all(table[i][j] >= table[i][j + 1] for i in range(11) for j in range(10))
        if rises and falls and t != b:
            expected[t, b] = tuple(x for row in table for x in row)
    assert len(expected) == 52
    assert {s.on(PAIR) for s in search.monotone_structures()} == set(expected)
    found = search.monotone_losses()
    assert len(found) == len(set(expected.values())) == 40
    assert {n for x in found for n in x.names} == set(LATTICE)
    assert len(search.search(named=False)) == 24
    assert sides(TABLE["CPO"].marks) in expected


def test_search_filters() -> None:
    assert {n for x in search.search(collapses=True) for n in x.names} == {"fUnl", "cfUnl", "unCPO", "l14"}
    plain = search.search(length_normalisation=False, both_answers=True)
    assert [x.names for x in plain] == [["CPO"]]
    # The example of the specification: new, and of both answers.
    assert any(
        same_ratio(x.structure, decompile("log w*(1-l) / (l + w*(1-l))"))
        for x in search.search(named=False, both_answers=True)
    )


def test_signs_agree_with_differences() -> None:
    low, high = Fraction(1, 3), Fraction(2, 3)
    for name, row in TABLE.items():
        structure = by_marks(row.marks)
        at = {"Winner": low, "Loser": low}
        for atom in PAIR:
            change = ratio(structure, at | {atom: high}) - ratio(structure, at)
            assert sign(structure, atom) == ("+" if change > 0 else "-" if change < 0 else "0"), (name, atom)
    assert sign(from_core("W <-> L"), "Winner") == "mixed"
