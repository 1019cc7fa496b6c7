"""Leases: an item is one person's until a time, and comes back when the time is over or a lead takes it back."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from data.feedback.stages import StageSettings
from data.feedback.store import Store, lock_stage
from data.feedback.tables import items, leases

_RUNNING = (
    sa.select(leases)
    .where(leases.c.stage_id == sa.bindparam("stage"), leases.c.status == "running")
    .order_by(leases.c.since, leases.c.id)
)
_HELD = _RUNNING.where(leases.c.person_id == sa.bindparam("person"))
_OF = (
    sa.select(leases.c.id, leases.c.status, items.c.judged, items.c.needed)
    .join(items, items.c.id == leases.c.item_id)
    .where(leases.c.item_id == sa.bindparam("item"), leases.c.person_id == sa.bindparam("person"))
)
_RENEWED = (
    sa.update(leases)
    .where(leases.c.id == sa.bindparam("lease"))
    .values(status="running", until=sa.bindparam("end"))
)
# A sweep is part of the transaction that gives out an item, so it is bounded; the next one goes on.
SWEEP = 200
_OVER = (
    sa.select(leases.c.id, leases.c.item_id)
    .where(
        leases.c.stage_id == sa.bindparam("stage"),
        leases.c.status == "running",
        leases.c.until <= sa.bindparam("now"),
    )
    .limit(SWEEP)
)


def sweep(connection: sa.Connection, stage_id: int, settings: StageSettings, now: float) -> int:
    """Take back leases whose time is over; returns how many."""
    over = connection.execute(_OVER, {"stage": stage_id, "now": now}).all()
    for row in over:
        end_lease(connection, row.id, row.item_id, "expired", settings)
    return len(over)


def end_lease(
    connection: sa.Connection, lease_id: int, item_id: int, status: str, settings: StageSettings
) -> None:
    connection.execute(sa.update(leases).where(leases.c.id == lease_id).values(status=status))
    free_place(connection, item_id, settings)


def free_place(connection: sa.Connection, item_id: int, settings: StageSettings) -> None:
    """One place of the item is free again, wherever people's searches have got to."""
    connection.execute(
        sa.update(items)
        .where(items.c.id == item_id)
        .values(
            taken=items.c.taken - 1,
            open=sa.case((items.c.flags < settings.flags_to_close, 1), else_=0),
            returned=1,
        )
    )


_STILL_OPEN = sa.case(((items.c.is_gold == 1) | (items.c.taken + 1 < items.c.needed), items.c.open), else_=0)
# Built once: making a statement anew costs more than running it.
_TAKE = (
    sa.update(items)
    .where(items.c.id == sa.bindparam("item"), (items.c.is_gold == 1) | (items.c.taken < items.c.needed))
    .values(taken=items.c.taken + 1, open=_STILL_OPEN, returned=items.c.returned * _STILL_OPEN)
)


def take_place(connection: sa.Connection, item_id: int) -> bool:
    """Take one place of the item if there is one."""
    return connection.execute(_TAKE, {"item": item_id}).rowcount == 1


def renew(
    store: Store, stage_id: int, person_id: int, held: Collection[int], *, now: float | None = None
) -> list[int]:
    """Somebody still looks at these items: their leases begin anew. Returns those that the person has no more.

    A lease that ended begins again where there is a place; where there is none, the person may still answer as long
    as the item wants votes, so only items that would be refused are returned.
    """
    now = time.time() if now is None else now
    with store.write(durable=False) as connection:
        settings = StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])
        lost: list[int] = []
        for item_id in dict.fromkeys(held):
            lease = connection.execute(_OF, {"item": item_id, "person": person_id}).one_or_none()
            ended = lease is not None and lease.status == "expired"
            running = lease is not None and lease.status == "running"
            if lease is not None and (running or (ended and take_place(connection, item_id))):
                connection.execute(_RENEWED, {"lease": lease.id, "end": now + settings.lease_seconds})
            elif not (ended and lease is not None and lease.judged < lease.needed):
                lost.append(item_id)
        return lost


def running_leases(
    connection: sa.Connection, stage_id: int, person_id: int | None = None
) -> Sequence[sa.Row[Any]]:
    if person_id is None:
        return connection.execute(_RUNNING, {"stage": stage_id}).all()
    return connection.execute(_HELD, {"stage": stage_id, "person": person_id}).all()


def release(store: Store, stage_id: int, person_id: int | None = None) -> int:
    """Take back the running leases of a person, or of everybody; returns how many."""
    with store.write() as connection:
        settings = StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])
        return release_in(connection, stage_id, person_id, settings)


def release_in(
    connection: sa.Connection, stage_id: int, person_id: int | None, settings: StageSettings
) -> int:
    """`release` inside a transaction that holds the stage's lock."""
    found = running_leases(connection, stage_id, person_id)
    for row in found:
        end_lease(connection, row.id, row.item_id, "released", settings)
    return len(found)


def release_expired(store: Store, stage_id: int, *, now: float | None = None) -> int:
    """Take back all leases whose time is over: giving out an item does it too, but somebody may ask in between."""
    total = 0
    while True:
        with store.write() as connection:
            settings = StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])
            swept = sweep(connection, stage_id, settings, time.time() if now is None else now)
        total += swept
        if swept < SWEEP:
            return total
