"""People inside the ILLUME loop: every iteration waits for their votes on one page, and what they chose is learned."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from data.errors import DataError
from data.feedback import tables
from data.feedback.assignment import Assignment, next_item
from data.feedback.ballots import Ballot, Edit
from data.feedback.people import add_person
from data.feedback.places import open_place
from data.feedback.stages import get_stage, set_state
from data.feedback.store import Store
from data.feedback.votes import submit
from data.illume.critic import PeopleCritic
from data.illume.items import Item
from data.illume.people import by_people
from data.illume.verdicts import Found, Sheet
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.votes import VotesMissing
from tests.handmade import environment
from tests.label_client import Client, serve
from tests.labelling import check_counters
from tests.postgres import fresh_database

Say = Callable[[str, list[str]], Ballot]
"""What a person says of an item: its key without the iteration, and its texts."""


def sheet(folder: Path, k: int = 0, *, budget: int | None = None, **sizes: int) -> Sheet:
    sizes = sizes or {"a": 3, "b": 2}
    rows = [
        {
            "id": key,
            "prompt": f"{key}? yes because",
            "image": None,
            "candidates": [
                {"text": f"{key}{i} of {k}", "temperature": 0.3, "prompt": f"{key}? yes because"}
                for i in range(size)
            ],
        }
        for key, size in sizes.items()
    ]
    items = {key: Item(key, f"rows:{key}", {"prompt": f"{key}?", "answer": "yes"}) for key in sizes}
    file = folder / "iterations" / f"{k:02d}" / "candidates.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    return Sheet(k, rows, items, file, budget)


def ask(folder: Path, one: Sheet, **critic: Any) -> Found:
    people = PeopleCritic.model_validate({"kind": "people", **critic})
    return by_people(people, folder, folder, one)


def answer(folder: Path, name: str, says: Say, most: int = 99, database: str | None = None) -> list[str]:
    """One person answers what the page gives; returns the items' keys as they came."""
    seen: list[str] = []
    store, stage, _ = open_place(folder, database)
    with store:
        with store.read() as connection:
            known = connection.scalar(sa.select(tables.people.c.id).where(tables.people.c.name == name))
        person = known or add_person(store, name)[0].id
        while len(seen) < most:
            given = next_item(store, stage.id, person)
            if not isinstance(given, Assignment):
                break
            texts = [one["text"] for one in sorted(given.candidates, key=lambda one: one["index"])]
            ballot = says(given.key.split("/", 1)[1], texts)
            submit(store, stage.id, person, given.item_id, ballot, f"{name}-{given.key}")
            seen.append(given.key)
    return seen


def choosing(*wanted: int) -> Say:
    return lambda _, texts: Ballot("choose", [i for i in wanted if i < len(texts)])


def test_an_iteration_waits_for_its_votes_and_its_page_closes_when_they_are_in(tmp_path: Path):
    with pytest.raises(VotesMissing, match=r"iteration 0: 2 of 2 items need votes, 4 in all; 0 are there"):
        ask(tmp_path, sheet(tmp_path), votes_per_item=2)
    assert sorted(answer(tmp_path, "Ada", choosing(0, 1))) == ["0/a", "0/b"]
    with pytest.raises(VotesMissing, match=r"2 of 2 items need votes, 2 in all; 2 are there"):
        ask(tmp_path, sheet(tmp_path), votes_per_item=2)
    answer(tmp_path, "Bob", choosing(0))
    found = ask(tmp_path, sheet(tmp_path), votes_per_item=2)
    # Both chose the first, one of two the second, nobody the third.
    assert [one[:2] for one in found.verdicts["a"]] == [(True, 1.0), (None, 0.5), (False, 0.0)]
    assert [(one.n_votes, one.agreement) for one in found.verdicts["a"]] == [(2, 1.0), (2, 0.5), (2, 1.0)]
    assert found.figures == {"asked": 2, "votes": 4, "people": 2, "disputed": 2, "written": 0}
    with Store(tmp_path / "label.sqlite") as store, store.read() as connection:
        stage = connection.execute(sa.select(tables.stages)).one()
        votes = set(connection.scalars(sa.select(tables.votes.c.id)))
        assert stage.state == "closed"
    assert {i for said in found.verdicts.values() for one in said for i in one.vote_ids} == votes
    # Asked again, as after a kill, it says the same.
    assert ask(tmp_path, sheet(tmp_path), votes_per_item=2) == found
    rows = read_jsonl(tmp_path / "iterations" / "00" / "votes.jsonl")
    assert sorted(vote["person"] for row in rows for vote in row["votes"]) == ["Ada", "Ada", "Bob", "Bob"]


def test_a_single_threshold_decides_where_disagreement_is_allowed(tmp_path: Path):
    with pytest.raises(VotesMissing):
        ask(tmp_path, sheet(tmp_path, a=2), votes_per_item=3)
    for name, says in (("Ada", choosing(0)), ("Bob", choosing(0)), ("Cy", choosing(1))):
        answer(tmp_path, name, says)
    found = ask(tmp_path, sheet(tmp_path, a=2), votes_per_item=3)
    assert [one.accepted for one in found.verdicts["a"]] == [True, False]
    assert found.verdicts["a"][0].score == pytest.approx(2 / 3)
    strict = ask(tmp_path, sheet(tmp_path, a=2), votes_per_item=3, threshold=0.9)
    assert [one.accepted for one in strict.verdicts["a"]] == [False, False]
    agreed = ask(tmp_path, sheet(tmp_path, a=2), votes_per_item=3, min_agreement=0.7)
    assert [one.accepted for one in agreed.verdicts["a"]] == [None, None]


def test_the_next_iteration_opens_the_same_page_and_asks_for_nothing_old(tmp_path: Path):
    with pytest.raises(VotesMissing):
        ask(tmp_path, sheet(tmp_path, a=2, b=2, c=2))
    assert len(answer(tmp_path, "Ada", choosing(0), most=2)) == 2
    # Somebody holds the third item while the lead ends the iteration.
    store, stage, _ = open_place(tmp_path)
    with store:
        bob = add_person(store, "Bob")[0].id
        held = next_item(store, stage.id, bob)
        assert isinstance(held, Assignment)
        set_state(store, stage.id, "closed")
    found = ask(tmp_path, sheet(tmp_path, a=2, b=2, c=2))
    unjudged = [key for key, said in found.verdicts.items() if said[0].accepted is None]
    assert unjudged == [held.key.split("/")[1]]
    assert [one.n_votes for one in found.verdicts[unjudged[0]]] == [0, 0]
    with pytest.raises(VotesMissing, match=r"iteration 1: 2 of 2 items need votes, 2 in all; 0 are there"):
        ask(tmp_path, sheet(tmp_path, 1, a=2, d=2))
    store, stage, _ = open_place(tmp_path)
    with store:
        assert get_stage(store, stage.id).state == "open"
        check_counters(store, stage)
    assert sorted(answer(tmp_path, "Bob", choosing(1))) == ["1/a", "1/d"]
    second = ask(tmp_path, sheet(tmp_path, 1, a=2, d=2))
    assert [one.accepted for one in second.verdicts["a"]] == [False, True]
    with Store(tmp_path / "label.sqlite") as store, store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.stages)) == 1
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.votes)) == 4


def test_edits_are_accepted_texts_of_their_own_and_skips_say_nothing(tmp_path: Path):
    def says(key: str, texts: list[str]) -> Ballot:
        if key == "a":
            return Ballot("choose", [], edit=Edit("a better one", 1))
        return Ballot("flag", comment="cut off") if key == "b" else Ballot("choose", [0])

    with pytest.raises(VotesMissing):
        ask(tmp_path, sheet(tmp_path, a=2, b=2, c=1))
    for name in ("Ada", "Bob"):
        answer(tmp_path, name, says)
    found = ask(tmp_path, sheet(tmp_path, a=2, b=2, c=1))
    assert [one.accepted for one in found.verdicts["a"]] == [False, False]
    assert [one.accepted for one in found.verdicts["b"]] == [None, None]
    assert [one.accepted for one in found.verdicts["c"]] == [True]
    (written,) = found.written["a"]
    assert (written.text, written.judge) == ("a better one", "Ada")
    assert found.figures["written"] == 1
    assert ask(tmp_path, sheet(tmp_path, a=2, b=2, c=1), edits=False).written == {}


def test_the_budget_says_how_many_are_asked_about(tmp_path: Path):
    one = sheet(tmp_path, budget=5, a=2, b=2, c=2, d=2)
    with pytest.raises(VotesMissing, match="2 of 2 items need votes"):
        ask(tmp_path, one)
    asked = {key.split("/")[1] for key in answer(tmp_path, "Ada", choosing(0))}
    assert len(asked) == 2
    found = ask(tmp_path, one)
    assert {key for key, said in found.verdicts.items() if said[0].score is not None} == asked
    # One that is larger than what is left is asked about all the same: else nothing would ever end.
    other = sheet(tmp_path, 1, budget=1, a=2, b=2)
    with pytest.raises(VotesMissing, match="1 of 1 items"):
        ask(tmp_path, other)


def test_nothing_judged_is_an_error_that_says_so(tmp_path: Path):
    with pytest.raises(VotesMissing):
        ask(tmp_path, sheet(tmp_path))
    store, stage, _ = open_place(tmp_path)
    with store:
        set_state(store, stage.id, "closed")
    with pytest.raises(DataError, match="people judged nothing in iteration 0: 2 items were asked about"):
        ask(tmp_path, sheet(tmp_path))


def test_the_page_serves_pictures_from_the_folder_they_lie_in(tmp_path: Path):
    pictures = tmp_path / "rows" / "images"
    pictures.mkdir(parents=True)
    (pictures / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "runs" / "demo" / "loop"
    one = sheet(out, a=2)
    seen = Item("a", "rows:a", {"prompt": "a?", "answer": "yes"}, (pictures / "a.png").resolve())
    with pytest.raises(VotesMissing):
        ask(out, Sheet(0, one.rows, {"a": seen}, one.file))
    store, _, place = open_place(out)
    with store:
        assert place.images == str(pictures.resolve())
        with store.read() as connection:
            assert connection.scalar(sa.select(tables.items.c.image)) == "a.png"


def test_runs_that_share_a_database_keep_apart(tmp_path: Path):
    url = fresh_database("illume")
    for name in ("one", "two"):
        folder = tmp_path / name / "demo" / "loop"
        with pytest.raises(VotesMissing):
            ask(folder, sheet(folder, a=2), database=url)
        answer(folder, f"Ada of {name}", choosing(int(name == "two")), database=url)
        found = ask(folder, sheet(folder, a=2), database=url)
        assert [one.accepted for one in found.verdicts["a"]] == [name == "one", name == "two"]


def heliograph(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command, as a person runs it; it trains, and may take its time."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )


RECIPE = """\
recipe: demo
stages:
  - name: loop
    kind: illume
    model: tiny
    data: rows.jsonl
    critic:
      kind: people
      votes_per_item: 2
    temperatures: [1.0]
    num_return_sequences: 3
    top_vocabulary: 0.5
    max_new_tokens: 5
    max_iterations: 2
    num_train_epochs: 1
    answer_only_ratio: 1
    learning_rate: 2e-3
  - name: align
    kind: prefer
    model: loop
    pairs: loop
    weight_column: weight
    max_steps: 1
"""


@pytest.mark.slow
def test_a_run_waits_for_each_iteration_and_the_pairs_carry_the_votes(tmp_path: Path):
    words = ("mirror", "lamp", "river")
    rows = [{"id": w, "prompt": f"What is in the {w}?", "answer": w} for w in words]
    write_jsonl_atomic(tmp_path / "rows.jsonl", rows)
    (tmp_path / "demo.yaml").write_text(RECIPE)
    first = heliograph("run", "demo.yaml", cwd=tmp_path)
    assert first.returncode == 75, first.stderr
    assert "loop waits: iteration 0: 3 of 3 items need votes, 6 in all; 0 are there" in first.stderr
    commands = re.findall(r"heliograph (label .*?)(?:    \(|\n)", first.stderr)
    add, served = commands[0].replace(" NAME", ""), commands[1]
    assert served == "label serve runs/demo/loop"
    links = [heliograph(*shlex.split(add), name, cwd=tmp_path).stdout.strip() for name in ("Ada", "Bob")]
    folder = tmp_path / "runs" / "demo" / "loop"
    process, url = serve(folder)

    def judge(client: Client, wanted: int) -> int:
        """Choose one text of every item that comes, the shortest or the longest."""
        done = 0
        while (item := client.next()["item"]) is not None:
            order = sorted(item["candidates"], key=lambda one: (len(one["text"]), one["text"]))
            said = client.vote(item, kind="choose", choice=[order[wanted]["index"]])
            assert said.status_code == 200, said.text
            done += 1
        return done

    try:
        with httpx.Client(base_url=url, timeout=60) as one, httpx.Client(base_url=url, timeout=60) as two:
            ada, bob = (
                Client(http, link.rsplit("/", 1)[1]).enter()
                for http, link in zip((one, two), links, strict=True)
            )
            assert ada.http.get("/api/me").json()["stage"]["question"] == "Which explanations fit the answer?"
            assert judge(ada, 0) == 3
            # Half of the votes: it still waits, and has made no step.
            again = heliograph("run", "demo.yaml", cwd=tmp_path)
            assert again.returncode == 75
            assert "3 of 3 items need votes, 3 in all; 3 are there" in again.stderr
            assert judge(bob, 0) == 3
            second = heliograph("run", "demo.yaml", cwd=tmp_path)
            assert second.returncode == 75, second.stderr
            assert "loop waits: iteration 1: 3 of 3 items need votes, 6 in all; 0 are there" in second.stderr
            assert "need votes" in heliograph("status", "demo", cwd=tmp_path).stdout
            # The same server and the same links go on.
            assert judge(ada, -1) == 3
            assert judge(bob, -1) == 3
            assert ada.next()["item"] is None
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
    done = heliograph("run", "demo.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    judged = read_jsonl(folder / "judged.jsonl")
    assert {row["iteration"] for row in judged} == {0, 1}
    assert all(row["n_votes"] == 2 and len(row["vote_ids"]) == 2 for row in judged)
    with Store(folder / "label.sqlite") as store, store.read() as connection:
        votes = {row.id: row for row in connection.execute(sa.select(tables.votes))}
        assert len(votes) == 12
    by_votes = {(row["id"], row["candidate"]): set(row["vote_ids"]) for row in judged}
    pairs = read_jsonl(folder / "pairs.jsonl")
    assert pairs
    for row in pairs:
        assert (row["n_votes"], row["weight"], row["agreement"]) == (2, 1.0, 1.0)
        chosen, rejected = (by_votes[row["id"], row[key].strip()] for key in ("chosen", "rejected"))
        assert set(row["vote_ids"]) == chosen | rejected <= set(votes)
    assert {row["completion"].strip() for row in read_jsonl(folder / "rows.jsonl")} == {
        row["candidate"] for row in judged if row["accepted"]
    }
    figures = json.loads((tmp_path / "runs" / "demo" / "align" / "done.json").read_text())["metrics"]
    assert figures["steps"] == 1
