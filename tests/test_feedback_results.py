"""From votes to rows: weights, shares and records, each small enough to be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.feedback.ballots import Ballot, Edit
from data.feedback.items import NewItem, add_items
from data.feedback.readings import preferences, ratings, scores, shared
from data.feedback.results import (
    accepted_rows,
    judged_records,
    judgements,
    preference_pairs,
    undecided,
    unpaired_rows,
    vote_lines,
    write_votes,
)
from data.feedback.roster import bar
from data.feedback.stages import Stage, set_state
from data.feedback.store import Store
from data.feedback.votes import submit
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.judging import VotesFile, make_pairs
from tests import labelling
from tests.labelling import a_stage, annotators, given

sqlite = labelling.sqlite
EVERY = ("choose", "best", "rank", "tie", "skip", "flag", "edit")


def vote(store: Store, stage: Stage, person: int, ballot: Ballot, now: float = 50.0) -> int:
    item = given(store, stage, person, now=now).item_id
    return submit(store, stage.id, person, item, ballot, f"{item}", now=now).vote_id


def test_votes_as_preferences_and_scores() -> None:
    assert preferences("best", 2, 3, 3, 3) == [(0, 2, -1.0), (1, 2, -1.0)]
    assert preferences("best", 0, 1, 2, 4) == [(0, 1, 0.25)]
    assert preferences("tie", None, None, 2, 3) == [(0, 1, 0.0)]
    assert preferences("rank", [1, 2, 2], None, 3, 3) == [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.0)]
    assert preferences("rank", [2, None, 1], None, 3, 3) == [(0, 2, -1.0)]
    assert preferences("choose", [1], None, 3, 3) == [(0, 1, -1.0), (1, 2, 1.0)]
    assert preferences("skip", None, None, 3, 3) == []
    assert scores("best", 1, 2, 2, 4) == [0.25, 0.75]
    assert scores("rank", [1, 2, 2, None], None, 4, 3) == [1.0, 0.25, 0.25, None]
    assert scores("choose", [], None, 2, 3) == [0.0, 0.0]
    assert scores("flag", None, None, 2, 3) is None
    assert [(r.unit, r.value) for r in ratings(1, 2, "choose", [1], 2)] == [((0,), 0.0), ((1,), 1.0)]
    assert shared([("best", 0), ("best", 0), ("tie", None)]) == pytest.approx(2 / 3)


def test_pairs_carry_weight_votes_and_agreement(sqlite: Store) -> None:
    """Strengths 3, 1 for a, 2 for b, one tie: (3 + 1 - 2 + 0) / 3 / 4 = 1/6; two of four say a."""
    stage = a_stage(sqlite, items=1, overlap=4)
    people = annotators(sqlite, 4)
    ballots = [Ballot("best", 0, 3), Ballot("best", 0, 1), Ballot("best", 1, 2), Ballot("tie")]
    ids = [vote(sqlite, stage, person, ballot) for person, ballot in zip(people, ballots, strict=True)]
    (row,) = preference_pairs(judgements(sqlite, stage.id))
    assert row == {
        "prompt": "prompt of i0",
        "chosen": "a",
        "rejected": "b",
        "weight": pytest.approx(1 / 6),
        "n_votes": 4,
        "agreement": 0.5,
        "id": "i0",
        "chosen_index": 0,
        "rejected_index": 1,
        "source": "votes",
        "vote_ids": ids,
    }
    assert list(preference_pairs(judgements(sqlite, stage.id), min_agreement=0.6)) == []
    # Whoever is trusted twice as much counts twice: (3 + 1 - 2 * 2 + 0) = 0, so nobody wins.
    of = judgements(sqlite, stage.id, trust={people[2]: 2.0})
    assert list(preference_pairs(of)) == []
    assert (undecided(of), undecided(judgements(sqlite, stage.id))) == (1, 0)
    bar(sqlite, stage.id, people[0], "guesses", votes_count=False)
    (row,) = preference_pairs(judgements(sqlite, stage.id))
    # (1 - 2 + 0) / 3 / 3: b wins by 1/9, and one of three says so.
    assert (row["chosen"], row["n_votes"]) == ("b", 3)
    assert (row["weight"], row["agreement"]) == (pytest.approx(1 / 9), pytest.approx(1 / 3))


def test_choices_make_records_rows_and_pairs(sqlite: Store) -> None:
    """a: accepted by both, b: by one, c: by none."""
    stage = a_stage(sqlite, items=0, overlap=2, kinds=EVERY)
    texts = [{"text": text, "temperature": 0.3} for text in "abc"]
    add_items(sqlite, stage.id, [NewItem("q", "p", texts, image="cat.png", extra={"iteration": 2})])
    add_items(sqlite, stage.id, [NewItem("unjudged", "p2", texts)])
    one, other = annotators(sqlite, 2)
    for person, chosen in ((one, [0]), (other, [0, 1])):
        while given(sqlite, stage, person).key != "q":
            vote(sqlite, stage, person, Ballot("skip"))
        vote(sqlite, stage, person, Ballot("choose", chosen))
    of = judgements(sqlite, stage.id)
    records = list(judged_records(of))
    assert [(r["candidate"], r["accepted"], r["score"], r["judge"]) for r in records] == [
        ("a", True, 1.0, "person 0"),
        ("b", False, 0.0, "person 0"),
        ("c", False, 0.0, "person 0"),
        ("a", True, 1.0, "person 1"),
        ("b", True, 1.0, "person 1"),
        ("c", False, 0.0, "person 1"),
    ]
    first = {name: records[0][name] for name in ("id", "iteration", "prompt", "image", "temperature", "time")}
    assert first == {
        "id": "q",
        "iteration": 2,
        "prompt": "p",
        "image": "cat.png",
        "temperature": 0.3,
        "time": 50.0,
    }
    labels = [(row["completion"], row["label"], row["weight"], row["agreement"]) for row in unpaired_rows(of)]
    assert labels == [("a", True, 1.0, 1.0), ("c", False, 1.0, 1.0)]
    assert [(row["completion"], row["prompt"], row["image"]) for row in accepted_rows(of)] == [
        ("a", "p", "cat.png")
    ]
    pairs = [(r["chosen"], r["rejected"], r["weight"], r["n_votes"]) for r in preference_pairs(of)]
    # a over b: one of the two compares them; a over c: both; b over c: one.
    assert pairs == [("a", "b", 1.0, 1), ("a", "c", 1.0, 2), ("b", "c", 1.0, 1)]


def test_an_edit_beats_what_it_betters_and_is_accepted(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=1, overlap=2, kinds=EVERY)
    one, other = annotators(sqlite, 2)
    first = vote(sqlite, stage, one, Ballot("best", 0, edit=Edit("A!", 0)))
    second = vote(sqlite, stage, other, Ballot("edit", edit=Edit("fresh")))
    of = judgements(sqlite, stage.id)
    pairs = [(r["chosen"], r["rejected"], r["source"], r["vote_ids"]) for r in preference_pairs(of)]
    assert pairs == [("a", "b", "votes", [first]), ("A!", "a", "edit", [first])]
    assert [(r["completion"], r["vote_ids"]) for r in accepted_rows(of)] == [
        ("A!", [first]),
        ("fresh", [second]),
    ]
    assert [r["source"] for r in preference_pairs(of, edits=False)] == ["votes"]


def test_conversations_stay_conversations_and_gold_stays_out(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=2, gold=2, overlap=1)
    person = annotators(sqlite, 1)[0]
    prompt = [{"role": "user", "content": "Hi"}]
    add_items(sqlite, stage.id, [NewItem("talk", prompt, [{"text": "a"}, {"text": "b"}])])
    vote(sqlite, stage, person, Ballot("best", 1))
    (row,) = preference_pairs(judgements(sqlite, stage.id))
    assert row["chosen"] == [{"role": "assistant", "content": "b"}]
    assert row["prompt"] == prompt
    assert [item.key for item in judgements(sqlite, stage.id, gold=True).items] == ["i0", "i1", "talk"]


def test_a_judge_stage_reads_the_votes_and_comes_to_the_same_pairs(sqlite: Store, tmp_path: Path) -> None:
    stage = a_stage(sqlite, items=6, overlap=3)
    people = annotators(sqlite, 3)
    choices = [Ballot("best", 0, 3), Ballot("best", 1, 1), Ballot("tie"), Ballot("best", 0, 2)]
    for n in range(18):
        vote(sqlite, stage, people[n % 3], choices[(n * 7) % 4])
    of = judgements(sqlite, stage.id)
    write_jsonl_atomic(
        tmp_path / "candidates.jsonl",
        ({"id": i.key, "prompt": i.prompt, "candidates": i.candidates} for i in of.items),
    )
    assert write_votes(sqlite, stage.id, tmp_path / "votes.jsonl") == 18
    (tmp_path / "out").mkdir()
    settings: dict[str, Any] = {"pairing": "best_worst", "min_margin": 1e-6, "max_pairs_per_prompt": 6}
    out = tmp_path / "out" / "rows.jsonl"
    make_pairs(tmp_path / "candidates.jsonl", VotesFile(path="votes.jsonl"), out, base=tmp_path, **settings)
    theirs = {r["id"]: (r["chosen"], r["rejected"], r["margin"]) for r in read_jsonl(out)}
    ours = {
        r["id"]: (r["chosen"], r["rejected"], pytest.approx(r["weight"], abs=1e-8))
        for r in preference_pairs(of)
    }
    assert theirs == ours
    assert len(ours) > 2


def test_what_nobody_will_judge_is_settled_for_a_judge_stage(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=2, overlap=1, flags_to_close=1)
    person = annotators(sqlite, 1)[0]
    flagged = given(sqlite, stage, person).key
    vote(sqlite, stage, person, Ballot("flag", comment="broken"))
    lines = list(vote_lines(judgements(sqlite, stage.id)))
    assert lines == [{"id": flagged, "scores": [None, None]}]
    set_state(sqlite, stage.id, "closed")
    assert len(list(vote_lines(judgements(sqlite, stage.id)))) == 2
    json.dumps(lines, allow_nan=False)
