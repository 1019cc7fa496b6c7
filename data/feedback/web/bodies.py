"""What the page may send, as closed types: anything else is refused before it reaches the store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from data.feedback.ballots import Ballot, Edit, Kind

# What a database's integer holds.
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Key = Annotated[str, Field(min_length=8, max_length=200)]
Index = Annotated[int, Field(ge=0, le=10_000)]
Holding = Annotated[list[Id], Field(max_length=20)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EditIn(Body):
    text: str
    candidate: Index | None = None


class VoteIn(Body):
    """A vote; with `holding`, the ids of the items that the page has, the answer brings a further one."""

    item_id: Id
    key: Key
    kind: Kind
    choice: Index | list[Index | None] | None = None
    strength: Index | None = None
    comment: str | None = None
    seconds: Annotated[float, Field(ge=0, lt=1e9)] | None = None
    edit: EditIn | None = None
    supersedes: Id | None = None
    holding: Holding | None = None

    def ballot(self) -> Ballot:
        edit = None if self.edit is None else Edit(self.edit.text, self.edit.candidate)
        return Ballot(self.kind, self.choice, self.strength, self.comment, self.seconds, edit)


class UndoIn(Body):
    vote_id: Id
    key: Key


class NextIn(Body):
    holding: Holding = Field(default_factory=list[int])


class HoldIn(Body):
    holding: Holding


class Nothing(Body):
    """An empty object: a change that needs no more than its name."""


class StateIn(Body):
    state: Literal["open", "paused", "closed"]


class BarIn(Body):
    person_id: Id
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    votes_count: bool = True


class PersonIn(Body):
    person_id: Id


class ReleaseIn(Body):
    person_id: Id | None = None
