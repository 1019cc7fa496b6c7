"""A stage of labelling: its settings, and whether it is open, paused or closed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, cast

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy.exc import IntegrityError

from data.errors import DataError
from data.feedback.ballots import Kind
from data.feedback.store import Store, lock_stage
from data.feedback.tables import items, roster, stages

State = Literal["open", "paused", "closed"]
ANSWERS: tuple[Kind, ...] = ("choose", "best", "rank", "tie")


class StageSettings(BaseModel):
    """How a stage asks."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    question: str = Field(default="Which answer is better?", min_length=1, max_length=2000)
    """What the page asks."""
    guidelines: str = Field(default="", max_length=100_000)
    kinds: tuple[Kind, ...] = ("best", "tie", "skip", "flag", "edit")
    """The kinds of vote that are accepted."""
    overlap: int = Field(default=2, ge=1, le=100)
    """How many people judge each item."""
    max_overlap: int | None = Field(default=None, ge=1, le=100)
    """An item whose people disagree is given to more, up to so many; the overlap by default."""
    item_agreement: float = Field(default=0.6, gt=0, le=1)
    """The share of equal votes below which people are taken to disagree."""
    gold_rate: float = Field(default=0.1, ge=0, le=0.9)
    """The chance that a person is given an item whose answer is known."""
    order: Literal["useful", "random"] = "useful"
    """What is asked first: what critics disagree on, or, as the control, anything."""
    blind_order: bool = True
    """Shuffle the candidates for each person."""
    strength_max: int = Field(default=3, ge=1, le=10)
    lease_seconds: float = Field(default=1800, gt=0, le=7 * 86400)
    """An item that is not answered for so long is given to somebody else."""
    max_leases: int = Field(default=2, ge=1, le=20)
    """How many items a person may hold: the one on the page, and the one loaded ahead."""
    flags_to_close: int = Field(default=2, ge=1)
    """An item that so many people flagged is given to nobody else."""
    quota: int | None = Field(default=None, ge=1)
    """With `agreement`: stop when so many items are judged and people agree well enough."""
    agreement: float | None = Field(default=None, gt=0, le=1)
    """Krippendorff's alpha (nominal) at which `quota` may stop the stage."""
    budget: int | None = Field(default=None, ge=1)
    """Stop after so many votes, whatever is left."""
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> StageSettings:
        if not set(self.kinds) & set(ANSWERS):
            raise ValueError(f"kinds needs at least one of {', '.join(ANSWERS)}")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds names one twice")
        if self.max_overlap is not None and self.max_overlap < self.overlap:
            raise ValueError("max_overlap is below overlap")
        if (self.agreement is None) != (self.quota is None):
            raise ValueError("quota and agreement go together: the stage stops when both are reached")
        if self.agreement is not None and self.overlap < 2:
            raise ValueError("agreement needs overlap 2 or more: one person cannot disagree")
        return self

    @property
    def most(self) -> int:
        """The most votes that an item can get."""
        return self.max_overlap or self.overlap


@dataclass(frozen=True)
class Stage:
    id: int
    name: str
    settings: StageSettings
    state: State
    stopped: str | None
    done: int
    judged: int
    created_at: float


def create_stage(
    store: Store, name: str, settings: StageSettings | None = None, *, now: float | None = None
) -> Stage:
    if not name.strip() or len(name) > 200 or "\0" in name:
        raise DataError("a stage's name has 1 to 200 characters", way_out="give another name")
    values = {
        "name": name,
        "settings": (settings or StageSettings()).model_dump(mode="json"),
        "state": "open",
        "created_at": time.time() if now is None else now,
    }
    try:
        with store.write() as connection:
            connection.execute(sa.insert(stages).values(values))
    except IntegrityError as fault:
        raise DataError(
            f"there is a stage {name!r} already", where=store.shown, way_out="give another name"
        ) from fault
    return get_stage(store, name)


def get_stage(store: Store, which: str | int) -> Stage:
    """By name or by id."""
    column = stages.c.name if isinstance(which, str) else stages.c.id
    with store.read() as connection:
        row = connection.execute(sa.select(stages).where(column == which)).one_or_none()
        names = [] if row else list(connection.scalars(sa.select(stages.c.name).order_by(stages.c.name)))
    if row is None:
        raise DataError(
            f"there is no stage {which!r}",
            where=store.shown,
            way_out=f"there are {', '.join(names[:10])}" if names else "create one first",
        )
    return stage_of(row)


def list_stages(store: Store) -> list[Stage]:
    with store.read() as connection:
        return [stage_of(row) for row in connection.execute(sa.select(stages).order_by(stages.c.id))]


def stage_of(row: Any) -> Stage:
    """A row of the table as a value."""
    try:
        settings = StageSettings.model_validate(row.settings)
    except ValidationError as fault:
        raise DataError(
            f"the settings of stage {row.name!r} cannot be read: {fault.errors()[0]['msg']}",
            way_out="another version of Heliograph may have written them: change_settings replaces them",
        ) from fault
    state = cast("State", row.state)
    return Stage(row.id, row.name, settings, state, row.stopped, row.done, row.judged, row.created_at)


def drop_empty(store: Store, stage_id: int) -> None:
    """Remove a stage that has no items and so no votes: an import that failed leaves nothing behind."""
    with store.write() as connection:
        there = sa.exists().where(items.c.stage_id == stage_id)
        connection.execute(sa.delete(stages).where(stages.c.id == stage_id, ~there))


def set_state(store: Store, stage_id: int, state: State) -> Stage:
    """Pause (nothing new is given out, work in hand is taken), close (nothing is taken), or open again.

    Opening also lifts what the stop rule said; the rule is asked again when more items are judged.
    """
    with store.write() as connection:
        lock_stage(connection, stage_id)
        values: dict[str, Any] = {"state": state}
        if state == "open":
            values["stopped"] = None
        connection.execute(sa.update(stages).where(stages.c.id == stage_id).values(values))
    return get_stage(store, stage_id)


def change_settings(store: Store, stage_id: int, settings: StageSettings) -> Stage:
    """Replace the settings. A smaller overlap takes nothing back: an item keeps the votes and leases it has."""
    with store.write() as connection:
        before = StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])
        connection.execute(
            sa.update(stages)
            .where(stages.c.id == stage_id)
            .values(settings=settings.model_dump(mode="json"), stopped=None)
        )
        if settings.overlap != before.overlap:
            wanted = sa.case((items.c.taken > settings.overlap, items.c.taken), else_=settings.overlap)
            ours = sa.and_(items.c.stage_id == stage_id, items.c.is_gold == 0)
            connection.execute(sa.update(items).where(ours).values(needed=wanted))
            connection.execute(
                sa.update(items)
                .where(ours)
                .values(
                    open=sa.case(
                        (
                            (items.c.taken < items.c.needed) & (items.c.flags < settings.flags_to_close),
                            1,
                        ),
                        else_=0,
                    )
                )
            )
            done = sa.select(sa.func.count()).where(ours, items.c.judged >= items.c.needed).scalar_subquery()
            connection.execute(sa.update(stages).where(stages.c.id == stage_id).values(done=done))
            search_again(connection, stage_id)
    return get_stage(store, stage_id)


def search_again(connection: sa.Connection, stage_id: int) -> None:
    """Let everybody's search start at the front: what they had passed may have changed."""
    connection.execute(
        sa.update(roster)
        .where(roster.c.stage_id == stage_id)
        .values(reached_position=None, reached_item=None)
    )
