"""Two runs side by side: what differs is shown with its difference, and what does not is counted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from pipelines.report.gather import gather
from pipelines.report.sides import figures, flat, labels, side_by_side
from tests.handmade import heliograph
from tests.report_runs import ANSWERS, METRICS, RECIPE, write_run
from tests.test_report import Parsed

SECOND = RECIPE.replace("beta: 0.1", "beta: 0.3").replace("recipe: demo", "recipe: other") + (
    "  - name: more\n    kind: sample\n    model: dpo\n    prompts: prompts.jsonl\n"
)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    metrics = copy.deepcopy(METRICS)
    metrics["evaluate"]["after"]["score"] = 0.9375
    metrics["dpo"]["rewards/margins"] = 3.25
    answers = {**ANSWERS, "after": [("It is a short way to the harbour", 0.75), ("Ask the ferryman", 0.875)]}
    first = write_run(tmp_path)
    second = write_run(
        tmp_path,
        name="other",
        recipe=SECOND,
        until="more",
        metrics=metrics,
        answers=answers,
        losses=[0.5, 0.25],
    )
    return first, second


def shown(runs: tuple[Path, Path]) -> Parsed:
    first, second = map(gather, runs)
    return Parsed(side_by_side(first, second, labels(first, second)))


def test_what_differs_in_the_recipe_and_nothing_else(runs: tuple[Path, Path]) -> None:
    text = shown(runs).text
    recipe = text[
        text.index("What differs in the recipe stage") : text.index("What differs in the result dpo")
    ]
    assert "dpo beta 0.1 0.3" in recipe
    assert "more the stage – is there" in recipe
    assert "learning_rate" not in recipe
    assert "settings are equal" in recipe


def test_what_differs_in_the_result_with_its_difference(runs: tuple[Path, Path]) -> None:
    found = shown(runs)
    assert "rewards/margins 2 3.25 +1.25" in found.text
    assert "after.score 0.875 0.9375 +0.0625" in found.text
    assert "train_loss" not in found.text
    dots = [
        e["aria-label"]
        for n, e in found.elements
        if n == "svg" and "Mean score" in (e.get("aria-label") or "")
    ]
    assert dots == [
        "Mean score: before, demo 0.375; before, other 0.375; after, demo 0.875; after, other 0.938"
    ]


def test_curves_lie_over_each_other(runs: tuple[Path, Path]) -> None:
    curves = [
        (e["data-label"], e["data-points"], "dashed" in (e["class"] or ""))
        for n, e in shown(runs).elements
        if n == "g" and "curve" in (e.get("class") or "") and "loss" in (e.get("data-label") or "")
    ]
    assert ("demo: loss", "0,0.693151 5,0.6817 10,0.5523 15,0.4391 20,0.3012", False) in curves
    assert ("other: loss", "0,0.693151 5,0.5 10,0.25", True) in curves


def test_answers_that_differ_stand_side_by_side(runs: tuple[Path, Path]) -> None:
    text = shown(runs).text
    assert "1 of 2 shared prompts are answered differently" in text
    assert "demo: after 1 Ask the miller" in text
    assert "other: after 0.875 Ask the miller ferryman" in text  # The miller is struck out.


def test_changed_files_are_named_by_their_sums(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    second = write_run(tmp_path / "b", prompt="Where is the mill?")
    text = shown((first, second)).text
    assert "candidates content of prompts.jsonl" in text
    assert str(first) in text  # Their names are one, so their folders are told.
    assert str(second) in text


def test_a_run_and_itself_differ_in_nothing(runs: tuple[Path, Path]) -> None:
    text = shown((runs[0], runs[0])).text
    assert "Nothing: their recipes, files and versions are the same." in text
    assert "differently" in text
    assert "0 of 2 shared prompts are answered differently" in text
    assert "Equal, step for step." in text
    assert "+0" not in text


def test_an_unfinished_second_run_says_so(runs: tuple[Path, Path]) -> None:
    (runs[1] / "dpo" / "done.json").write_text("{")
    text = shown(runs).text
    assert "other: dpo/done.json: the state file is corrupt" in text
    assert "other ! damaged" in text


def test_the_verb_takes_two_runs(runs: tuple[Path, Path]) -> None:
    home = runs[0].parent.parent
    done = heliograph("report", "demo", "other", cwd=home)
    assert (done.returncode, done.stdout) == (0, "runs/demo/report-demo-other.html\n"), done.stderr
    again = heliograph("report", "demo", "other", "--out", "both.html", cwd=home)
    assert again.stdout == "both.html\n"
    assert (home / "both.html").read_text() == (runs[0] / "report-demo-other.html").read_text()
    absent = heliograph("report", "demo", "nothing", cwd=home)
    assert absent.returncode == 2
    assert "there is no run here" in absent.stderr


def test_nested_values_get_dotted_names() -> None:
    value = json.loads('{"a": {"b": [1, {"c": 2}]}, "d": [], "e": null}')
    assert dict(flat(value)) == {"a.b[0]": 1, "a.b[1].c": 2, "d": [], "e": None}
    assert figures({"x": {"y": 1.5, "n": "word"}, "train_seconds": 3.0, "z": True}) == {"x.y": 1.5}
