"""A lead's numbers: how far the stage is, how fast people are, how far they agree, and who can be relied on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import sqlalchemy as sa

from data.feedback.agreement import BiasTest, Interval, position_bias, wilson_interval
from data.feedback.ballots import COUNTED, RETRACT
from data.feedback.history import Vote, history
from data.feedback.items import Item
from data.feedback.readings import Family
from data.feedback.reliability import dawid_skene
from data.feedback.results import Judgements, judgements
from data.feedback.roster import unfinished_leases
from data.feedback.stages import Stage, get_stage
from data.feedback.store import Store
from data.feedback.summary import all_ratings, alphas, places_chosen
from data.feedback.tables import items, roster

# A longer silence is a break, and no working time.
BREAK_SECONDS = 600


@dataclass(frozen=True)
class PersonFigures:
    person_id: int
    name: str
    votes: int
    """Last words that say something of the candidates."""
    skips: int
    flags: int
    corrections: int
    votes_per_hour: float
    """Over working time: gaps of up to ten minutes between votes. NaN below two votes."""
    median_seconds: float
    gold: Interval
    """The share of gold items answered right, with Wilson's interval."""
    gold_answered: int
    reliability: float
    """The chance to say what is true, by Dawid and Skene; NaN without votes that can be compared."""
    first_place: BiasTest | None
    """For items with two candidates."""
    holding: int
    barred: str | None
    votes_count: bool


@dataclass(frozen=True)
class Progress:
    stage: Stage
    items: int
    gold_items: int
    done: int
    judged: int
    needed: int
    """Votes that are still to come, as far as is known."""
    flagged: int
    holding: int
    votes_per_hour: float
    """Of the last hour."""
    hours_left: float
    agreement: dict[Family, Interval]
    position_bias: dict[int, BiasTest]
    """By the number of candidates on the page."""
    gold: Interval
    people: list[PersonFigures]


def progress(store: Store, stage_id: int, *, samples: int = 500, now: float | None = None) -> Progress:
    """All figures at one moment. `samples` are the bootstrap's; 0 leaves the intervals out."""
    now = time.time() if now is None else now
    stage = get_stage(store, stage_id)
    of = judgements(store, stage_id, gold=True, voted=True)
    plain = [item for item in of.items if item.gold is None]
    widths = {item.id: len(item.candidates) for item in plain}
    votes = [vote for line in of.votes.values() for vote in line]
    ordinary = [vote for vote in votes if vote.item_id in widths]
    with store.read() as connection:
        held = unfinished_leases(connection, stage_id)
        standing = {
            row.person_id: row
            for row in connection.execute(sa.select(roster).where(roster.c.stage_id == stage_id))
        }
        sizes = connection.execute(
            sa.select(
                sa.func.count().label("all"),
                sa.func.coalesce(sa.func.sum(items.c.is_gold), 0).label("gold"),
                sa.func.count().filter(items.c.flags > 0).label("flagged"),
            ).where(items.c.stage_id == stage_id)
        ).one()
        needed = connection.scalar(
            sa.select(sa.func.coalesce(sa.func.sum(items.c.needed - items.c.judged), 0)).where(
                items.c.stage_id == stage_id,
                items.c.is_gold == 0,
                items.c.flags < of.settings.flags_to_close,
                items.c.judged < items.c.needed,
            )
        )
    everything = history(store, stage_id, limit=10_000_000)
    recent = sum(vote.kind in COUNTED and now - 3600 < vote.at <= now for vote in ordinary)
    trust = reliability(of)
    right = {item.id: item for item in of.items if item.gold is not None}
    people = [
        _person(of, person, everything, trust, right, held.get(person, 0), row.barred, row.votes_count)
        for person, row in sorted(standing.items())
    ]
    left = int(needed or 0)
    return Progress(
        stage=stage,
        items=sizes.all - sizes.gold,
        gold_items=sizes.gold,
        done=stage.done,
        judged=stage.judged,
        needed=left,
        flagged=sizes.flagged,
        holding=sum(held.values()),
        votes_per_hour=float(recent),
        hours_left=left / recent if recent else math.inf if left else 0.0,
        agreement=alphas(ordinary, widths, samples=samples),
        position_bias={
            width: position_bias(counts) for width, counts in sorted(places_chosen(votes).items())
        },
        gold=_gold(votes, right)[0],
        people=people,
    )


def reliability(of: Judgements) -> dict[int, float]:
    """For each person the chance to say what is true; gold answers are taken as known.

    Two things may be true of a candidate (it fits or not) or three of a pair (the one, the other, neither); a
    person who gave both kinds of judgement gets the mean, weighted by how many of each.
    """
    widths = {item.id: len(item.candidates) for item in of.items}
    found = all_ratings([vote for line in of.votes.values() for vote in line], widths)
    gold = [
        Vote(
            0,
            item.id,
            item.key,
            -1,
            "",
            item.gold["kind"],
            item.gold["choice"],
            1,
            None,
            [],
            None,
            0,
            None,
            None,
        )
        for item in of.items
        if item.gold is not None
    ]
    truth = {(one.family, one.item_id, one.unit): one.value for one in all_ratings(gold, widths)}
    parts: dict[int, list[tuple[float, int]]] = {}
    for family, values in (("accepted", (0.0, 1.0)), ("preferred", (-1.0, 0.0, 1.0))):
        ours = [one for one in found if one.family == family]
        if not ours:
            continue
        units = {unit: n for n, unit in enumerate(sorted({(one.item_id, one.unit) for one in ours}))}
        persons = {person: n for n, person in enumerate(sorted({one.person_id for one in ours}))}
        fitted = dawid_skene(
            [units[one.item_id, one.unit] for one in ours],
            [persons[one.person_id] for one in ours],
            [values.index(one.value) for one in ours],
            len(values),
            known={
                n: values.index(truth[family, item, unit])
                for (item, unit), n in units.items()
                if (family, item, unit) in truth
            },
        )
        for person, n in persons.items():
            count = sum(one.person_id == person for one in ours)
            parts.setdefault(person, []).append((float(fitted.accuracy[n]), count))
    return {
        person: sum(value * count for value, count in line) / sum(count for _, count in line)
        for person, line in parts.items()
    }


def _person(
    of: Judgements,
    person: int,
    everything: Sequence[Vote],
    trust: dict[int, float],
    right: dict[int, Item],
    holding: int,
    barred: str | None,
    votes_count: bool,
) -> PersonFigures:
    all_ours = [vote for vote in everything if vote.person_id == person]
    superseded = {vote.supersedes for vote in all_ours}
    ours = [vote for vote in all_ours if vote.id not in superseded and vote.kind != RETRACT]
    gold, answered = _gold(ours, right)
    seconds = [vote.seconds for vote in ours if vote.seconds is not None]
    chosen = places_chosen(ours).get(2)
    return PersonFigures(
        person_id=person,
        name=of.names[person],
        votes=sum(vote.kind in COUNTED for vote in ours),
        skips=sum(vote.kind == "skip" for vote in ours),
        flags=sum(vote.kind == "flag" for vote in ours),
        corrections=sum(vote.supersedes is not None for vote in all_ours),
        votes_per_hour=speed([vote.at for vote in all_ours if vote.kind != RETRACT]),
        median_seconds=median(seconds) if seconds else math.nan,
        gold=gold,
        gold_answered=answered,
        reliability=trust.get(person, math.nan),
        first_place=None if chosen is None else position_bias(chosen),
        holding=holding,
        barred=barred,
        votes_count=votes_count,
    )


def speed(times: Sequence[float]) -> float:
    """Votes an hour: gaps between votes by the time that they took, breaks aside."""
    ordered = sorted(times)
    gaps = [later - earlier for earlier, later in pairwise(ordered)]
    worked = [gap for gap in gaps if gap <= BREAK_SECONDS]
    return len(worked) / sum(worked) * 3600 if sum(worked) > 0 else math.nan


def answers_gold(kind: str, choice: object, gold: dict[str, object]) -> bool:
    """Is it the known answer? A `best` that is right is right at any strength."""
    return kind == gold["kind"] and choice == gold["choice"]


def _gold(votes: Sequence[Vote], right: dict[int, Item]) -> tuple[Interval, int]:
    answered = [v for v in votes if v.item_id in right and v.kind in COUNTED and v.kind != "edit"]
    hits = sum(answers_gold(v.kind, v.choice, right[v.item_id].gold or {}) for v in answered)
    return wilson_interval(hits, len(answered)), len(answered)
