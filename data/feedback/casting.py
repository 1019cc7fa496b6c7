"""What one vote does to its item, its lease and its stage, step by step inside the vote's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.ballots import COUNTED, Ballot
from data.feedback.leases import free_place, take_place
from data.feedback.readings import shared
from data.feedback.roster import CURRENT
from data.feedback.stages import StageSettings
from data.feedback.tables import edits, items, leases, roster, stages, votes

# Built once: making a statement anew costs more than running it.
_ITEM = sa.select(items).where(items.c.id == sa.bindparam("item"))
_JUDGED = (
    sa.update(items)
    .where(items.c.id == sa.bindparam("item"))
    .values(judged=items.c.judged + sa.bindparam("step", type_=sa.Integer))
    .returning(items.c.judged, items.c.needed, items.c.is_gold)
)
_STAGE_JUDGED = (
    sa.update(stages)
    .where(stages.c.id == sa.bindparam("stage"))
    .values(judged=stages.c.judged + sa.bindparam("step", type_=sa.Integer))
)
_ONE_MORE = (
    sa.update(items)
    .where(items.c.id == sa.bindparam("item"), items.c.judged < items.c.needed)
    .values(needed=items.c.needed + 1, taken=items.c.taken + 1)
)
_ANSWERED = sa.update(leases).where(leases.c.id == sa.bindparam("lease")).values(status="answered")
_VOTE = sa.insert(votes).returning(votes.c.id)


@dataclass(frozen=True)
class Lease:
    """A person's hold on an item, running or not."""

    id: int
    status: str
    shown: list[int]


class LeaseLostError(DataError):
    """The item is not this person's, or not any more."""


class Casting:
    """The steps of one vote, inside its transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        settings: StageSettings,
        stage_id: int,
        item: sa.Row[Any],
        person_id: int,
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.stage_id = stage_id
        self.item_id = int(item.id)
        self.person_id = person_id
        self.is_gold = bool(item.is_gold)
        self.was_done = item.judged >= item.needed
        self._counted: Any = None

    def _item(self) -> sa.Row[Any]:
        return self.connection.execute(_ITEM, {"item": self.item_id}).one()

    def take(self, counted: bool, counts: bool, lease: Lease) -> None:
        """Have a place for a vote that counts, and give it up for one that does not."""
        has_place = counted or lease.status == "running"
        if counts and not has_place and not self._late_place(lease):
            raise LeaseLostError(
                "the time for this item was over, and other people have judged it since",
                way_out="go on with the next item; a lead can give you more time (lease_seconds)",
            )
        if has_place and not counts:
            if counted:
                self.count(-1)
            free_place(self.connection, self.item_id, self.settings)
        elif counts and not counted:
            self.count(1)

    def _late_place(self, lease: Lease) -> bool:
        """A place for somebody who holds the item no more.

        An answer that comes after its time, while other people have the item but not answered it, is work done: it
        is taken, and the item has one vote more than it was to have, so that theirs is not lost either.
        """
        if take_place(self.connection, self.item_id):
            return True
        if lease.status != "expired":
            return False
        return self.connection.execute(_ONE_MORE, {"item": self.item_id}).rowcount == 1

    def count(self, step: int) -> None:
        if step:
            self._counted = self.connection.execute(_JUDGED, {"item": self.item_id, "step": step}).one()
            if not self.is_gold:
                self.connection.execute(_STAGE_JUDGED, {"stage": self.stage_id, "step": step})

    def insert(self, ballot: Ballot, key: str, shown: list[int], now: float, supersedes: int | None) -> int:
        vote_id = self.connection.execute(
            _VOTE,
            {
                "stage_id": self.stage_id,
                "item_id": self.item_id,
                "person_id": self.person_id,
                "key": key,
                "kind": ballot.kind,
                "choice": ballot.choice,
                "strength": ballot.strength,
                "comment": ballot.comment,
                "shown": shown,
                "seconds": ballot.seconds,
                "at": now,
                "supersedes": supersedes,
            },
        ).scalar_one()
        if ballot.edit is not None:
            self.connection.execute(
                sa.insert(edits).values(
                    vote_id=vote_id, candidate=ballot.edit.candidate, text=ballot.edit.text
                )
            )
        return vote_id

    def answered(self, flags: int, lease_id: int) -> None:
        self.connection.execute(_ANSWERED, {"lease": lease_id})
        self._flag(flags)

    def running_again(self, lease_id: int, until: float, flags: int) -> None:
        self.connection.execute(
            sa.update(leases).where(leases.c.id == lease_id).values(status="running", until=until)
        )
        self._flag(flags)

    def _flag(self, step: int) -> None:
        if not step:
            return
        flags = items.c.flags + step
        has_room = sa.and_(
            sa.or_(items.c.is_gold == 1, items.c.taken < items.c.needed),
            flags < self.settings.flags_to_close,
        )
        self.connection.execute(
            sa.update(items)
            .where(items.c.id == self.item_id)
            .values(
                flags=flags,
                open=sa.case((has_room, 1), else_=0),
                returned=sa.case((has_room, 1), else_=0),
            )
        )

    def settle(self) -> bool:
        """Ask for one vote more where people disagree; keep the stage's count; True if the item is done."""
        item = self._counted or self._item()
        done = item.judged >= item.needed
        if item.is_gold:
            return done
        if done and item.needed < self.settings.most and self._disagree():
            self.connection.execute(
                sa.update(items)
                .where(items.c.id == self.item_id)
                .values(
                    needed=items.c.needed + 1,
                    open=sa.case((items.c.flags < self.settings.flags_to_close, 1), else_=0),
                    returned=1,
                )
            )
            done = False
        if done != self.was_done:
            self.connection.execute(
                sa.update(stages)
                .where(stages.c.id == self.stage_id)
                .values(done=stages.c.done + (1 if done else -1))
            )
        return done

    def _disagree(self) -> bool:
        excluded = sa.exists().where(
            roster.c.stage_id == self.stage_id, roster.c.person_id == votes.c.person_id, ~roster.c.votes_count
        )
        found = self.connection.execute(
            sa.select(votes.c.kind, votes.c.choice).where(
                votes.c.item_id == self.item_id, votes.c.kind.in_(COUNTED), CURRENT, ~excluded
            )
        ).all()
        answers = [(row.kind, row.choice) for row in found if row.kind != "edit"]
        return len(answers) > 1 and shared(answers) < self.settings.item_agreement
