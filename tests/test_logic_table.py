"""The sixteen losses of the lattice, written out by hand; the other logic tests take them from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from trainers.logic.formula import FALSE, TRUE, Formula, to_text
from trainers.logic.language import parse
from trainers.logic.lookup import named
from trainers.logic.named import LATTICE
from trainers.logic.render import closed_form, log_space
from trainers.logic.structure import Structure, from_core, reference_form

PAIR = ("Winner", "Loser")
QUAD = ("Winner", "Loser", "Ref.Winner", "Ref.Loser")


class Row(NamedTuple):
    marks: str  # rows TT, TF, FT, FF of (Winner, Loser): T check, B cross, X both, - neither
    ratio: Callable[[Any, Any], Any]  # exp(rho) of the probabilities of winner and loser
    core: str
    given: str
    also: str


TABLE: dict[str, Row] = {
    "CEUnl": Row("BTBB", lambda w, x: w * (1 - x) / (x + (1 - x) * (1 - w)), "W & ~L", "TRUE", "FALSE"),
    "sCE": Row("XTBB", lambda w, x: w / (x + (1 - x) * (1 - w)), "W", "TRUE", "W & L"),
    "l3": Row("-TBB", lambda w, x: w * (1 - x) / (1 - w), "W", "~(W & L)", "FALSE"),
    "CE": Row("TTBB", lambda w, x: w / (1 - w), "W", "TRUE", "FALSE"),
    "cUNL": Row("BTB-", lambda w, x: w * (1 - x) / x, "~L", "W | L", "FALSE"),
    "l20": Row("BTBX", lambda w, x: (1 - x) / (x + (1 - x) * (1 - w)), "~L", "TRUE", "~W & ~L"),
    "fUnl": Row("BTBT", lambda w, x: (1 - x) / x, "~L", "TRUE", "FALSE"),
    "ORPO": Row("-TB-", lambda w, x: w * (1 - x) / (x * (1 - w)), "L -> W", "W ^ L", "FALSE"),
    "CPO": Row("XTB-", lambda w, x: w / x, "L -> W", "W | L", "W & L"),
    "l14": Row("XTBT", lambda w, x: (x * w + 1 - x) / x, "L -> W", "TRUE", "W & L"),
    "l5": Row("XTBX", lambda w, x: (x * w + 1 - x) / (x + (1 - x) * (1 - w)), "L -> W", "TRUE", "W <-> L"),
    "qfUnl": Row("-TBX", lambda w, x: (1 - x) / (1 - w), "L -> W", "~(W & L)", "~W & ~L"),
    "bCPO": Row("TTBX", lambda w, x: (x * w + 1 - x) / (1 - w), "L -> W", "TRUE", "~W & ~L"),
    "cfUnl": Row("-TBT", lambda w, x: (1 - x) / (x * (1 - w)), "L -> W", "~(W & L)", "FALSE"),
    "cCPO": Row("TTB-", lambda w, x: w / (x * (1 - w)), "L -> W", "W | L", "FALSE"),
    "unCPO": Row("TTBT", lambda w, x: (x * w + 1 - x) / (x * (1 - w)), "L -> W", "TRUE", "FALSE"),
}
# Bits of the rows TT, TF, FT, FF when Winner is atom 0 and Loser atom 1.
_BITS = (3, 1, 2, 0)

STABLE = {
    "CEUnl": "log w + log(1-l) - logaddexp(log l, log(1-w) + log(1-l))",
    "cUNL": "log w + log(1-l) - log l",
    "CPO": "log w - log l",
    "ORPO": "log w + log(1-l) - (log(1-w) + log l)",
    "l5": "logaddexp(log w + log l, log(1-l)) - logaddexp(log l, log(1-w) + log(1-l))",
    "unCPO": "logaddexp(log w + log l, log(1-l)) - (log(1-w) + log l)",
}


def sides(marks: str) -> tuple[int, int]:
    check = sum(1 << bit for bit, mark in zip(_BITS, marks, strict=True) if mark in "TX")
    cross = sum(1 << bit for bit, mark in zip(_BITS, marks, strict=True) if mark in "BX")
    return check, cross


def by_marks(marks: str) -> Structure:
    return Structure(*sides(marks), PAIR)


def test_the_registry_holds_these_sixteen_in_this_order() -> None:
    assert list(LATTICE) == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_truth_table(name: str) -> None:
    row = TABLE[name]
    structure = named(name).structure
    assert structure == by_marks(row.marks)
    assert structure == from_core(row.core, row.given, row.also)
    assert structure.on(PAIR) == sides(row.marks)


def _spelled(text: str) -> Formula:
    return {"TRUE": TRUE, "FALSE": FALSE}.get(text) or parse(text)


@pytest.mark.parametrize("name", TABLE)
def test_the_formulas_are_printed_as_the_table_has_them(name: str) -> None:
    row = TABLE[name]
    core = named(name).structure.core()
    assert core.texts() == {
        "formula": to_text(_spelled(row.core)),
        "given": to_text(_spelled(row.given)),
        "also": to_text(_spelled(row.also)),
    }


@pytest.mark.parametrize("name", STABLE)
def test_the_stable_form_is_the_one_of_the_table(name: str) -> None:
    assert log_space(named(name).structure) == STABLE[name]


def test_dpo_is_the_reference_form_of_cpo() -> None:
    dpo = named("DPO").structure
    assert dpo == reference_form(by_marks("XTB-"))
    both = "Ref.Winner & Loser & Ref.Loser & Winner"
    either = "(Ref.Winner & Loser) | (Ref.Loser & Winner)"
    assert dpo == from_core("(Ref.Winner & Loser) -> (Ref.Loser & Winner)", either, both)
    assert to_text(dpo.core().formula) == "Ref.Winner & Loser -> Ref.Loser & Winner"
    assert to_text(dpo.core().given) == "Ref.Winner & Loser | Ref.Loser & Winner"
    assert closed_form(dpo) == "log (w*rl) / (l*rw)"


def test_the_novel_loss_of_the_slides_is_the_reference_form_of_orpo() -> None:
    structure = named("ref-ORPO").structure
    assert to_text(structure.core().formula) == "Ref.Winner & Loser -> Winner"
    assert closed_form(structure) == "log (w*(1-l)*rl) / ((1-w)*l*rw)"
