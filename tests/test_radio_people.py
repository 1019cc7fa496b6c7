"""Rationales from people: drafts that stand, texts that people write instead, and what is left without one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from data.errors import DataError
from data.feedback import tables
from data.feedback.assignment import Assignment, next_item
from data.feedback.ballots import Ballot, Edit
from data.feedback.people import add_person
from data.feedback.places import open_place
from data.feedback.stages import set_state
from data.feedback.votes import submit
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.radio.options import RationalePeople
from data.radio.people import Written, by_people
from data.radio.rationales import read_rationales
from data.votes import VotesMissing
from tests.handmade import heliograph

QUESTIONS = [
    {"id": f"q{i}", "question": f"which river is {i}?", "golden_answers": [f"a{i}", f"b{i}"]}
    for i in range(5)
]
DRAFTS = {f"q{i}": f"draft {i}" for i in range(5)}


def ask(folder: Path, drafts: Mapping[str, str] = DRAFTS, **settings: Any) -> Written:
    people = RationalePeople.model_validate({"kind": "people", **settings})
    return by_people(people, QUESTIONS, drafts, folder)


def answer(folder: Path, name: str, ballots: Mapping[str, Ballot]) -> dict[str, Any]:
    """Cast these votes; returns what the page showed, by question."""
    store, stage, _ = open_place(folder)
    seen: dict[str, Any] = {}
    with store:
        with store.read() as connection:
            known = connection.scalar(sa.select(tables.people.c.id).where(tables.people.c.name == name))
        person = known or add_person(store, name)[0].id
        while isinstance(given := next_item(store, stage.id, person), Assignment):
            seen[given.key] = given
            ballot = ballots[given.key]
            submit(store, stage.id, person, given.item_id, ballot, f"{name}-{given.key}")
    return seen


STANDS, FAILS = Ballot("choose", [0]), Ballot("choose", [])


def test_people_let_drafts_stand_or_write_what_is_better(tmp_path: Path) -> None:
    with pytest.raises(VotesMissing, match="5 of 5 rationales wait for people") as waiting:
        ask(tmp_path)
    assert "heliograph label serve" in waiting.value.how
    own = Ballot("choose", [], edit=Edit("  because of the delta ", 0))
    seen = answer(tmp_path, "Ada", {"q0": STANDS, "q1": own, "q2": FAILS, "q3": Ballot("skip"), "q4": STANDS})
    assert seen["q1"].prompt == "which river is 1?\n\nAnswer: a1 / b1"
    with pytest.raises(VotesMissing, match="1 of 5 rationales"):
        ask(tmp_path)  # a skipped question waits for somebody else
    answer(tmp_path, "Bob", {"q3": Ballot("choose", [0], edit=Edit("draft 3", 0))})
    found = ask(tmp_path)
    assert [(row["id"], row["reason"], row["source"]) for row in found.rows] == [
        ("q0", "draft 0", "draft"),
        ("q1", "because of the delta", "people"),
        ("q3", "draft 3", "draft"),  # a text that repeats the draft is the draft
        ("q4", "draft 4", "draft"),
    ]
    assert found.rows[1]["golden_answers"] == ["a1", "b1"]
    assert found.figures == {
        "questions": 5, "written": 1, "drafts_that_stand": 3, "rejected": 1, "unjudged": 0
    }  # fmt: skip
    assert ask(tmp_path) == found
    assert {row["id"] for row in read_jsonl(tmp_path / "votes.jsonl")} == set(DRAFTS)


def test_without_drafts_only_what_people_wrote_counts(tmp_path: Path) -> None:
    with pytest.raises(VotesMissing):
        ask(tmp_path, drafts={})
    ballots = {f"q{i}": FAILS for i in range(1, 5)} | {"q0": Ballot("choose", [], edit=Edit("why", 0))}
    answer(tmp_path, "Ada", {**ballots, "q4": STANDS})  # an empty draft that stands is no rationale
    assert [(row["id"], row["reason"]) for row in ask(tmp_path, drafts={}).rows] == [("q0", "why")]


def test_a_draft_needs_its_share_and_the_last_text_counts(tmp_path: Path) -> None:
    with pytest.raises(VotesMissing, match="who are to see 10 in all"):
        ask(tmp_path, votes_per_item=2)
    answer(tmp_path, "Ada", dict.fromkeys(DRAFTS, STANDS) | {"q0": Ballot("choose", [], edit=Edit("one", 0))})
    answer(tmp_path, "Bob", dict.fromkeys(DRAFTS, FAILS) | {"q0": Ballot("choose", [], edit=Edit("two", 0))})
    half = ask(tmp_path, votes_per_item=2)
    assert {row["reason"] for row in half.rows} == {"two", "draft 1", "draft 2", "draft 3", "draft 4"}
    strict = ask(tmp_path, votes_per_item=2, threshold=0.6)
    assert [row["reason"] for row in strict.rows] == ["two"]
    assert strict.figures["rejected"] == 4


def test_a_lead_may_end_it_and_nothing_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(VotesMissing):
        ask(tmp_path)
    store, stage, _ = open_place(tmp_path)
    with store:
        set_state(store, stage.id, "closed")
    with pytest.raises(DataError, match=r"people left no rationale.*'unjudged': 5"):
        ask(tmp_path)


@pytest.mark.parametrize("votes", [["choose"], ["edit"], ["choose", "edit", "best"]])
def test_votes_that_could_mend_nothing_are_refused(votes: list[str]) -> None:
    with pytest.raises(ValidationError):
        RationalePeople.model_validate({"kind": "people", "votes": votes})


RECIPE = """\
recipe: asked
stages:
  - {name: why, kind: rationalise, DRAFTS questions: q.jsonl, people: {kind: people}}
"""


@pytest.mark.slow
def test_a_run_waits_for_people_and_goes_on_with_what_they_wrote(tmp_path: Path) -> None:
    write_jsonl_atomic(tmp_path / "q.jsonl", QUESTIONS[:2])
    (tmp_path / "asked.yaml").write_text(RECIPE.replace("DRAFTS", "model: tiny, max_new_tokens: 4,"))
    first = heliograph("run", "asked.yaml", cwd=tmp_path)
    assert first.returncode == 75, first.stdout + first.stderr
    assert "why waits: 2 of 2 rationales wait for people" in first.stderr
    folder = tmp_path / "runs" / "asked" / "why"
    drafts = read_rationales(folder / "drafts.jsonl")
    own = {"q0": Ballot("choose", [], edit=Edit("mended", 0)), "q1": STANDS}
    seen = answer(folder, "Ada", own)
    assert seen["q1"].candidates[0]["text"].strip() == drafts["q1"]
    last = heliograph("run", "asked.yaml", cwd=tmp_path)
    assert last.returncode == 0, last.stdout + last.stderr
    assert read_rationales(folder / "rows.jsonl") == {"q0": "mended", "q1": drafts["q1"]}
    figures = json.loads((folder / "people.json").read_text())
    assert (figures["written"], figures["drafts_that_stand"]) == (1, 1)
    (tmp_path / "asked.yaml").write_text(RECIPE.replace("DRAFTS", ""))
    assert "ok, 1 stage" in heliograph("validate", "asked.yaml", cwd=tmp_path).stdout
