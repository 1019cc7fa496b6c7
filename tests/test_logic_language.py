"""The formula language: what it reads, what it prints, and where it points when it cannot read."""

from __future__ import annotations

import pickle
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from trainers.logic import formula as f
from trainers.logic import tables
from trainers.logic.errors import FormulaError, StructureError
from trainers.logic.language import parse
from trainers.logic.scanning import MAX_DEPTH, MAX_LENGTH
from trainers.logic.simplify import simplify

W, L = f.Atom("Winner"), f.Atom("Loser")
RW, RL = f.Atom("Ref.Winner"), f.Atom("Ref.Loser")
NAMES = ("Winner", "Loser", "Ref.Winner", "Ref.Loser", "Other.Winner", "Winner'")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("W", W),
        ("winner", W),
        ("Ref.W", RW),
        ("ref.loser", RL),
        ("rl", RL),
        ("Other.l", f.Atom("Other.Loser")),
        ("Judge", f.Atom("Judge")),
        ("W'", f.Atom("Winner'")),
        ("T", f.TRUE),
        ("false", f.FALSE),
        ("⊤", f.TRUE),
        ("~~W", f.Not(f.Not(W))),
        ("not W and L", f.And((f.Not(W), L))),
        ("!W && L", f.And((f.Not(W), L))),
        ("¬W ∧ L", f.And((f.Not(W), L))),
        ("W & L & rw", f.And((W, L, RW))),
        ("(W & L) & rw", f.And((W, L, RW))),
        ("W | L ^ rw & rl", f.Or((W, f.Xor((L, f.And((RW, RL))))))),
        ("W xor L", f.Xor((W, L))),
        ("W ⊕ L", f.Xor((W, L))),
        ("W ∨ L", f.Or((W, L))),
        ("W -> L -> rw", f.Implies(W, f.Implies(L, RW))),
        ("(W -> L) -> rw", f.Implies(f.Implies(W, L), RW)),
        ("W => L", f.Implies(W, L)),
        ("W implies L", f.Implies(W, L)),
        ("W → L", f.Implies(W, L)),
        ("W <-> L -> rw", f.Iff(W, f.Implies(L, RW))),
        ("W ↔ L", f.Iff(W, L)),
        ("W iff L", f.Iff(W, L)),
        ("\n W\t&\n  L ", f.And((W, L))),
    ],
)
def test_reads(text: str, meaning: f.Formula) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("", 1, "expected an atom"),
        ("W &", 4, "found the end"),
        ("W & ) L", 5, "found ')'"),
        ("(W | L", 7, "or ')'"),
        ("W L", 3, "found 'L'"),
        ("W $ L", 3, "'$' means nothing"),
        ("W - L", 3, "'-' means nothing"),
        ("W <-> L <-> W", 9, "parentheses"),
        ("Ref.Winner.x", 11, "'.' means nothing"),
        ("W |\nL & & W", 5, "found '&'"),
        ("über", 1, "means nothing"),
        ("~" * (MAX_DEPTH + 1) + "W", MAX_DEPTH + 1, "deep"),
    ],
)
def test_points_at_the_mistake(text: str, column: int, says: str) -> None:
    with pytest.raises(FormulaError) as caught:
        parse(text)
    message = str(caught.value)
    assert says in message
    assert caught.value.column == column
    assert f"column {column}" in message
    shown, caret = message.split("\n")[1:3]
    source = text.split("\n")[text.count("\n")] if "\n" in text else text
    assert shown == f"  {source}"
    assert caret == " " * (column + 1) + "^"


def test_a_long_line_is_cut_around_the_mistake() -> None:
    with pytest.raises(FormulaError) as caught:
        parse(" & ".join(["Winner"] * 100) + " $ " + " & ".join(["Loser"] * 100))
    shown, caret = str(caught.value).split("\n")[1:3]
    assert len(shown) < 110
    assert shown[caret.index("^")] == "$"


def test_the_error_is_one_for_people_and_survives_pickling() -> None:
    with pytest.raises(UserError) as caught:
        parse("W &&& L")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.column == 5


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "~" * 3999 + "W",
        "(" * 1000 + "W" + ")" * 1000,
        "W -> " * 700 + "L",
        "W <-> " * 600 + "L",
        "(W -> " * 500 + "L" + ")" * 500,
        "W" * (MAX_LENGTH + 1),
    ],
)
def test_hostile_nesting_is_an_error_and_no_recursion(text: str) -> None:
    with pytest.raises(FormulaError):
        parse(text)


def test_long_chains_are_no_nesting() -> None:
    chain = parse(" & ".join(["W", "L"] * 150))
    assert tables.table(chain, ("Winner", "Loser")) == 0b1000
    assert parse(f.to_text(chain)) == chain


def test_too_many_atoms() -> None:
    with pytest.raises(StructureError, match="9 different atoms"):
        tables.atoms_of(parse(" | ".join(f"a{i}" for i in range(9))))


def _formulas() -> st.SearchStrategy[f.Formula]:
    leaves = st.one_of(st.sampled_from([f.Atom(name) for name in NAMES]), st.sampled_from([f.TRUE, f.FALSE]))

    def grow(inner: st.SearchStrategy[f.Formula]) -> st.SearchStrategy[f.Formula]:
        some = st.lists(inner, min_size=2, max_size=3)
        return st.one_of(
            inner.map(f.Not),
            some.map(lambda parts: f.conj(*parts)),
            some.map(lambda parts: f.disj(*parts)),
            some.map(lambda parts: f.xor(*parts)),
            st.tuples(inner, inner).map(lambda pair: f.Implies(*pair)),
            st.tuples(inner, inner).map(lambda pair: f.Iff(*pair)),
        )

    return st.recursive(leaves, grow, max_leaves=12)


def _truth(formula: f.Formula, row: dict[str, bool]) -> bool:
    """One row at a time, by Python's own connectives."""
    match formula:
        case f.Atom(name):
            return row[name]
        case f.Const(value):
            return value
        case f.Not(inner):
            return not _truth(inner, row)
        case f.And(parts):
            return all(_truth(p, row) for p in parts)
        case f.Or(parts):
            return any(_truth(p, row) for p in parts)
        case f.Xor(parts):
            return sum(_truth(p, row) for p in parts) % 2 == 1
        case f.Implies(left, right):
            return _truth(left, row) <= _truth(right, row)
        case f.Iff(left, right):
            return _truth(left, row) == _truth(right, row)


@given(_formulas())
@settings(max_examples=150, deadline=None)
def test_printed_formulas_read_back_as_themselves(formula: f.Formula) -> None:
    assert parse(f.to_text(formula)) == formula


@given(_formulas())
@settings(max_examples=60, deadline=None)
def test_tables_and_simplification_keep_the_meaning(formula: f.Formula) -> None:
    atoms = f.order(NAMES)
    mask = tables.table(formula, atoms)
    for row in range(1 << len(atoms)):
        assert bool(mask >> row & 1) == _truth(formula, tables.row_values(row, atoms))
    short = simplify(mask, atoms)
    assert tables.table(short, atoms) == mask
    assert parse(f.to_text(short)) == short
    assert set(tables.atoms_of(short)) == set(tables.relevant(atoms, mask))


_PIECES = st.sampled_from(
    [*"WLTF()~!&|^<->=.' \n", "Ref.", "->", "<->", "and", "not", "⊕", "∧", "é", "𝒲", "0"]
)


@given(st.one_of(st.lists(_PIECES, max_size=30).map("".join), st.text(max_size=40)))
@example("\x00")
@example("W\u2028& $")
@example("W\r\n$")
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_formula_or_a_formula_error(text: str) -> None:
    try:
        formula = parse(text)
    except FormulaError as error:
        told = str(error)
    else:
        told = "column"
        assert parse(f.to_text(formula)) == formula
    assert "column" in told


def test_mutated_formulas_never_give_another_error() -> None:
    rng = random.Random(0)
    source = "(Ref.Winner & Loser) -> (Ref.Loser ^ ~Winner) <-> TRUE"
    for _ in range(2000):
        chars = list(source)
        for _ in range(rng.randrange(1, 6)):
            i = rng.randrange(len(chars))
            chars[i : i + rng.randrange(2)] = rng.choice(
                ["(", ")", "&", "~", "->", "<", "x", ".", "'", " ", "§"]
            )
        try:
            parse("".join(chars))
        except FormulaError:
            continue
