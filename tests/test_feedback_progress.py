"""A lead's numbers, on a stage whose people are known: two careful ones, and one who always takes the first place."""

from __future__ import annotations

import math
import random

import pytest

from data.feedback.assignment import Nothing, next_item
from data.feedback.ballots import Ballot
from data.feedback.progress import progress, speed
from data.feedback.results import judgements
from data.feedback.roster import bar
from data.feedback.store import Store
from data.feedback.summary import places_chosen
from data.feedback.votes import submit
from tests import labelling
from tests.labelling import a_stage, annotators

sqlite = labelling.sqlite


def test_speed_leaves_breaks_out() -> None:
    # Three gaps of 60 s and one night: three votes in three minutes.
    assert speed([0, 60, 120, 40_000, 40_060]) == pytest.approx(60)
    assert math.isnan(speed([5]))


def test_a_leads_numbers(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=60, gold=12, gold_rate=0.3, overlap=3)
    people = annotators(sqlite, 3)
    rng = random.Random(1)
    truth = {n: rng.randrange(2) for n in range(60)} | dict.fromkeys(range(12), 0)
    now = 0.0
    busy = set(people)
    while busy:
        for person in sorted(busy):
            now += 10
            item = next_item(sqlite, stage.id, person, now=now)
            if isinstance(item, Nothing):
                busy.discard(person)
                continue
            right = truth[int(item.key[1:])]
            pick = item.shown[0] if person == people[2] else right if rng.random() < 0.95 else 1 - right
            submit(
                sqlite, stage.id, person, item.item_id, Ballot("best", pick, seconds=4.0), item.key, now=now
            )
    found = progress(sqlite, stage.id, samples=200, now=now)
    assert (found.items, found.gold_items, found.done, found.judged) == (48, 12, 48, 144)
    assert (found.needed, found.hours_left, found.flagged, found.holding) == (0, 0.0, 0, 0)
    careful, other, first = found.people
    assert min(careful.reliability, other.reliability) > 0.9
    assert first.reliability < 0.7
    assert first.first_place is not None
    assert first.first_place.shares == [1.0, 0.0]
    assert first.first_place.p_value < 1e-9
    assert careful.first_place is not None
    assert careful.first_place.p_value > 0.01
    assert careful.gold.value > 0.85 > first.gold.value
    assert careful.gold_answered > 3
    assert careful.gold.low < careful.gold.value
    # One of three people asks every 10 seconds: a vote in 30.
    assert careful.votes_per_hour == pytest.approx(120, rel=0.05)
    assert careful.median_seconds == 4.0
    assert found.agreement["preferred"].value < 0.6
    assert found.position_bias[2].shares[0] > 0.55
    bar(sqlite, stage.id, people[2], "always the first", votes_count=False)
    found = progress(sqlite, stage.id, samples=0, now=now)
    assert found.agreement["preferred"].value > 0.7
    assert (found.done, found.needed) == (0, 48)
    assert [(one.barred, one.votes_count) for one in found.people][2] == ("always the first", False)


def test_an_empty_stage_has_numbers_too(sqlite: Store) -> None:
    stage = a_stage(sqlite, items=3)
    found = progress(sqlite, stage.id)
    assert (found.done, found.needed, found.hours_left, found.agreement) == (0, 6, math.inf, {})
    assert (found.people, found.position_bias) == ([], {})
    assert places_chosen(v for line in judgements(sqlite, stage.id).votes.values() for v in line) == {}
