"""Votes: stored once, corrected and undone by further votes, refused where they do not fit."""

from __future__ import annotations

import random
from typing import Any

import pytest

from data.errors import DataError
from data.feedback import tables
from data.feedback.assignment import Assignment, Nothing, assigned, next_item
from data.feedback.ballots import Ballot, BallotError, Edit
from data.feedback.history import counted_votes, history
from data.feedback.leases import release, release_expired
from data.feedback.people import NotAllowedError, set_active
from data.feedback.roster import bar, unbar
from data.feedback.stages import Stage, get_stage, set_state
from data.feedback.store import Store
from data.feedback.votes import LeaseLostError, VoteConflictError, retract, submit, submit_and_next
from tests import labelling
from tests.labelling import BEST, a_stage, annotators, check_counters, given, rows

location, sqlite, store = labelling.location, labelling.sqlite, labelling.store
EVERY = ("choose", "best", "rank", "tie", "skip", "flag", "edit")


def test_a_vote_keeps_all_that_was_said(store: Store) -> None:
    stage = a_stage(store, candidates=3, kinds=EVERY)
    person = annotators(store, 1)[0]
    item = given(store, stage, person, now=100.0)
    ballot = Ballot("best", 2, 3, "short\nand \U0001f600 good", 7.25, Edit("better", 1))
    receipt = submit(store, stage.id, person, item.item_id, ballot, "key", now=107.5)
    (vote,) = history(store, stage.id)
    assert (vote.id, vote.item_key, vote.person_id) == (receipt.vote_id, item.key, person)
    assert (vote.kind, vote.choice, vote.strength, vote.comment) == (
        "best",
        2,
        3,
        "short\nand \U0001f600 good",
    )
    assert (vote.seconds, vote.at, vote.supersedes) == (7.25, 107.5, None)
    assert vote.edit == Edit("better", 1)
    assert vote.shown == item.shown == [candidate["index"] for candidate in item.candidates]


@pytest.mark.parametrize(
    ("ballot", "stored"),
    [
        (Ballot("choose", []), []),
        (Ballot("choose", [2, 0]), [0, 2]),
        (Ballot("rank", [5, 5, 1]), [2, 2, 1]),
        (Ballot("rank", [None, 3, 9]), [None, 1, 2]),
        (Ballot("tie"), None),
        (Ballot("skip"), None),
        (Ballot("flag", comment="broken"), None),
        (Ballot("edit", edit=Edit("text")), None),
    ],
)
def test_each_kind_has_one_form(sqlite: Store, ballot: Ballot, stored: Any) -> None:
    stage = a_stage(sqlite, candidates=3, kinds=EVERY)
    person = annotators(sqlite, 1)[0]
    submit(sqlite, stage.id, person, given(sqlite, stage, person).item_id, ballot, "k")
    (vote,) = history(sqlite, stage.id)
    assert (vote.kind, vote.choice) == (ballot.kind, stored)
    check_counters(sqlite, stage)


@pytest.mark.parametrize(
    ("ballot", "what"),
    [
        (Ballot("choose", [0, 0]), "name each once"),
        (Ballot("choose", [2]), "from 0 to 1"),
        (Ballot("choose", 1), "list of indices"),
        (Ballot("best", True), "the best one is True"),
        (Ballot("best", -1), "the best one is -1"),
        (Ballot("best", 0, 4), "strength 4"),
        (Ballot("best", 0, 0), "no preference is a tie"),
        (Ballot("rank", [1]), "give 2 numbers"),
        (Ballot("rank", [1, None]), "fewer than two"),
        (Ballot("rank", [1, 0]), "whole number from 1"),
        (Ballot("tie", 0), "a tie has no choice"),
        (Ballot("tie", None, 2), "a tie has no strength"),
        (Ballot("flag", comment="  "), "needs a comment"),
        (Ballot("edit"), "without a text"),
        (Ballot("edit", edit=Edit(" ")), "without a text"),
        (Ballot("best", 0, edit=Edit("x", 7)), "candidate 7"),
        (Ballot("skip", edit=Edit("x")), "a skip has no edit"),
        (Ballot("best", 0, comment="a\0b"), "NUL"),
        (Ballot("best", 0, comment="\ud800"), "surrogate"),
        (Ballot("best", 0, comment="x" * 10_001), "10001 characters"),
        (Ballot("best", 0, seconds=float("nan")), "seconds is nan"),
        (Ballot("best", 0, seconds=-1), "seconds is -1"),
        (Ballot("rubbish"), "no votes of kind"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(sqlite: Store, ballot: Ballot, what: str) -> None:
    stage = a_stage(sqlite, kinds=EVERY)
    person = annotators(sqlite, 1)[0]
    item = given(sqlite, stage, person)
    with pytest.raises(BallotError, match=what):
        submit(sqlite, stage.id, person, item.item_id, ballot, "k")
    assert history(sqlite, stage.id) == []
    assert given(sqlite, stage, person).item_id == item.item_id


def test_a_kind_that_the_stage_does_not_ask_for(sqlite: Store) -> None:
    stage = a_stage(sqlite, kinds=("choose",))
    person = annotators(sqlite, 1)[0]
    with pytest.raises(BallotError, match=r"no votes of kind 'best' here\n  this stage takes choose"):
        submit(sqlite, stage.id, person, given(sqlite, stage, person).item_id, BEST, "k")


def test_the_same_key_is_the_same_vote(store: Store) -> None:
    stage = a_stage(store)
    person, other = annotators(store, 2)
    item = given(store, stage, person).item_id
    first = submit(store, stage.id, person, item, BEST, "key")
    again = submit(store, stage.id, person, item, Ballot("best", 0, 1, seconds=99.0), "key")
    assert (again.vote_id, again.repeated, first.repeated) == (first.vote_id, True, False)
    with pytest.raises(VoteConflictError, match="key belongs to another vote"):
        submit(store, stage.id, person, item, Ballot("best", 1), "key")
    # Keys are each person's own.
    submit(store, stage.id, other, given(store, stage, other).item_id, BEST, "key")
    assert len(rows(store, tables.votes)) == 2
    check_counters(store, stage)


def test_a_second_tab_does_not_double(store: Store) -> None:
    stage = a_stage(store)
    person = annotators(store, 1)[0]
    item = given(store, stage, person).item_id
    first = submit(store, stage.id, person, item, BEST, "tab 1")
    with pytest.raises(VoteConflictError, match="you have a vote on this item already") as caught:
        submit(store, stage.id, person, item, Ballot("best", 1), "tab 2")
    assert caught.value.vote_id == first.vote_id
    assert len(rows(store, tables.votes)) == 1


def test_a_correction_supersedes(store: Store) -> None:
    stage = a_stage(store)
    person = annotators(store, 1)[0]
    item = given(store, stage, person).item_id
    first = submit(store, stage.id, person, item, BEST, "1").vote_id
    second = submit(store, stage.id, person, item, Ballot("best", 1), "2", supersedes=first).vote_id
    with pytest.raises(VoteConflictError, match="already"):
        submit(store, stage.id, person, item, Ballot("tie"), "3", supersedes=first)
    assert [(v.id, v.supersedes, v.choice) for v in history(store, stage.id)] == [
        (second, first, 1),
        (first, None, 0),
    ]
    assert [v.id for v in history(store, stage.id, current=True)] == [second]
    check_counters(store, stage)


def test_undo_gives_the_item_back_and_keeps_the_record(store: Store) -> None:
    stage = a_stage(store, overlap=1)
    person, other = annotators(store, 2)
    item = given(store, stage, person)
    vote = submit(store, stage.id, person, item.item_id, BEST, "1").vote_id
    assert get_stage(store, stage.id).done == 1
    undone = retract(store, stage.id, person, vote, "undo")
    assert retract(store, stage.id, person, vote, "undo").repeated
    assert get_stage(store, stage.id).done == 0
    check_counters(store, stage)
    assert given(store, stage, person).shown == item.shown
    assert given(store, stage, person).item_id == item.item_id != given(store, stage, other).item_id
    third = submit(store, stage.id, person, item.item_id, Ballot("best", 1), "2").vote_id
    chain = [(v.id, v.kind, v.supersedes) for v in reversed(history(store, stage.id))]
    assert chain == [(vote, "best", None), (undone.vote_id, "retract", vote), (third, "best", undone.vote_id)]
    with store.read() as connection:
        assert [v.id for v in counted_votes(connection, stage.id)] == [third]
    check_counters(store, stage)


def test_what_can_be_undone_is_ones_own_last_word(sqlite: Store) -> None:
    stage = a_stage(sqlite)
    person, other = annotators(sqlite, 2)
    vote = submit(sqlite, stage.id, person, given(sqlite, stage, person).item_id, BEST, "1").vote_id
    with pytest.raises(DataError, match="you have no vote"):
        retract(sqlite, stage.id, other, vote, "u")
    undone = retract(sqlite, stage.id, person, vote, "u").vote_id
    with pytest.raises(VoteConflictError):
        retract(sqlite, stage.id, person, vote, "u2")
    with pytest.raises(DataError, match="you have no vote"):
        retract(sqlite, stage.id, person, undone, "u3")


def test_a_skip_leaves_the_place_to_others_and_may_be_taken_back_while_there_is_one(store: Store) -> None:
    stage = a_stage(store, items=1, overlap=1)
    person, other = annotators(store, 2)
    item = given(store, stage, person).item_id
    skip = submit(store, stage.id, person, item, Ballot("skip"), "1").vote_id
    assert isinstance(next_item(store, stage.id, person), Nothing)
    assert given(store, stage, other).item_id == item
    with pytest.raises(LeaseLostError):
        submit(store, stage.id, person, item, BEST, "2", supersedes=skip)
    with pytest.raises(LeaseLostError, match="gone to other people"):
        retract(store, stage.id, person, skip, "3")
    release(store, stage.id, other)
    retract(store, stage.id, person, skip, "3")
    submit(store, stage.id, person, item, BEST, "4")
    check_counters(store, stage)
    assert get_stage(store, stage.id).done == 1


def test_flags_close_an_item(store: Store) -> None:
    stage = a_stage(store, items=1, overlap=3, flags_to_close=2)
    people = annotators(store, 3)
    item = given(store, stage, people[0]).item_id
    first = submit(store, stage.id, people[0], item, Ballot("flag", comment="empty"), "1").vote_id
    given(store, stage, people[1])
    submit(store, stage.id, people[1], item, Ballot("flag", comment="empty"), "1")
    assert isinstance(next_item(store, stage.id, people[2]), Nothing)
    check_counters(store, stage)
    retract(store, stage.id, people[0], first, "2")
    assert given(store, stage, people[2]).item_id == item
    check_counters(store, stage)


def test_a_late_vote_counts_while_the_item_wants_votes(store: Store) -> None:
    stage = a_stage(store, items=1, overlap=1, lease_seconds=60)
    slow, quick, third = annotators(store, 3)
    item = given(store, stage, slow, now=0.0).item_id
    assert release_expired(store, stage.id, now=61.0) == 1
    check_counters(store, stage)
    submit(store, stage.id, slow, item, BEST, "late", now=62.0)
    assert get_stage(store, stage.id).done == 1
    assert isinstance(next_item(store, stage.id, quick, now=63.0), Nothing)
    with pytest.raises(LeaseLostError, match="never given"):
        submit(store, stage.id, third, item, BEST, "k", now=64.0)
    check_counters(store, stage)


def test_a_late_vote_and_the_one_who_has_the_item_by_then_both_count(store: Store) -> None:
    stage = a_stage(store, items=1, overlap=1, lease_seconds=60)
    slow, slower, quick = annotators(store, 3)
    item = given(store, stage, slow, now=0.0).item_id
    given(store, stage, slower, now=61.0)
    given(store, stage, quick, now=122.0)
    submit(store, stage.id, slow, item, BEST, "late", now=123.0)
    check_counters(store, stage)
    assert get_stage(store, stage.id).done == 0  # quick is at it
    submit(store, stage.id, quick, item, BEST, "in time", now=124.0)
    check_counters(store, stage)
    assert get_stage(store, stage.id).done == 1
    with pytest.raises(LeaseLostError, match="other people have judged it"):
        submit(store, stage.id, slower, item, BEST, "too late", now=125.0)
    assert len(rows(store, tables.votes)) == 2


def test_a_vote_and_the_next_item_are_what_they_are_one_by_one(store: Store) -> None:
    """Two people through the same stage, one each way: the same items in the same order, and the same ends."""
    stage = a_stage(store, items=5, overlap=2, max_leases=2, gold=1, gold_rate=0.3, budget=8)
    stepwise, at_once = annotators(store, 2)
    seen: dict[int, list[str]] = {stepwise: [], at_once: []}
    ends: dict[int, str] = {}
    for person in (stepwise, at_once):
        found = next_item(store, stage.id, person)
        while isinstance(found, Assignment):
            seen[person].append(found.key)
            key = f"{person}-{found.key}"
            if person == stepwise:
                submit(store, stage.id, person, found.item_id, BEST, key)
                found = next_item(store, stage.id, person)
            else:
                receipt, found = submit_and_next(
                    store, stage.id, person, found.item_id, BEST, key, holding=[]
                )
                assert not receipt.repeated
        ends[person] = found.reason
        check_counters(store, stage)
    assert ends == {stepwise: "nothing_left", at_once: "budget"}
    ordinary = [[key for key in line if key != "i0"] for line in seen.values()]
    assert ordinary == [ordinary[0], ordinary[0]]
    assert len(ordinary[0]) == 4
    assert get_stage(store, stage.id).judged == 8


def test_the_stop_rule_speaks_before_a_further_item_is_given(store: Store) -> None:
    stage = a_stage(store, items=3, overlap=2, quota=2, agreement=0.5)
    people = annotators(store, 2)
    for turn, choice in enumerate((0, 1)):
        for person in people:
            item = given(store, stage, person)
            receipt, found = submit_and_next(
                store, stage.id, person, item.item_id, Ballot("best", choice, 1), f"{turn}", holding=[]
            )
    assert receipt.item_done
    assert isinstance(found, Nothing)
    assert found.reason == "stopped"


def test_who_may_not_vote(store: Store) -> None:
    stage = a_stage(store)
    person, other = annotators(store, 2)
    item = given(store, stage, person).item_id
    with pytest.raises(LeaseLostError, match="never given to you"):
        submit(store, stage.id, other, item, BEST, "k")
    with pytest.raises(DataError, match="no item 999"):
        submit(store, stage.id, person, 999, BEST, "k")
    set_state(store, stage.id, "paused")
    assert next_item(store, stage.id, person) == Nothing("paused", "a lead has paused the stage")
    submit(store, stage.id, person, item, BEST, "work in hand is taken")
    set_state(store, stage.id, "open")
    further = given(store, stage, person).item_id
    set_state(store, stage.id, "closed")
    with pytest.raises(DataError, match="stage is closed"):
        submit(store, stage.id, person, further, BEST, "k")
    set_state(store, stage.id, "open")
    set_active(store, person, False)
    with pytest.raises(NotAllowedError, match="not active"):
        submit(store, stage.id, person, further, BEST, "k")
    with pytest.raises(NotAllowedError, match="not active"):
        next_item(store, stage.id, person)


def test_barring_takes_back_leases_and_may_set_votes_aside(store: Store) -> None:
    stage = a_stage(store, items=2, overlap=1)
    person, other = annotators(store, 2)
    done = given(store, stage, person).item_id
    submit(store, stage.id, person, done, BEST, "1")
    held = given(store, stage, person).item_id
    assert bar(store, stage.id, person, "clicks at random") == 1
    with pytest.raises(NotAllowedError, match="barred from this stage: clicks at random"):
        submit(store, stage.id, person, held, BEST, "2")
    check_counters(store, stage)
    assert get_stage(store, stage.id).done == 1
    bar(store, stage.id, person, "clicks at random", votes_count=False)
    check_counters(store, stage)
    assert get_stage(store, stage.id).done == 0
    got = set()
    for n in range(2):
        got.add(given(store, stage, other).item_id)
        submit(store, stage.id, other, given(store, stage, other).item_id, BEST, f"o{n}")
    assert got == {done, held}
    assert [vote.person_id for vote in _counted(store, stage)] == [other, other]
    unbar(store, stage.id, person)
    assert len(_counted(store, stage)) == 3
    check_counters(store, stage)


def test_one_can_see_again_what_one_was_shown(store: Store) -> None:
    stage = a_stage(store, candidates=4)
    person, other = annotators(store, 2)
    item = given(store, stage, person)
    submit(store, stage.id, person, item.item_id, BEST, "1")
    again = assigned(store, stage.id, person, item.item_id)
    assert again is not None
    assert (again.candidates, again.shown) == (item.candidates, item.shown)
    assert assigned(store, stage.id, other, item.item_id) is None


@pytest.mark.parametrize("seed", range(3))
def test_whatever_people_do_the_counters_are_right(store: Store, seed: int) -> None:
    """Hundreds of random acts of five people and a lead, with time running; then everything is counted."""
    rng = random.Random(seed)
    stage = a_stage(
        store, items=12, overlap=2, max_overlap=4, lease_seconds=50, gold=3, gold_rate=0.3, kinds=EVERY
    )
    people = annotators(store, 5)
    now = 0.0
    for step in range(250):
        now += rng.random() * 20
        person = rng.choice(people)
        act = rng.random()
        try:
            if act < 0.8:
                _work(store, stage, person, rng, f"{seed}-{step}", now)
            elif act < 0.9:
                mine = history(store, stage.id, person, current=True)
                if mine:
                    retract(store, stage.id, person, rng.choice(mine).id, f"{seed}-{step}", now=now)
            elif act < 0.93:
                release(store, stage.id, person)
            elif act < 0.96:
                bar(store, stage.id, person, "why", votes_count=rng.random() < 0.5)
            else:
                unbar(store, stage.id, person)
        except (NotAllowedError, LeaseLostError):
            continue
        if step % 50 == 49:
            check_counters(store, stage)
    check_counters(store, stage)
    assert len(rows(store, tables.votes)) > 60


def _work(store: Store, stage: Stage, person: int, rng: random.Random, key: str, now: float) -> None:
    mine = history(store, stage.id, person, current=True)
    ballot = rng.choice(
        [
            BEST,
            Ballot("best", 1, 2),
            Ballot("tie"),
            Ballot("choose", [0]),
            Ballot("skip"),
            Ballot("rank", [2, 1]),
        ]
        + [Ballot("flag", comment="odd")] * (rng.random() < 0.2)
    )
    if mine and rng.random() < 0.3:
        old = rng.choice(mine)
        submit(store, stage.id, person, old.item_id, ballot, key, supersedes=old.id, now=now)
        return
    item = next_item(store, stage.id, person, now=now)
    if not isinstance(item, Nothing) and rng.random() < 0.8:
        submit(store, stage.id, person, item.item_id, ballot, key, now=now)


def _counted(store: Store, stage: Stage) -> list[Any]:
    with store.read() as connection:
        return counted_votes(connection, stage.id)
