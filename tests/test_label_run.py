"""A recipe whose judge stage asks people: the run waits, votes arrive over HTTP, and the same command goes on."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from data.errors import DataError
from data.feedback import tables
from data.feedback.ballots import Ballot, Edit
from data.feedback.collecting import collect
from data.feedback.critic import People
from data.feedback.people import add_person
from data.feedback.places import open_place, place_of
from data.feedback.stages import get_stage, set_state
from data.feedback.store import Store
from data.feedback.votes import submit
from data.jsonl import read_jsonl
from data.votes import VotesMissing
from tests.handmade import RECIPE, give_answers, heliograph, write_recipe
from tests.label_client import Client, serve
from tests.labelling import given
from tests.postgres import fresh_database
from tests.training import weights

PEOPLE = RECIPE.replace(
    "      kind: rubric\n      checks: [{check: regex, pattern: good}]\n",
    "      kind: people\n      question: Which one is good?\n      votes_per_item: 2\n      strength_max: 2\n",
)


def candidates(folder: Path, *prompts: tuple[str, ...], **more: Any) -> Path:
    rows = [
        {
            "id": f"p{i}",
            "prompt": f"Say {i}.",
            "candidates": [{"text": text, "index": 7} for text in texts],
            **more,
        }
        for i, texts in enumerate(prompts)
    ]
    path = folder / "candidates.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_critic(folder: Path, file: Path, critic: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"pairing": "best_worst", "min_margin": 0.1, "max_pairs_per_prompt": 6, **more}
    out = folder / "runs" / "demo" / "pick" / "rows.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    people = People.model_validate({"kind": "people", **(critic or {})})
    return collect(file, people, out, base=folder, **settings)


def test_a_run_waits_for_people_and_goes_on_with_their_votes(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, PEOPLE)
    give_answers(recipe, tmp_path / "runs")
    first = heliograph("run", "demo.yaml", cwd=tmp_path)
    assert first.returncode == 75, first.stderr
    assert "pick waits: 3 of 3 items need votes, 6 in all; 0 are there" in first.stderr
    commands = re.findall(r"heliograph (label .*?)(?:    \(|\n)", first.stderr)
    add, served = commands[0].replace(" NAME", ""), commands[1]
    assert served == "label serve runs/demo/pick"
    # The commands as they are printed do what they say.
    links = [heliograph(*shlex.split(add), name, cwd=tmp_path).stdout.strip() for name in ("Ada", "Bob")]
    tokens = [link.rsplit("/", 1)[1] for link in links]
    folder = tmp_path / "runs" / "demo" / "pick"
    process, url = serve(folder)
    try:
        with httpx.Client(base_url=url, timeout=30) as one, httpx.Client(base_url=url, timeout=30) as two:
            ada, bob = Client(one, tokens[0]).enter(), Client(two, tokens[1]).enter()
            assert ada.http.get("/api/me").json()["stage"]["question"] == "Which one is good?"

            def good(item: dict[str, Any]) -> int:
                return next(c["index"] for c in item["candidates"] if c["text"].startswith("good"))

            taken: dict[str, Any] = {}
            for _ in range(3):
                item = ada.next()["item"]
                number = ada.vote(item, choice=good(item), strength=2).json()["receipt"]["vote_id"]
                taken = {"item": item, "vote_id": number}
            for _ in range(2):
                item = bob.next()["item"]
                bob.vote(item, choice=good(item), strength=1)
            # Bob's last is missing: the run still waits, and says for how many.
            second = heliograph("run", "demo.yaml", cwd=tmp_path)
            assert second.returncode == 75
            assert "1 of 3 items need votes, 1 in all; 5 are there" in second.stderr
            assert not (folder / "rows.jsonl").exists()
            status = heliograph("status", "demo", cwd=tmp_path)
            assert "need votes" in status.stdout
            # Ada takes one back: two are missing again.
            ada.post("/api/undo", {"vote_id": taken["vote_id"], "key": "ada-undoes"})
            assert "2 in all" in heliograph("run", "demo.yaml", cwd=tmp_path).stderr
            ada.vote(ada.next()["item"], choice=good(taken["item"]), strength=2)
            last = bob.next()["item"]
            bob.vote(last, kind="tie", choice=None)
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
    done = heliograph("run", "demo.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = {row["id"]: row for row in read_jsonl(folder / "rows.jsonl")}
    assert len(pairs) == 3
    for row in pairs.values():
        assert row["chosen"].startswith("good")
        assert row["rejected"].startswith("bad")
        assert (row["n_votes"], row["source"], len(row["vote_ids"])) == (2, "votes", 2)
    weights = sorted((row["weight"], row["agreement"]) for row in pairs.values())
    # Much better and slightly better: (2/2 + 1/2) / 2. Much better and no difference: (2/2 + 0) / 2.
    assert weights == [(0.5, 0.5), (0.75, 1.0), (0.75, 1.0)]
    votes = [vote for row in read_jsonl(folder / "votes.jsonl") for vote in row["votes"]]
    assert sorted(vote["person"] for vote in votes) == ["Ada"] * 3 + ["Bob"] * 3
    figures = json.loads((folder / "done.json").read_text())["metrics"]
    assert (figures["votes"], figures["people"], figures["pairs"], figures["asked"]) == (6, 2, 3, 3)
    with Store(folder / "label.sqlite") as store:
        assert get_stage(store, "demo/pick").state == "closed"
    assert heliograph("run", "demo.yaml", cwd=tmp_path).returncode == 0


PREFER = """\
    model: tiny
    weight_column: weight
    max_steps: 3
    max_length: 64
    per_device_train_batch_size: 3
    learning_rate: 1e-3
"""


@pytest.mark.slow
def test_the_preference_trainer_weighs_pairs_by_their_votes(tmp_path: Path) -> None:
    """Votes at the page, pairs, a trained model: the same tensors as from weights worked out by hand."""
    stages = {
        "voted": "pairs: pick\n" + PREFER,
        "by-hand": "pairs: hand.jsonl\n" + PREFER,
        "unweighted": "pairs: pick\n" + PREFER.replace("    weight_column: weight\n", ""),
    }
    trained = "".join(f"  - name: {name}\n    kind: prefer\n    {body}" for name, body in stages.items())
    # Strengths of two people, of 3: (3 + 3) / 6, (3 + 1) / 6, (1 + 1) / 6.
    strengths = {"p0": (3, 3), "p1": (3, 1), "p2": (1, 1)}
    by_hand = {"p0": 1.0, "p1": 2 / 3, "p2": 1 / 3}
    # In the order in which the stage writes its pairs: the trainer draws its batches from it.
    rows = [
        {
            "prompt": "Say something good.",
            "chosen": f"good {n} ",
            "rejected": "bad ",
            "weight": by_hand[f"p{n}"],
        }
        for n in range(3)
    ]
    (tmp_path / "hand.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = write_recipe(tmp_path, PEOPLE.replace("strength_max: 2", "strength_max: 3") + trained)
    give_answers(recipe, tmp_path / "runs")
    assert heliograph("run", "demo.yaml", cwd=tmp_path).returncode == 75
    folder = tmp_path / "runs" / "demo" / "pick"
    store, stage, _ = open_place(folder)
    with store:
        for turn, name in enumerate(("Ada", "Bob")):
            person = add_person(store, name)[0].id
            for n in range(3):
                item = given(store, stage, person)
                good = next(c["index"] for c in item.candidates if c["text"].startswith("good"))
                submit(
                    store, stage.id, person, item.item_id,
                    Ballot("best", good, strengths[item.key][turn]), f"press-{n}",
                )  # fmt: skip
    done = heliograph("run", "demo.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = list(read_jsonl(folder / "rows.jsonl"))
    assert [(row["id"], row["chosen"], row["rejected"]) for row in pairs] == [
        (f"p{n}", f"good {n} ", "bad ") for n in range(3)
    ]
    assert [row["weight"] for row in pairs] == pytest.approx(list(by_hand.values()), abs=1e-12)
    assert [(row["n_votes"], row["agreement"]) for row in pairs] == [(2, 1.0)] * 3
    voted_by, hand, plain = (weights(tmp_path / "runs" / "demo" / name) for name in stages)
    assert voted_by.keys() == hand.keys() == plain.keys()
    assert voted_by
    assert max(float((voted_by[name] - hand[name]).abs().max()) for name in hand) < 1e-7
    assert max(float((voted_by[name] - plain[name]).abs().max()) for name in hand) > 1e-5


def voted(folder: Path, *ballots: tuple[str, dict[str, Ballot]]) -> None:
    """Each person's ballots by the item's key; items that are not named are left."""
    store, stage, _ = open_place(folder / "runs" / "demo" / "pick")
    with store:
        for name, said in ballots:
            person = add_person(store, name)[0].id
            held: list[int] = []
            for _ in said:
                while True:
                    item = given(store, stage, person, holding=held)
                    held.append(item.item_id)
                    if item.key in said:
                        break
                submit(store, stage.id, person, item.item_id, said[item.key], f"{name}-{item.key}")


def test_pairs_follow_from_votes_and_unjudged_is_not_rejected(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b ", "b", "", "c"), ("d", "d"), ("e", "f"))
    critic = {"votes": ["best", "rank", "tie", "edit"], "votes_per_item": 1, "strength_max": 1}
    with pytest.raises(VotesMissing, match="2 of 2 items need votes, 2 in all"):
        run_critic(tmp_path, file, critic)
    with pytest.raises(VotesMissing, match="2 of 2 items"):  # the second time makes no second stage
        run_critic(tmp_path, file, critic)
    # p0 shows a, b, c (0, 1, 4): c before a, and nothing is said of b. p2: neither, but f is bettered.
    voted(tmp_path, ("Ada", {"p0": Ballot("rank", [2, None, 1]), "p2": Ballot("tie", edit=Edit("F!", 1))}))
    figures = run_critic(tmp_path, file, critic)
    folder = tmp_path / "runs" / "demo" / "pick"
    first, second = read_jsonl(folder / "rows.jsonl")
    assert (first["chosen"], first["rejected"], first["chosen_index"], first["rejected_index"]) == (
        "c",
        "a",
        4,
        0,
    )
    assert (first["weight"], first["score_chosen"], first["score_rejected"], first["margin"]) == (1, 1, 0, 1)
    assert (second["chosen"], second["rejected"], second["source"], second["rejected_index"]) == (
        "F!",
        "f",
        "edit",
        1,
    )
    judged = {(row["id"], row["index"]): row for row in read_jsonl(folder / "judged.jsonl")}
    scores = [judged["p0", index]["score"] for index in range(5)]
    assert scores == [0.0, None, None, None, 1.0]
    assert judged["p0", 2]["duplicate_of"] == 1
    assert [judged["p2", index]["score"] for index in range(2)] == [0.5, 0.5]
    assert figures == {
        "prompts": 3, "asked": 2, "identical": 1, "unjudged": 0, "flagged": 0, "votes": 2, "people": 1, "pairs": 2,
        "pairs_from_edits": 1, "undecided": 1, "mean_weight": 1.0, "mean_agreement": 1.0, "alpha_preferred": None,
    } | {"alpha_preferred": figures["alpha_preferred"]}  # fmt: skip


def test_wide_margins_first_up_to_the_limit(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b", "c"))
    critic = {"votes": ["rank"], "votes_per_item": 2}
    with pytest.raises(VotesMissing):
        run_critic(tmp_path, file, critic)
    voted(tmp_path, ("Ada", {"p0": Ballot("rank", [1, 2, 3])}), ("Bob", {"p0": Ballot("rank", [1, 3, 2])}))
    run_critic(tmp_path, file, critic, pairing="all")
    rows = read_jsonl(tmp_path / "runs" / "demo" / "pick" / "rows.jsonl")
    # Of b and c each is once before the other: no pair.
    assert [(row["chosen"], row["rejected"], row["weight"]) for row in rows] == [("a", "b", 1), ("a", "c", 1)]
    run_critic(tmp_path, file, critic, pairing="all", max_pairs_per_prompt=1)
    assert len(read_jsonl(tmp_path / "runs" / "demo" / "pick" / "rows.jsonl")) == 1


def test_flags_budgets_and_a_lead_s_word_end_the_waiting(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b"), ("c", "d"))
    with pytest.raises(VotesMissing, match="4 in all"):
        run_critic(tmp_path, file)
    flag = Ballot("flag", comment="cut off")
    best = Ballot("best", 0, 3)
    voted(tmp_path, ("Ada", {"p0": best, "p1": flag}), ("Bob", {"p0": best, "p1": flag}))
    figures = run_critic(tmp_path, file)
    assert (figures["pairs"], figures["flagged"], figures["unjudged"]) == (1, 1, 1)
    other = tmp_path / "other"
    other.mkdir()
    file = candidates(other, ("a", "b"), ("c", "d"))
    with pytest.raises(VotesMissing, match="1 in all"):
        run_critic(other, file, {"budget": 1})
    store, stage, _ = open_place(other / "runs" / "demo" / "pick")
    with store:
        ada = add_person(store, "Ada")[0].id
        submit(store, stage.id, ada, given(store, stage, ada).item_id, best, "the only one")
    assert run_critic(other, file, {"budget": 1})["pairs"] == 1
    third = tmp_path / "third"
    third.mkdir()
    file = candidates(third, ("a", "b"))
    with pytest.raises(VotesMissing):
        run_critic(third, file)
    store, stage, _ = open_place(third / "runs" / "demo" / "pick")
    with store:
        set_state(store, stage.id, "closed")
    with pytest.raises(DataError, match="no pairs: 0 votes on 1 items"):
        run_critic(third, file)


def test_a_shared_postgresql_database_keeps_runs_apart(tmp_path: Path) -> None:
    url = fresh_database("shared")
    critic = {"database": url, "votes_per_item": 1}
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        file = candidates(folder, ("a", "b"))
        with pytest.raises(VotesMissing):
            run_critic(folder, file, critic)
        assert not (folder / "runs" / "demo" / "pick" / "label.sqlite").exists()
        voted(folder, (f"Ada of {name}", {"p0": Ballot("best", int(name == "two"), 1)}))
        run_critic(folder, file, critic)
        (row,) = read_jsonl(folder / "runs" / "demo" / "pick" / "rows.jsonl")
        assert row["chosen"] == {"one": "a", "two": "b"}[name]
    names = [place_of(tmp_path / name / "runs" / "demo" / "pick").stage for name in ("one", "two")]
    assert names == ["demo/pick", "demo/pick 2"]
    with Store(url) as store, store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.votes)) == 2


def test_images_must_lie_where_they_can_be_served_from(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b"), image="pictures/one.png")
    with pytest.raises(DataError, match="not a file in the folder of images"):
        run_critic(tmp_path, file, {"images": "."})
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(VotesMissing):
        run_critic(tmp_path, file, {"images": "."})
    assert place_of(tmp_path / "runs" / "demo" / "pick").images == str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"votes": ["skip", "flag"]}, "votes needs at least one of"),
        ({"votes": ["best", "best"]}, "names one twice"),
        ({"votes_per_item": 3, "max_votes_per_item": 2}, "below votes_per_item"),
        ({"quota": 5}, "go together"),
        ({"quota": 5, "agreement": 0.5, "votes_per_item": 1}, "one person cannot disagree"),
        ({"database": "postgresql://ada:secret@host/labels"}, "a recipe holds no password"),
        ({"database": "mysql://host/labels"}, "write postgresql"),
        ({"people": 3}, "Extra inputs"),
    ],
)
def test_a_critic_that_cannot_work_is_refused_with_the_recipe(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        People.model_validate({"kind": "people", **settings})
