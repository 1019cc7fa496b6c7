"""What is asked next: whom, how often, in which order, and when it is enough."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from data.errors import DataError
from data.feedback.assignment import Assignment, Nothing, next_item
from data.feedback.ballots import Ballot
from data.feedback.items import add_items, reorder, set_scores
from data.feedback.leases import release, release_expired, renew
from data.feedback.stages import change_settings, get_stage, set_state
from data.feedback.stopping import STEP
from data.feedback.store import Store
from data.feedback.usefulness import Askable, closeness, disagreement, shuffled, usefulness
from data.feedback.votes import submit
from tests import labelling
from tests.labelling import BEST, a_stage, an_item, annotators, check_counters, given

location, sqlite, store = labelling.location, labelling.sqlite, labelling.store


def until_nothing(store: Store, stage: int, person: int, ballot: Ballot = BEST) -> tuple[list[str], Nothing]:
    """Let a person work until there is nothing; the keys of the items, and why there is no more."""
    keys: list[str] = []
    while True:
        item = next_item(store, stage, person)
        if isinstance(item, Nothing):
            return keys, item
        keys.append(item.key)
        submit(store, stage, person, item.item_id, ballot, item.key)


def test_every_item_gets_its_votes_and_nobody_the_same_twice(store: Store) -> None:
    stage = a_stage(store, items=9, overlap=2)
    people = annotators(store, 3)
    seen: Counter[str] = Counter()
    for person in people:
        keys, why = until_nothing(store, stage.id, person)
        assert len(keys) == len(set(keys))
        assert why.reason == "nothing_left"
        seen.update(keys)
    assert seen == {f"i{n}": 2 for n in range(9)}
    assert get_stage(store, stage.id).done == 9
    check_counters(store, stage)


def test_an_item_in_hand_is_shown_again_and_leased_to_nobody_else(store: Store) -> None:
    stage = a_stage(store, items=2, overlap=1, max_leases=2)
    one, other = annotators(store, 2)
    first = given(store, stage, one, now=0.0)
    again = given(store, stage, one, now=10.0)
    assert (again.item_id, again.shown) == (first.item_id, first.shown)
    assert again.until == first.until + 10
    assert given(store, stage, other, now=0.0).item_id != first.item_id
    found = next_item(store, stage.id, one, holding=[first.item_id], now=11.0)
    assert isinstance(found, Nothing)
    assert (found.reason, found.why) == (
        "all_taken",
        "what is left is with other people: some of it may come back",
    )


def test_a_page_can_load_ahead_but_not_hoard(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=5, max_leases=2)
    person = annotators(sqlite, 1)[0]
    first = given(sqlite, stage, person)
    second = given(sqlite, stage, person, holding=[first.item_id])
    assert second.item_id != first.item_id
    third = next_item(sqlite, stage.id, person, holding=[first.item_id, second.item_id])
    assert isinstance(third, Nothing)
    assert third.reason == "enough_held"
    assert given(sqlite, stage, person).item_id == first.item_id


def test_an_expired_lease_goes_to_others_though_their_search_had_passed_it(store: Store) -> None:
    stage = a_stage(store, items=4, overlap=1, lease_seconds=100)
    slow, quick = annotators(store, 2)
    lost = given(store, stage, slow, now=0.0)
    for n in range(3):
        item = given(store, stage, quick, now=1.0 + n)
        submit(store, stage.id, quick, item.item_id, BEST, f"{n}", now=1.0 + n)
    assert isinstance(next_item(store, stage.id, quick, now=99.0), Nothing)
    back = given(store, stage, quick, now=101.0)
    assert back.item_id == lost.item_id
    check_counters(store, stage)


def test_an_item_that_is_looked_at_stays_with_its_person(store: Store) -> None:
    stage = a_stage(store, items=1, overlap=1, lease_seconds=100)
    first, second, third = annotators(store, 3)
    item = given(store, stage, first, now=0.0).item_id
    assert renew(store, stage.id, first, [item], now=90.0) == []
    assert isinstance(next_item(store, stage.id, second, now=180.0), Nothing)
    assert given(store, stage, second, now=191.0).item_id == item
    # Nobody else has answered: an answer would still be taken, so the first one is not sent away.
    assert renew(store, stage.id, first, [item], now=192.0) == []
    assert renew(store, stage.id, third, [item, 999], now=192.0) == [item, 999]
    check_counters(store, stage)
    # The second one's time ends too; whoever comes back has it again.
    assert release_expired(store, stage.id, now=292.0) == 1
    assert renew(store, stage.id, first, [item], now=293.0) == []
    assert isinstance(next_item(store, stage.id, third, now=392.0), Nothing)
    submit(store, stage.id, first, item, BEST, "k", now=392.5)
    assert renew(store, stage.id, second, [item], now=393.0) == [item]
    check_counters(store, stage)
    assert release(store, stage.id) == 0


def test_a_released_item_comes_back_also_to_the_same_person(store: Store) -> None:
    stage = a_stage(store, items=1, overlap=1)
    person = annotators(store, 1)[0]
    item = given(store, stage, person)
    assert release(store, stage.id) == 1
    again = given(store, stage, person)
    assert (again.item_id, again.shown) == (item.item_id, item.shown)


def test_orders_differ_between_people_and_are_all_used(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=1, candidates=3, overlap=60)
    orders = [tuple(given(sqlite, stage, person).shown) for person in annotators(sqlite, 60)]
    assert len(set(orders)) == 6
    # Each of the six is expected 10 times; fewer than 2 or more than 22 would be a biased shuffle.
    assert all(2 <= count <= 22 for count in Counter(orders).values())


def test_every_order_is_equally_likely() -> None:
    counts = Counter(tuple(shuffled(3, 0, n)) for n in range(6000))
    # chi-square with 5 degrees of freedom: 20.5 is its 0.1 % point.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_without_blinding_the_order_is_the_files(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=1, candidates=5, blind_order=False)
    assert given(sqlite, stage, annotators(sqlite, 1)[0]).shown == [0, 1, 2, 3, 4]


def test_the_page_cannot_tell_gold_from_the_rest(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=2, gold=1, gold_rate=0.5)
    item = given(sqlite, stage, annotators(sqlite, 1)[0])
    assert "gold" not in repr(item)
    assert set(item.candidates[0]) == {"index", "text"}


def test_gold_is_mixed_in_at_its_rate_and_without_limit_of_people(store: Store) -> None:
    stage = a_stage(store, items=150, gold=40, gold_rate=0.25, overlap=1)
    total, gold = 0, 0
    for person in annotators(store, 2):
        for n in range(50):
            item = given(store, stage, person)
            total += 1
            gold += int(item.key[1:]) < 40
            submit(store, stage.id, person, item.item_id, BEST, f"{n}")
    # Binomial(100, 1/4): 11 and 40 are more than three standard deviations away.
    assert total == 100
    assert 11 < gold < 40
    check_counters(store, stage)


def test_gold_alone_is_not_asked(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=5, gold=5, gold_rate=0.9)
    assert isinstance(next_item(sqlite, stage.id, annotators(sqlite, 1)[0]), Nothing)


def test_disagreement_and_closeness_by_hand() -> None:
    # One pair, two critics: split 1; agreed 0; a tie and a win: p = .75, so 1 - .5.
    assert disagreement({"x": [1, 0], "y": [0, 1]}) == 1.0
    assert disagreement({"x": [1, 0], "y": [9, 1]}) == 0.0
    assert disagreement({"x": [1, 1], "y": [1, 0]}) == 0.5
    assert disagreement({"x": [1, 0], "y": [None, 1]}) == 0.0
    # Three candidates: pairs (0,1) split, (0,2) agreed, (1,2) agreed.
    assert disagreement({"x": [3, 2, 1], "y": [2, 3, 1]}) == pytest.approx(1 / 3)
    # A margin of one spread is worth 1/2, of three 1/4.
    assert closeness({"x": [1.0, 0.5]}, {"x": 0.5}) == 0.5
    assert closeness({"x": [2.0, 0.5]}, {"x": 0.5}) == 0.25
    assert closeness({}, {}) == 1.0
    # Of one prompt the second most useful counts half: spreads are 0, so closeness is 1 and disagreement 0.
    asked = [Askable("a", "p", {}), Askable("b", "p", {}), Askable("c", "q", {})]
    assert usefulness(asked) == [0.5, 0.25, 0.5]


def test_the_useful_come_first_and_the_control_does_not_care(sqlite: Store) -> None:
    split, agreed = {"x": [1.0, 0.0], "y": [0.0, 1.0]}, {"x": [1.0, 0.0], "y": [1.0, 0.0]}
    stage = a_stage(sqlite, items=0, overlap=1)
    add_items(
        sqlite,
        stage.id,
        [
            an_item(f"{'split' if n % 2 else 'agreed'} {n}", scores=split if n % 2 else agreed)
            for n in range(40)
        ],
    )
    one, other = annotators(sqlite, 2)
    first = [given(sqlite, stage, one).key]
    submit(sqlite, stage.id, one, given(sqlite, stage, one).item_id, BEST, "0")
    for n in range(1, 20):
        item = given(sqlite, stage, one)
        first.append(item.key)
        submit(sqlite, stage.id, one, item.item_id, BEST, f"{n}")
    assert all(key.startswith("split") for key in first)
    change_settings(sqlite, stage.id, stage.settings.model_copy(update={"order": "random", "overlap": 2}))
    reorder(sqlite, stage.id)
    keys, _ = until_nothing(sqlite, stage.id, other)
    share = sum(key.startswith("split") for key in keys[:20])
    assert len(keys) == 40
    assert 4 <= share <= 16


def test_critics_scores_can_come_later(store: Store) -> None:
    stage = a_stage(store, items=6, overlap=1)
    person = annotators(store, 1)[0]
    submit(store, stage.id, person, given(store, stage, person).item_id, BEST, "0")
    left = [n for n in range(6) if f"i{n}" != "i5"]
    for critic, winner in (("x", 0), ("y", 1)):
        scores = {f"i{n}": [1.0 - winner, 0.0 + winner] for n in left if n == 3}
        scores |= {f"i{n}": [5.0, 0.0] for n in left if n != 3}
        assert set_scores(store, stage.id, critic, scores) == 5
    following = [given(store, stage, person)]
    assert following[0].key in ("i3", "i5")
    with pytest.raises(DataError, match="1 of 1 scores are for items that the stage does not have"):
        set_scores(store, stage.id, "x", {"other": [1, 2]})
    with pytest.raises(DataError, match="are not 2 numbers"):
        set_scores(store, stage.id, "x", {"i0": [1]})


def test_people_who_disagree_get_a_further_opinion(store: Store) -> None:
    stage = a_stage(store, items=1, overlap=2, max_overlap=3, item_agreement=0.6)
    people = annotators(store, 4)
    votes = [Ballot("best", 0), Ballot("best", 1), Ballot("best", 1)]
    done = []
    for n, (person, vote) in enumerate(zip(people, votes, strict=False)):
        done.append(
            submit(store, stage.id, person, given(store, stage, person).item_id, vote, f"{n}").item_done
        )
    assert done == [False, False, True]
    assert isinstance(next_item(store, stage.id, people[3]), Nothing)
    check_counters(store, stage)


def test_the_budget_stops_the_stage(store: Store) -> None:
    stage = a_stage(store, items=9, overlap=2, budget=5)
    one, other = annotators(store, 2)
    for n in range(4):
        submit(store, stage.id, one, given(store, stage, one).item_id, BEST, f"{n}")
    given(store, stage, one)
    found = next_item(store, stage.id, other)
    assert isinstance(found, Nothing)
    assert found.reason == "budget"


@pytest.mark.parametrize("agree", [True, False])
def test_quota_and_agreement_stop_the_stage(sqlite: Store, agree: bool) -> None:
    stage = a_stage(sqlite, items=20 + STEP, overlap=2, quota=20, agreement=0.8)
    people = annotators(sqlite, 2)
    handed = 0
    while handed < 100:
        for place, person in enumerate(people):
            item = next_item(sqlite, stage.id, person)
            if isinstance(item, Nothing):
                assert item.reason == ("stopped" if agree else "nothing_left")
                handed = 100 if agree else handed + 100
                continue
            side = item.item_id % 2 if agree else place
            submit(sqlite, stage.id, person, item.item_id, Ballot("best", side), item.key)
            handed += 1
    found = get_stage(sqlite, stage.id)
    if agree:
        assert (found.done, found.stopped) == (20, "20 items are judged, and alpha is 1.000, at least 0.8")
        set_state(sqlite, stage.id, "open")
        assert isinstance(next_item(sqlite, stage.id, people[0]), Assignment)
    else:
        assert (found.done, found.stopped) == (20 + STEP, None)


def test_more_overlap_opens_what_was_done_and_less_takes_nothing_back(store: Store) -> None:
    stage = a_stage(store, items=3, overlap=1)
    one, other = annotators(store, 2)
    assert len(until_nothing(store, stage.id, one)[0]) == 3
    assert until_nothing(store, stage.id, other)[0] == []
    change_settings(store, stage.id, stage.settings.model_copy(update={"overlap": 2}))
    assert get_stage(store, stage.id).done == 0
    assert len(until_nothing(store, stage.id, other)[0]) == 3
    change_settings(store, stage.id, stage.settings.model_copy(update={"overlap": 1}))
    check_counters(store, stage)
    assert get_stage(store, stage.id).done == 3


def test_items_that_come_later_are_asked_in_their_place(store: Store) -> None:
    stage = a_stage(store, items=3, overlap=1)
    person = annotators(store, 1)[0]
    until_nothing(store, stage.id, person)
    add_items(store, stage.id, [an_item("late", scores={"x": [1, 0], "y": [0, 1]})])
    assert given(store, stage, person).key == "late"
    with pytest.raises(DataError, match="an item 'late' already"):
        add_items(store, stage.id, [an_item("later"), an_item("late")])
    assert until_nothing(store, stage.id, person)[0] == ["late"]


def test_an_id_is_used_once(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=0)
    with pytest.raises(DataError, match="'x' comes twice"):
        add_items(sqlite, stage.id, [an_item("x"), replace(an_item("x"), prompt="other")])
