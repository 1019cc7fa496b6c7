"""What the tests of the label store share: stages to try, and the check that counters repeat what the rows say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from data.feedback import tables
from data.feedback.assignment import Assignment, next_item
from data.feedback.ballots import COUNTED, Ballot
from data.feedback.items import NewItem, add_items
from data.feedback.people import add_person
from data.feedback.roster import CURRENT
from data.feedback.stages import Stage, StageSettings, create_stage
from data.feedback.store import Store
from tests.postgres import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be made: both databases, one after the other."""
    if request.param == "sqlite":
        return str(tmp_path / "labels.sqlite")
    return fresh_database("labels")


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    with Store(location) as opened:
        yield opened


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    """For what does not depend on the database."""
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


def a_stage(store: Store, items: int = 4, candidates: int = 2, gold: int = 0, **settings: Any) -> Stage:
    """Items i0, i1, … whose candidates are a, b, …; the first `gold` of them have the answer 0."""
    stage = create_stage(store, "stage", StageSettings(**{"gold_rate": 0.0, **settings}))
    add_items(store, stage.id, [an_item(f"i{n}", candidates, n < gold) for n in range(items)])
    return stage


def an_item(key: str, candidates: int = 2, gold: bool = False, **more: Any) -> NewItem:
    texts: list[dict[str, Any]] = [{"text": "abcdefgh"[n]} for n in range(candidates)]
    answer = {"kind": "best", "choice": 0} if gold else None
    return NewItem(key, f"prompt of {key}", texts, gold=answer, **more)


def annotators(store: Store, count: int) -> list[int]:
    return [add_person(store, f"person {n}")[0].id for n in range(count)]


def given(store: Store, stage: Stage, person: int, **more: Any) -> Assignment:
    found = next_item(store, stage.id, person, **more)
    assert isinstance(found, Assignment), found
    return found


BEST = Ballot("best", 0, 1)


def rows(store: Store, table: sa.Table) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)))


def check_counters(store: Store, stage: Stage) -> None:
    """Every counter equals what is counted from leases and votes, and no item has more than it needs."""
    with store.read() as connection:
        items = connection.execute(sa.select(tables.items)).all()
        leases = connection.execute(sa.select(tables.leases)).all()
        votes = connection.execute(sa.select(tables.votes).where(CURRENT)).all()
        row = connection.execute(sa.select(tables.stages).where(tables.stages.c.id == stage.id)).one()
        out = set(
            connection.scalars(sa.select(tables.roster.c.person_id).where(~tables.roster.c.votes_count))
        )
    assert len({(vote.item_id, vote.person_id) for vote in votes}) == len(votes), "two last words"
    limit = StageSettings.model_validate(row.settings).flags_to_close
    for item in items:
        judged = sum(v.item_id == item.id and v.kind in COUNTED and v.person_id not in out for v in votes)
        running = sum(lease.item_id == item.id and lease.status == "running" for lease in leases)
        flags = sum(v.item_id == item.id and v.kind == "flag" for v in votes)
        has_room = (item.is_gold or judged + running < item.needed) and flags < limit
        assert (item.judged, item.taken, item.flags) == (judged, judged + running, flags), item.key
        assert bool(item.open) == has_room, item.key
        assert item.is_gold or item.taken <= item.needed, item.key
    plain = [item for item in items if not item.is_gold]
    assert row.judged == sum(item.judged for item in plain)
    assert row.done == sum(item.judged >= item.needed for item in plain)
