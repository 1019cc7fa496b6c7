"""Who works on a stage: enrolment, barring a person, and what then becomes of the votes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.ballots import COUNTED
from data.feedback.leases import release_in
from data.feedback.people import NotAllowedError
from data.feedback.stages import StageSettings
from data.feedback.store import Store, lock_stage
from data.feedback.tables import items, leases, people, roster, stages, votes

_later = votes.alias("later")
# The last word of a person on an item: no other vote supersedes it.
CURRENT = ~sa.exists().where(_later.c.supersedes == votes.c.id)


_STANDING = (
    sa.select(people.c.name, people.c.active, roster.c.person_id.label("enrolled"), roster)
    .select_from(
        people.outerjoin(
            roster, (roster.c.person_id == people.c.id) & (roster.c.stage_id == sa.bindparam("stage"))
        )
    )
    .where(people.c.id == sa.bindparam("person"))
)


def enrolled(connection: sa.Connection, stage_id: int, person_id: int) -> sa.Row[Any]:
    """The person's place in the stage, made at need; raises NotAllowedError for somebody inactive or barred."""
    person = connection.execute(_STANDING, {"stage": stage_id, "person": person_id}).one_or_none()
    if person is None:
        raise DataError(f"there is no person {person_id}", way_out="add the person first")
    if not person.active:
        raise NotAllowedError(f"{person.name} is not active", way_out="a lead can activate the person again")
    row = person if person.enrolled is not None else _enrol(connection, stage_id, person_id)
    if row.barred is not None:
        raise NotAllowedError(
            f"{person.name} is barred from this stage: {row.barred}", way_out="a lead can lift the bar"
        )
    return row


def _enrol(connection: sa.Connection, stage_id: int, person_id: int) -> sa.Row[Any]:
    query = sa.select(roster).where(roster.c.stage_id == stage_id, roster.c.person_id == person_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        connection.execute(sa.insert(roster).values(stage_id=stage_id, person_id=person_id))
        row = connection.execute(query).one()
    return row


def bar(store: Store, stage_id: int, person_id: int, reason: str, *, votes_count: bool = True) -> int:
    """Give a person nothing more of this stage, and take back the leases; returns how many were taken back.

    With `votes_count=False` the person's votes stay on record but enter no result, and the items that they
    counted for are given to other people.
    """
    if not reason.strip():
        raise DataError("a bar needs a reason", way_out="say why; the person is shown it")
    with store.write() as connection:
        settings = _settings(connection, stage_id)
        _known(connection, person_id)
        released = release_in(connection, stage_id, person_id, settings)
        _set(connection, stage_id, person_id, reason, votes_count, settings)
    return released


def unbar(store: Store, stage_id: int, person_id: int) -> None:
    """Let a person go on. Votes that were set aside count again, also where others have judged the item since."""
    with store.write() as connection:
        settings = _settings(connection, stage_id)
        _known(connection, person_id)
        _set(connection, stage_id, person_id, None, True, settings)


def count_again(connection: sa.Connection, stage_id: int) -> None:
    """Work out the stage's counters from its items."""
    ours = sa.and_(items.c.stage_id == stage_id, items.c.is_gold == 0)
    done = sa.select(sa.func.count()).where(ours, items.c.judged >= items.c.needed).scalar_subquery()
    judged = sa.select(sa.func.coalesce(sa.func.sum(items.c.judged), 0)).where(ours).scalar_subquery()
    connection.execute(sa.update(stages).where(stages.c.id == stage_id).values(done=done, judged=judged))


def unfinished_leases(connection: sa.Connection, stage_id: int) -> dict[int, int]:
    """How many items each person holds."""
    rows = connection.execute(
        sa.select(leases.c.person_id, sa.func.count().label("held"))
        .where(leases.c.stage_id == stage_id, leases.c.status == "running")
        .group_by(leases.c.person_id)
    )
    return {row.person_id: row.held for row in rows}


def _set(
    connection: sa.Connection,
    stage_id: int,
    person_id: int,
    barred: str | None,
    votes_count: bool,
    settings: StageSettings,
) -> None:
    counted = _enrol(connection, stage_id, person_id).votes_count
    connection.execute(
        sa.update(roster)
        .where(roster.c.stage_id == stage_id, roster.c.person_id == person_id)
        .values(barred=barred, votes_count=votes_count)
    )
    if counted == votes_count:
        return
    judged = (
        sa.select(votes.c.item_id)
        .where(votes.c.stage_id == stage_id, votes.c.person_id == person_id, CURRENT)
        .where(votes.c.kind.in_(COUNTED))
    )
    step = 1 if votes_count else -1
    taken = items.c.taken + step
    needed = sa.case((sa.and_(items.c.is_gold == 0, taken > items.c.needed), taken), else_=items.c.needed)
    has_room = sa.and_(
        sa.or_(items.c.is_gold == 1, taken < items.c.needed), items.c.flags < settings.flags_to_close
    )
    connection.execute(
        sa.update(items)
        .where(items.c.id.in_(judged))
        .values(
            taken=taken,
            judged=items.c.judged + step,
            needed=needed,
            open=sa.case((has_room, 1), else_=0),
            returned=sa.case((has_room, 1), else_=0),
        )
    )
    count_again(connection, stage_id)


def _settings(connection: sa.Connection, stage_id: int) -> StageSettings:
    return StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])


def _known(connection: sa.Connection, person_id: int) -> None:
    if connection.scalar(sa.select(people.c.id).where(people.c.id == person_id)) is None:
        raise DataError(f"there is no person {person_id}", way_out="add the person first")
