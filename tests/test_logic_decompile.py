"""From equations to logic: all closed forms come back, and what is no weighted count is refused."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_logic_table import PAIR, QUAD, TABLE, by_marks
from trainers.logic.decompile import checked, decompile, evaluate, sem
from trainers.logic.equation import read
from trainers.logic.errors import DecompileError, FormulaError, StructureError
from trainers.logic.formula import to_text
from trainers.logic.lookup import named
from trainers.logic.named import registry
from trainers.logic.polynomial import count
from trainers.logic.render import closed_form
from trainers.logic.structure import Structure, from_core, from_sides, reference_form
from trainers.logic.tables import table

# Table 1.7 of the specification, in its own spelling.
SPELLED = {
    "CEUnl": "log w(1-l)/[l+(1-l)(1-w)]",
    "sCE": "log w/[l+(1-l)(1-w)]",
    "l3": "log w(1-l)/(1-w)",
    "CE": "log w/(1-w)",
    "cUNL": "log w(1-l)/l",
    "l20": "log (1-l)/[l+(1-l)(1-w)]",
    "fUnl": "log (1-l)/l",
    "ORPO": "log w(1-l)/[l(1-w)]",
    "CPO": "log w/l",
    "l14": "log [l w+(1-l)]/l",
    "l5": "log [l w+(1-l)]/[l+(1-l)(1-w)]",
    "qfUnl": "log (1-l)/(1-w)",
    "bCPO": "log [l w+(1-l)]/(1-w)",
    "cfUnl": "log (1-l)/[l(1-w)]",
    "cCPO": "log w/[l(1-w)]",
    "unCPO": "log [l w+(1-l)]/[l(1-w)]",
}


@pytest.mark.parametrize("name", SPELLED)
def test_the_closed_forms_of_the_table(name: str) -> None:
    structure = by_marks(TABLE[name].marks)
    assert decompile(SPELLED[name]) == structure
    against = SPELLED[name].removeprefix("log ")
    assert decompile(f"log {against} - log rw/rl") == reference_form(structure)


@pytest.mark.parametrize("name", registry())
def test_the_printed_closed_form_comes_back(name: str) -> None:
    structure = named(name).structure
    assert decompile(closed_form(structure)) == structure


def test_dpo_and_its_spellings() -> None:
    dpo = named("DPO").structure
    for equation in (
        "log (w*rl)/(l*rw)",
        "log (w rl)/(l rw)",
        "log w/l - log rw/rl",
        "log w - log l - log rw + log rl",
        "-log l/w + log(rl/rw)",
        "rho = log ((w*rl) / (l*rw))",
        "w*rl / (l*rw)",
        "ln Winner·Ref.Loser / (Loser × Ref.Winner)",
        "log w/l/rw*rl",
    ):
        assert decompile(equation) == dpo, equation


def test_orpo_as_the_paper_walks_through_it() -> None:
    core = decompile("log (w*(1-l)) / (l*(1-w))").core()
    assert core.texts() == {"formula": "Loser -> Winner", "given": "Winner ^ Loser", "also": "FALSE"}


@pytest.mark.parametrize(
    ("polynomial", "logic"),
    [
        ("w*(1-l)", "Winner & ~Loser"),
        ("1-(w*l)", "~(Winner & Loser)"),
        ("1 - l + l*w", "~Loser | Loser & Winner"),
        ("w - w*l", "Winner & ~(Winner & Loser)"),
        ("1", "TRUE"),
        ("1 - 0", "~FALSE"),
        ("w^1", "Winner"),
    ],
)
def test_sem(polynomial: str, logic: str) -> None:
    assert to_text(checked(read(polynomial).num, "numerator")) == logic


@pytest.mark.parametrize(
    ("equation", "kind", "says"),
    [
        ("log w*w/l", DecompileError, "w is multiplied with itself in the numerator"),
        ("log w/(l*(1-l))", DecompileError, "l is multiplied with itself in the denominator"),
        ("log w^2/l", FormulaError, "a power"),
        ("log w**2 / l", FormulaError, "a power"),
        ("log (w+l)/l", DecompileError, "w true, l true) 2 times"),
        ("log w/(1-w-l)", DecompileError, "-1 times"),
        ("log (1+w)/l", DecompileError, "2 times"),
        ("log (2*w)/l", FormulaError, "coefficient"),
        ("log w/l(1-w)", FormulaError, "not clear what is divided"),
        ("w/l + 1", FormulaError, "quotient inside a sum"),
        ("log w + l", FormulaError, "expected 'log'"),
        ("log (w/l", FormulaError, "or ')'"),
        ("log w/", FormulaError, "found the end"),
        ("log w/l $", FormulaError, "'$'"),
        ("", FormulaError, "found the end"),
        ("log w/w", StructureError, "constant"),
        ("log w/0", StructureError, "degenerate"),
        ("w - 1", DecompileError, "-1 times"),
        ("(" * 500 + "w" + ")" * 500, FormulaError, "deep"),
    ],
)
def test_refusals(equation: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        decompile(equation)
    assert says in str(caught.value)


def test_a_copied_atom_admits_the_square() -> None:
    assert decompile("log (w*w'*rl) / (l*rw*rw')") == named("DPOP").structure


def test_the_logic_counts_to_the_polynomial_inside_the_cube_too() -> None:
    """The check runs on corners; here both sides are compared at interior rationals."""
    rng = random.Random(5)
    for equation in SPELLED.values():
        ratio = read(equation)
        for polynomial in (ratio.num, ratio.den):
            rows = table(sem(polynomial), PAIR)
            for _ in range(20):
                point = {name: Fraction(rng.randrange(1, 30), 30) for name in PAIR}
                assert evaluate(polynomial, point) == count(rows, PAIR, point)


def test_random_structures_survive_the_way_through_their_equation() -> None:
    rng = random.Random(6)
    for _ in range(300):
        t, b = rng.randrange(1, 1 << 16), rng.randrange(1, 1 << 16)
        if t != b:
            structure = Structure(t, b, QUAD)
            assert decompile(closed_form(structure)) == structure


def test_compiling_what_was_decompiled_gives_the_ratio_back() -> None:
    rng = random.Random(7)
    for name, equation in SPELLED.items():
        structure = decompile(equation)
        w, x = (Fraction(rng.randrange(1, 50), 50) for _ in range(2))
        point = {"Winner": w, "Loser": x}
        top, bottom = (count(side, structure.atoms, point) for side in (structure.t, structure.b))
        assert Fraction(top) / Fraction(bottom) == TABLE[name].ratio(w, x)


def test_atoms_of_other_models() -> None:
    expected = from_sides("Judge.Winner & W", "Judge.Loser & L")
    assert decompile("log (Judge.w * w) / (Judge.Loser * l)") == expected
    assert decompile(closed_form(from_core("A -> B"))) == from_core("A -> B")


_PIECES = st.sampled_from([*"wl10()[]+-*/^.' =", "log", "rw", "rl", "(1-w)", "rho", "2.5", "·", "é"])


@given(st.one_of(st.lists(_PIECES, max_size=25).map("".join), st.text(max_size=30)))
@settings(max_examples=400, deadline=None)
def test_any_text_is_an_equation_or_an_error_for_people(text: str) -> None:
    try:
        structure = decompile(text)
    except (FormulaError, DecompileError, StructureError):
        return
    assert decompile(closed_form(structure)) == structure
