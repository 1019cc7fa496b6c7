"""The next item for a person: the most useful one that still needs votes and that this person has not answered.

The search is one step in an index, at any size: items are stored in the order of asking, each person's search goes
on from where it had got to, and an item that comes back (an expired lease, an undone vote, one vote more to have)
is marked `returned` and looked at first.

Nobody is asked twice about an item that they answered or skipped. An item whose lease ended without an answer may
come to the same person again: else one closed lid would lose it where only one person works.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from data.feedback.leases import running_leases, sweep, take_place
from data.feedback.roster import enrolled
from data.feedback.stages import StageSettings
from data.feedback.store import Store, lock_stage
from data.feedback.tables import Id, items, leases, roster
from data.feedback.usefulness import draw, shuffled

Reason = Literal["paused", "closed", "stopped", "budget", "nothing_left", "all_taken", "enough_held"]
WHY: dict[Reason, str] = {
    "paused": "a lead has paused the stage",
    "closed": "the stage is closed",
    "stopped": "enough items are judged, and people agree on them",
    "budget": "the stage has all the votes that it was to have",
    "nothing_left": "every item that you could judge has its votes",
    "all_taken": "what is left is with other people: some of it may come back",
    "enough_held": "answer the items that you have first",
}


@dataclass(frozen=True)
class Assignment:
    """An item to show. It does not say whether the answer is known: the page must not tell gold items apart."""

    item_id: int
    key: str
    prompt: str | list[dict[str, Any]]
    image: str | None
    candidates: list[dict[str, Any]]
    """In the order of the page: {"index": the candidate's index in the item, "text": …}."""
    shown: list[int]
    until: float
    """When the lease ends, in seconds since 1970."""


@dataclass(frozen=True)
class Nothing:
    """There is no item now."""

    reason: Reason
    why: str


def next_item(
    store: Store, stage_id: int, person_id: int, *, holding: Collection[int] = (), now: float | None = None
) -> Assignment | Nothing:
    """An item for the person: one already held (its lease is renewed), else another, which is leased.

    A page that loads ahead passes in `holding` the ids of the items that it has, and gets a further one. Raises
    NotAllowedError for somebody inactive or barred.
    """
    now = time.time() if now is None else now
    with store.write(durable=False) as connection:
        stage = lock_stage(connection, stage_id)
        settings = StageSettings.model_validate(stage["settings"])
        standing = enrolled(connection, stage_id, person_id)
        return next_in(connection, stage, settings, standing, person_id, holding, now)


def next_in(
    connection: sa.Connection,
    stage: sa.RowMapping,
    settings: StageSettings,
    standing: sa.Row[Any],
    person_id: int,
    holding: Collection[int],
    now: float,
) -> Assignment | Nothing:
    """`next_item` inside a transaction that holds the stage's lock; `standing` is the person's row of the roster."""
    stage_id = int(stage["id"])
    if stage["state"] != "open":
        return _nothing("paused" if stage["state"] == "paused" else "closed")
    sweep(connection, stage_id, settings, now)
    held = running_leases(connection, stage_id, person_id)
    until = now + settings.lease_seconds
    for lease in held:
        if lease.item_id not in holding:
            connection.execute(_RENEW, {"lease": lease.id, "end": until})
            return _shown(connection, lease.item_id, lease.shown, until)
    if stage["stopped"] is not None:
        return _nothing("stopped")
    if len(held) >= settings.max_leases:
        return _nothing("enough_held")
    if settings.budget is not None and stage["judged"] + _out(connection, stage_id) >= settings.budget:
        return _nothing("budget")
    row, position = _found(connection, stage_id, person_id, standing, settings)
    if row is None:
        return _nothing("all_taken" if _out(connection, stage_id) else "nothing_left")
    item_id = row.id
    take_place(connection, item_id)
    order = list(range(len(row.candidates)))
    if settings.blind_order:
        order = shuffled(len(order), settings.seed, item_id, person_id)
    _lease(connection, stage_id, item_id, person_id, order, now, until)
    who = {"stage": stage_id, "person": person_id}
    if position is None:
        connection.execute(_HANDED, who)
    else:
        connection.execute(_HANDED_ON, {**who, "position": position, "item": item_id})
    return _assignment(row, item_id, order, until)


def assigned(store: Store, stage_id: int, person_id: int, item_id: int) -> Assignment | None:
    """An item as it was shown to the person, answered or not: for going back to correct a vote."""
    with store.read() as connection:
        lease = connection.execute(
            sa.select(leases).where(
                leases.c.stage_id == stage_id, leases.c.item_id == item_id, leases.c.person_id == person_id
            )
        ).one_or_none()
        return None if lease is None else _shown(connection, item_id, lease.shown, lease.until)


def _nothing(reason: Reason) -> Nothing:
    return Nothing(reason, WHY[reason])


def _out(connection: sa.Connection, stage_id: int) -> int:
    """Running leases, those on gold items aside."""
    return connection.scalar(_OUT, {"stage": stage_id}) or 0


_PAGE = (items.c.key, items.c.prompt, items.c.image, items.c.candidates)


def _open_items(*more: sa.ColumnElement[bool]) -> Any:
    """The first open item that the person has not got and has not answered."""
    seen = sa.exists().where(
        leases.c.item_id == items.c.id,
        leases.c.person_id == sa.bindparam("person"),
        leases.c.status.in_(("running", "answered")),
    )
    return (
        sa.select(items.c.id, items.c.position, *_PAGE)
        .where(items.c.stage_id == sa.bindparam("stage"), items.c.open == 1, ~seen, *more)
        .order_by(items.c.position, items.c.id)
        .limit(1)
    )


# Built once: making a statement anew costs more than running it.
_RETURNED = _open_items(items.c.is_gold == 0, items.c.returned == 1)
_FIRST = _open_items(items.c.is_gold == 0, items.c.returned == 0)
_FURTHER = _open_items(
    items.c.is_gold == 0,
    items.c.returned == 0,
    sa.tuple_(items.c.position, items.c.id)
    > sa.tuple_(sa.bindparam("position", type_=sa.Double), sa.bindparam("item", type_=Id)),
)
_GOLD = _open_items(items.c.is_gold == 1)
_SHOWN = sa.select(*_PAGE).where(items.c.id == sa.bindparam("item"))
_OUT = (
    sa.select(sa.func.count())
    .select_from(leases.join(items, items.c.id == leases.c.item_id))
    .where(leases.c.stage_id == sa.bindparam("stage"), leases.c.status == "running", items.c.is_gold == 0)
)
_RENEW = sa.update(leases).where(leases.c.id == sa.bindparam("lease")).values(until=sa.bindparam("end"))
_HANDED = (
    sa.update(roster)
    .where(roster.c.stage_id == sa.bindparam("stage"), roster.c.person_id == sa.bindparam("person"))
    .values(handed=roster.c.handed + 1)
)
_HANDED_ON = _HANDED.values(
    reached_position=sa.bindparam("position", type_=sa.Double), reached_item=sa.bindparam("item", type_=Id)
)
# A person may have had the item before: then the lease is the same one.
_LEASES = {
    dialect: made.on_conflict_do_update(
        index_elements=["item_id", "person_id"],
        set_={name: made.excluded[name] for name in ("shown", "status", "since", "until")},
    )
    for dialect, made in (("sqlite", sqlite.insert(leases)), ("postgresql", postgresql.insert(leases)))
}


def _found(
    connection: sa.Connection, stage_id: int, person_id: int, standing: sa.Row[Any], settings: StageSettings
) -> tuple[Any, float | None]:
    """The item's row or None, and the position that the search has reached with it (None: it stays where it was)."""
    who = {"stage": stage_id, "person": person_id}
    returned = connection.execute(_RETURNED, who).one_or_none()
    ordinary = returned
    if ordinary is None and standing.reached_item is None:
        ordinary = connection.execute(_FIRST, who).one_or_none()
    elif ordinary is None:
        reached = {"position": standing.reached_position, "item": standing.reached_item}
        ordinary = connection.execute(_FURTHER, {**who, **reached}).one_or_none()
    # Gold is mixed in among ordinary items; alone it would cost people time and teach nothing.
    if ordinary is not None and draw("gold", settings.seed, person_id, standing.handed) < settings.gold_rate:
        gold = connection.execute(_GOLD, who).one_or_none()
        if gold is not None:
            return gold, None
    if ordinary is None:
        return None, None
    return ordinary, None if returned is not None else ordinary.position


def _lease(
    connection: sa.Connection,
    stage_id: int,
    item_id: int,
    person_id: int,
    order: list[int],
    now: float,
    until: float,
) -> None:
    values = {
        "stage_id": stage_id,
        "item_id": item_id,
        "person_id": person_id,
        "shown": order,
        "status": "running",
        "since": now,
        "until": until,
    }
    connection.execute(_LEASES[connection.dialect.name], values)


def _shown(connection: sa.Connection, item_id: int, order: list[int], until: float) -> Assignment:
    return _assignment(connection.execute(_SHOWN, {"item": item_id}).one(), item_id, order, until)


def _assignment(row: Any, item_id: int, order: list[int], until: float) -> Assignment:
    candidates = [{"index": index, "text": row.candidates[index]["text"]} for index in order]
    return Assignment(item_id, row.key, row.prompt, row.image, candidates, order, until)
