"""Votes: each stored once however often it is sent, corrected and undone by further votes, never changed.

A vote is on the disk when `submit` returns. Its `key` is made by the page, once for each press of a button: the same
key again is the same vote, and gives the same receipt.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.assignment import Assignment, Nothing, next_in, next_item
from data.feedback.ballots import COUNTED, RETRACT, Ballot, Edit, Kind, check_ballot, storable
from data.feedback.casting import Casting, Lease, LeaseLostError
from data.feedback.leases import take_place
from data.feedback.roster import CURRENT, enrolled
from data.feedback.stages import StageSettings
from data.feedback.stopping import check_due, check_stop
from data.feedback.store import Store, lock_stage
from data.feedback.tables import edits, items, leases, votes

__all__ = ["LeaseLostError", "Receipt", "VoteConflictError", "retract", "submit", "submit_and_next"]

LONGEST_KEY = 200
# Built once: making a statement anew costs more than running it.
_ITEM = sa.select(items).where(items.c.id == sa.bindparam("item"), items.c.stage_id == sa.bindparam("stage"))
_ITEM_AND_LEASE = (
    sa.select(
        items,
        leases.c.id.label("lease_id"),
        leases.c.status.label("lease_status"),
        leases.c.shown.label("lease_shown"),
    )
    .outerjoin(leases, (leases.c.item_id == items.c.id) & (leases.c.person_id == sa.bindparam("person")))
    .where(items.c.id == sa.bindparam("item"), items.c.stage_id == sa.bindparam("stage"))
)
_WITH_KEY = sa.select(votes).where(
    votes.c.person_id == sa.bindparam("person"), votes.c.key == sa.bindparam("press")
)
_LAST = sa.select(votes).where(
    votes.c.item_id == sa.bindparam("item"), votes.c.person_id == sa.bindparam("person"), CURRENT
)
_LEASE = sa.select(leases).where(
    leases.c.item_id == sa.bindparam("item"), leases.c.person_id == sa.bindparam("person")
)


class VoteConflictError(DataError):
    """The person has a vote on this item, or the key or the vote to replace is another one's."""

    def __init__(
        self, what: str, *, where: str | None = None, way_out: str | None = None, vote_id: int | None = None
    ) -> None:
        super().__init__(what, where=where, way_out=way_out)
        self.vote_id = vote_id
        """The vote that stands in the way."""


@dataclass(frozen=True)
class Receipt:
    """What is on the disk."""

    vote_id: int
    item_id: int
    repeated: bool
    """It was stored before: this call stored nothing."""
    item_done: bool
    """The item has all the votes it is to have."""


def submit(
    store: Store,
    stage_id: int,
    person_id: int,
    item_id: int,
    ballot: Ballot,
    key: str,
    *,
    supersedes: int | None = None,
    now: float | None = None,
) -> Receipt:
    """Store a vote on an item that the person holds, or, with `supersedes`, in place of the person's earlier vote.

    Raises BallotError (it does not fit), VoteConflictError (there is a vote already), LeaseLostError (the item went to
    somebody else), NotAllowedError (inactive or barred), DataError (closed, unknown).
    """
    return _submit(store, stage_id, person_id, item_id, ballot, key, supersedes, None, now)[0]


def submit_and_next(
    store: Store,
    stage_id: int,
    person_id: int,
    item_id: int,
    ballot: Ballot,
    key: str,
    *,
    holding: Collection[int],
    supersedes: int | None = None,
    now: float | None = None,
) -> tuple[Receipt, Assignment | Nothing]:
    """`submit`, and then `next_item`, in one transaction wherever the vote cannot end the stage."""
    receipt, found = _submit(store, stage_id, person_id, item_id, ballot, key, supersedes, holding, now)
    return receipt, found or next_item(store, stage_id, person_id, holding=holding, now=now)


def _submit(
    store: Store,
    stage_id: int,
    person_id: int,
    item_id: int,
    ballot: Ballot,
    key: str,
    supersedes: int | None,
    holding: Collection[int] | None,
    given_now: float | None,
) -> tuple[Receipt, Assignment | Nothing | None]:
    storable(key, "the key", LONGEST_KEY)
    if not key:
        raise DataError("a vote needs a key", way_out="make a random one for each press of a button")
    now = time.time() if given_now is None else given_now
    with store.write() as connection:
        stage = lock_stage(connection, stage_id)
        settings = StageSettings.model_validate(stage["settings"])
        standing = enrolled(connection, stage_id, person_id)
        item = connection.execute(
            _ITEM_AND_LEASE, {"item": item_id, "stage": stage_id, "person": person_id}
        ).one_or_none()
        if item is None:
            raise DataError(f"the stage has no item {item_id}", way_out="ask for the next item")
        fit = check_ballot(
            ballot, len(item.candidates), settings.kinds, settings.strength_max, f"item {item.key}"
        )
        before = _with_key(connection, person_id, key)
        if before is not None:
            return _repeated(connection, before, item_id, fit, item), None
        if stage["state"] == "closed":
            raise DataError("the stage is closed", way_out="a lead can open it again")
        last = _last(connection, item_id, person_id)
        _may_follow(last, supersedes)
        if item.lease_id is None:
            raise _never_given()
        lease = Lease(item.lease_id, item.lease_status, item.lease_shown)
        new = Casting(connection, settings, stage_id, item, person_id)
        new.take(_counts(last), fit.kind in COUNTED, lease)
        vote_id = new.insert(fit, key, lease.shown, now, None if last is None else last.id)
        new.answered(_flags(fit.kind) - _flags(None if last is None else last.kind), lease.id)
        done = new.settle()
        due = done and check_due(connection, stage_id, settings)
        found: Assignment | Nothing | None = None
        if holding is not None and not due:
            if settings.budget is not None:
                stage = lock_stage(connection, stage_id)  # this vote counts
            found = next_in(connection, stage, settings, standing, person_id, holding, now)
    if due:
        check_stop(store, stage_id)
    return Receipt(vote_id, item_id, repeated=False, item_done=done), found


def retract(
    store: Store, stage_id: int, person_id: int, vote_id: int, key: str, *, now: float | None = None
) -> Receipt:
    """Undo a vote: it stays on record, counts no more, and its item is the person's again."""
    storable(key, "the key", LONGEST_KEY)
    now = time.time() if now is None else now
    with store.write() as connection:
        stage = lock_stage(connection, stage_id)
        settings = StageSettings.model_validate(stage["settings"])
        enrolled(connection, stage_id, person_id)
        before = _with_key(connection, person_id, key)
        if before is not None:
            if before.kind == RETRACT and before.supersedes == vote_id:
                return Receipt(before.id, before.item_id, repeated=True, item_done=False)
            raise VoteConflictError(
                "the key belongs to another vote", way_out="make a new key", vote_id=before.id
            )
        if stage["state"] == "closed":
            raise DataError("the stage is closed", way_out="a lead can open it again")
        vote = connection.execute(
            sa.select(votes).where(
                votes.c.id == vote_id, votes.c.person_id == person_id, votes.c.stage_id == stage_id
            )
        ).one_or_none()
        if vote is None or vote.kind == RETRACT:
            raise DataError(f"you have no vote {vote_id} in this stage", way_out="take one from the history")
        last = _last(connection, vote.item_id, person_id)
        _may_follow(last, vote_id)
        lease = _lease(connection, vote.item_id, person_id)
        item = connection.execute(_ITEM, {"item": vote.item_id, "stage": stage_id}).one()
        new = Casting(connection, settings, stage_id, item, person_id)
        # The place goes back to the lease; a skip had none, and takes one again.
        if not _counts(last) and not take_place(connection, vote.item_id):
            raise LeaseLostError(
                "the item has gone to other people",
                where=f"vote {vote_id}",
                way_out="go on with the next item",
            )
        new.count(-int(_counts(last)))
        retracting = Ballot(cast("Kind", RETRACT))
        retract_id = new.insert(retracting, key, lease.shown, now, vote_id)
        new.running_again(lease.id, now + settings.lease_seconds, -_flags(vote.kind))
        new.settle()
    return Receipt(retract_id, vote.item_id, repeated=False, item_done=False)


def _with_key(connection: sa.Connection, person_id: int, key: str) -> sa.Row[Any] | None:
    return connection.execute(_WITH_KEY, {"person": person_id, "press": key}).one_or_none()


def _repeated(
    connection: sa.Connection, before: sa.Row[Any], item_id: int, ballot: Ballot, item: sa.Row[Any]
) -> Receipt:
    edit = connection.execute(sa.select(edits).where(edits.c.vote_id == before.id)).one_or_none()
    stored = Ballot(
        before.kind,
        before.choice,
        before.strength,
        before.comment,
        ballot.seconds,  # a repeat that was sent later took longer
        None if edit is None else Edit(edit.text, edit.candidate),
    )
    if before.item_id != item_id or stored != ballot:
        raise VoteConflictError(
            "the key belongs to another vote", way_out="make a new key for a new vote", vote_id=before.id
        )
    return Receipt(before.id, item_id, repeated=True, item_done=item.judged >= item.needed)


def _last(connection: sa.Connection, item_id: int, person_id: int) -> sa.Row[Any] | None:
    return connection.execute(_LAST, {"item": item_id, "person": person_id}).one_or_none()


def _may_follow(last: sa.Row[Any] | None, supersedes: int | None) -> None:
    standing = None if last is None or last.kind == RETRACT else last.id
    if supersedes == standing:
        return
    if standing is None:
        raise VoteConflictError(
            f"vote {supersedes} is not your last word on this item", way_out="reload the item, then vote"
        )
    raise VoteConflictError(
        "you have a vote on this item already",
        way_out="to change it, send supersedes with its id",
        vote_id=standing,
    )


def _lease(connection: sa.Connection, item_id: int, person_id: int) -> Lease:
    lease = connection.execute(_LEASE, {"item": item_id, "person": person_id}).one_or_none()
    if lease is None:
        raise _never_given()
    return Lease(lease.id, lease.status, lease.shown)


def _never_given() -> LeaseLostError:
    return LeaseLostError("the item was never given to you", way_out="ask for the next item")


def _counts(vote: sa.Row[Any] | None) -> bool:
    return vote is not None and vote.kind in COUNTED


def _flags(kind: str | None) -> int:
    return int(kind == "flag")
