"""Votes as they are stored, read back: a person's, a stage's, all of them or the last words only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from data.feedback.ballots import RETRACT, Edit
from data.feedback.roster import CURRENT
from data.feedback.store import Store
from data.feedback.tables import edits, items, roster, votes


@dataclass(frozen=True)
class Vote:
    """A vote as it is stored; `kind` may also be "retract"."""

    id: int
    item_id: int
    item_key: str
    person_id: int
    key: str
    kind: str
    choice: Any
    strength: int | None
    comment: str | None
    shown: list[int]
    seconds: float | None
    at: float
    supersedes: int | None
    edit: Edit | None


def history(
    store: Store,
    stage_id: int,
    person_id: int | None = None,
    *,
    limit: int = 100,
    before: int | None = None,
    current: bool = False,
) -> list[Vote]:
    """Votes, the last first; `before` is the vote to go on from, `current` leaves out what was superseded."""
    query = _votes(stage_id)
    if person_id is not None:
        query = query.where(votes.c.person_id == person_id)
    if before is not None:
        query = query.where(votes.c.id < before)
    if current:
        query = query.where(CURRENT, votes.c.kind != RETRACT)
    with store.read() as connection:
        rows = connection.execute(query.order_by(votes.c.id.desc()).limit(limit)).all()
    return [vote_of(row) for row in rows]


def vote_of(row: Any) -> Vote:
    return Vote(
        row.id,
        row.item_id,
        row.item_key,
        row.person_id,
        row.key,
        row.kind,
        row.choice,
        row.strength,
        row.comment,
        row.shown,
        row.seconds,
        row.at,
        row.supersedes,
        None if row.text is None else Edit(row.text, row.candidate),
    )


def counted_votes(connection: sa.Connection, stage_id: int) -> list[Vote]:
    """Everybody's last word on everything, oldest first; those of people whose votes do not count are left out."""
    excluded = sa.exists().where(
        roster.c.stage_id == votes.c.stage_id, roster.c.person_id == votes.c.person_id, ~roster.c.votes_count
    )
    query = _votes(stage_id).where(CURRENT, votes.c.kind != RETRACT, ~excluded).order_by(votes.c.id)
    return [vote_of(row) for row in connection.execute(query)]


def _votes(stage_id: int) -> sa.Select[Any]:
    return (
        sa.select(votes, items.c.key.label("item_key"), edits.c.text, edits.c.candidate)
        .join(items, items.c.id == votes.c.item_id)
        .outerjoin(edits, edits.c.vote_id == votes.c.id)
        .where(votes.c.stage_id == stage_id)
    )
