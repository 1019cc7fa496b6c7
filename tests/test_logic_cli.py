"""`heliograph loss`: what each verb prints, the JSON of each, and errors that leave with 2."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipelines.losses.cli import loss_app
from tests.test_logic_table import TABLE
from trainers.logic.named import LATTICE, registry

_MOUNTED = typer.Typer()
_MOUNTED.add_typer(loss_app, name="loss")


@_MOUNTED.command()
def other() -> None:
    """A second verb, so that typer keeps the first one's name."""


def _run(*words: str) -> Any:
    return CliRunner().invoke(_MOUNTED, ["loss", *words])


def _text(*words: str) -> str:
    done = _run(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def _json(*words: str) -> Any:
    return json.loads(_text(*words, "--json"))


def test_list() -> None:
    assert [x["name"] for x in _json("list")] == list(registry())
    lines = _text("list").splitlines()
    assert len(lines) == len(registry()) + 1
    assert any("Loser -> Winner" in line and "ORPO" in line for line in lines)


@pytest.mark.parametrize("name", registry())
def test_show_every_loss(name: str) -> None:
    told = _json("show", name)
    assert told["name"] == name
    assert {"formula", "given", "also", "table", "closed_form", "latex", "stable", "needs", "step0"} <= set(
        told
    )
    assert {"gradient", "warnings", "collapses", "link", "beta", "sft_weight", "loss", "notes"} <= set(told)
    assert len(told["table"]) == 2 ** len(told["atoms"])
    text = _text("show", name.upper())
    assert told["closed_form"] in text
    assert told["stable"] in text


def test_show_prints_the_truth_table_of_the_specification() -> None:
    words = {"T": "check", "B": "cross", "X": "both", "-": "neither"}
    for name in LATTICE:
        told = _json("show", name)
        assert told["atoms"] == ["Winner", "Loser"]
        marks = {(row["row"]["Winner"], row["row"]["Loser"]): row["mark"] for row in told["table"]}
        order = [(True, True), (True, False), (False, True), (False, False)]
        assert [marks[place] for place in order] == [words[c] for c in TABLE[name].marks]


def test_show_a_formula() -> None:
    told = _json("show", "L -> W", "--given", "W ^ L", "--link", "hinge", "--beta", "2")
    assert told["same_structure"] == ["ORPO"]
    assert (told["link"], told["beta"]) == ("hinge", 2.0)
    assert told["needs"] == {"reference": False, "length_normalisation": True}
    step0 = _json("show", "dpo")["step0"]
    assert step0 == {"constant": True, "value": pytest.approx(math.log(2)), "at": None}
    assert _json("show", "npo")["step0"]["value"] == pytest.approx(20 * math.log(2))
    assert _json("show", "ipo")["step0"]["value"] == pytest.approx(25)
    assert not _json("show", "simpo")["step0"]["constant"]


def test_a_name_that_no_row_has_is_noted_with_the_nearest() -> None:
    (note,) = _json("show", "Winer -> Loser")["notes"]
    assert note.startswith("`Winer` is no prediction of a row")
    assert note.endswith("did you mean Winner?")
    assert _json("show", "Winner' & Loser -> Ref.Winner")["notes"] == []


@pytest.mark.parametrize(
    ("a", "b", "relation"),
    [
        ("CEUnl", "unCPO", "entails"),
        ("unCPO", "CEUnl", "entailed_by"),
        ("CPO", "slic", "equal"),
        ("l3", "sCE", "incomparable"),
        ("L -> W", "unCPO", "equal"),
    ],
)
def test_compare(a: str, b: str, relation: str) -> None:
    told = _json("compare", a, b)
    assert set(told) == {"relation", "witness"}
    assert told["relation"] == relation
    if relation == "equal":
        assert told["witness"] is None
    else:
        assert set(told["witness"]) >= {"row", "a", "b"}
        assert told["witness"]["a"] != told["witness"]["b"]
    assert _text("compare", a, b)


@pytest.mark.parametrize(
    ("words", "relation"),
    [
        (("L -> W", "CPO", "--given", "W | L", "--also", "W & L"), "equal"),
        (("CPO", "L -> W", "--given", "W | L", "--also", "W & L"), "equal"),
        (("L -> W", "~L | W", "--given", "W ^ L"), "equal"),
        (("L -> W", "L -> W", "--given", "W | L", "--given-b", "TRUE"), "entails"),
        (("W", "W", "--also-b", "W & L"), "entailed_by"),
        (("L -> W", "ORPO", "--given-b", "T"), "error"),
        (("CPO", "ORPO", "--given", "W"), "error"),
    ],
)
def test_compare_with_conditions_on_either_side(words: tuple[str, ...], relation: str) -> None:
    if relation == "error":
        assert "brings its own conditions" in _run("compare", *words).stderr
    else:
        assert _json("compare", *words)["relation"] == relation


def test_compare_says_that_only_the_link_differs() -> None:
    assert "they differ in the link: CPO logistic, SLiC hinge" in _text("compare", "CPO", "SLiC")


def test_decompile() -> None:
    told = _json("decompile", "log (w*(1-l)) / (l*(1-w))")
    assert told == {"formula": "Loser -> Winner", "given": "Winner ^ Loser", "also": "FALSE"}
    assert "ORPO" in _text("decompile", "log (w*(1-l)) / (l*(1-w))")
    done = _run("decompile", "log w*w / l")
    assert done.exit_code == 2
    assert "multiplied with itself" in done.stderr


def test_neighbours() -> None:
    told = _json("neighbours", "CPO")
    assert set(told) == {"up", "down"}
    assert {n for step in told["up"] for n in step["names"]} >= {"cCPO", "l14"}
    assert {n for step in told["down"] for n in step["names"]} >= {"cUNL", "sCE"}
    assert set(told["up"][0]) == {
        "names",
        "row",
        "before",
        "after",
        "formula",
        "given",
        "also",
        "closed_form",
    }
    text = _text("neighbours", "CPO")
    assert "cCPO" in text
    assert "on both sides -> for" in text  # the words of `show`


def test_search() -> None:
    assert len(_json("search")) == 40
    assert len(_json("search", "--new")) == 24
    assert {n for x in _json("search", "--collapses", "--named") for n in x["names"]} == {
        "fUnl",
        "cfUnl",
        "unCPO",
        "l14",
    }
    assert _text("search", "--no-averages", "--both").strip().endswith("1 losses")


def test_value() -> None:
    told = _json("value", "cpo", "--w", "-1.2", "--l", "-0.7", "--beta", "2")
    assert set(told) == {"rho", "loss", "grad"}
    assert set(told["grad"]) == {"w", "l"}
    slope = -2 / (1 + math.exp(2 * -0.5))
    assert told["rho"] == pytest.approx(-0.5)
    assert told["loss"] == pytest.approx(math.log1p(math.exp(1.0)))
    assert told["grad"] == {"w": pytest.approx(slope), "l": pytest.approx(-slope)}


def test_value_with_a_reference() -> None:
    words = ["value", "dpo", "--w", "-1.2", "--l", "-0.7", "--rw", "-1.0", "--rl", "-1.1", "--beta", "0.1"]
    told = _json(*words)
    assert told["rho"] == pytest.approx(-0.6)
    assert told["loss"] == pytest.approx(math.log1p(math.exp(0.06)))
    assert set(told["grad"]) == {"w", "l"}
    assert "d loss / d log w" in _text(*words)
    simpo = _json("value", "simpo", "--w", "-1", "--l", "-2", "--offset", "0.3", "--beta", "2")
    assert simpo["loss"] == pytest.approx(math.log1p(math.exp(-2 * 0.7)))


@pytest.mark.parametrize("name", LATTICE)
def test_value_of_the_lattice_by_finite_differences(name: str) -> None:
    def loss(w: float, x: float) -> float:
        ratio = TABLE[name].ratio(math.exp(w), math.exp(x))
        return math.log1p(1 / ratio)

    told = _json("value", name, "--w", "-1.2", "--l", "-0.7", "--beta", "1")
    step = 1e-6
    assert told["loss"] == pytest.approx(loss(-1.2, -0.7), rel=1e-12)
    by_w = (loss(-1.2 + step, -0.7) - loss(-1.2 - step, -0.7)) / (2 * step)
    by_l = (loss(-1.2, -0.7 + step) - loss(-1.2, -0.7 - step)) / (2 * step)
    assert told["grad"]["w"] == pytest.approx(by_w, abs=1e-8)
    assert told["grad"]["l"] == pytest.approx(by_l, abs=1e-8)


def test_value_of_other_atoms() -> None:
    told = _json("value", "Judge.W -> W", "--w", "-1", "--atom", "Judge.Winner=-0.5")
    w, judge = math.exp(-1), math.exp(-0.5)
    assert told["rho"] == pytest.approx(math.log((judge * w + 1 - judge) / (judge * (1 - w))))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "W & "], "column"),
        (["show", "dop"], "did you mean DPO"),
        (["show", "cpo", "--given", "W"], "own conditions"),
        (["show", "cpo", "--link", "cubic"], "logistic"),
        (["show", "cpo", "--beta", "-1"], "beta"),
        (["show", "W & ~W"], "degenerate"),
        (["compare", "cpo", "W | | L"], "column 5"),
        (["value", "dpo", "--w", "-1", "--l", "-1"], "--rw --rl"),
        (["value", "cpo", "--w", "1", "--l", "-1"], "no log-probability"),
        (["value", "cpo", "--w", "nan", "--l", "-1"], "no log-probability"),
        (["value", "cpo", "--w", "-1", "--l", "-1", "--offset", "1"], "no offset"),
        (["value", "cpo", "--w", "-1", "--l", "-1", "--atom", "x"], "NAME=LOGPROB"),
        (["value", "cpo", "--w", "-1", "--l", "-1", "--floor", "0"], "floor"),
        (["value", "cpo", "--w", "-1", "--l", "-1", "--beta", "0"], "beta"),
        (["decompile", "log (w+l)/l"], "2 times"),
        (["neighbours", "nothing-like-it"], "no loss is called"),
    ],
)
def test_errors_go_to_stderr_and_leave_with_2(words: list[str], says: str) -> None:
    done = _run(*words)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["list"], ["show", "dpo"], ["search"], ["compare", "cpo", "orpo"], ["neighbours", "ref-l5"]]
)
def test_answers_in_under_a_second(words: list[str]) -> None:
    def seconds() -> float:
        start = time.monotonic()
        program = "from pipelines.losses.cli import loss_app; loss_app()"
        subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
        return time.monotonic() - start

    assert min(seconds() for _ in range(3)) < 1.0
