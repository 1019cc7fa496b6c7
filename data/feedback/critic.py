"""People as a critic, as the recipe writes them: no store is opened to read a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.feedback.ballots import Kind

ANSWERS = ("choose", "best", "rank", "tie")


class Asking(BaseModel):
    """What is alike wherever a stage asks people: whom, how many of them, in which order, and where votes are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["people"]
    question: Annotated[str, Field(min_length=1, max_length=2000)] = "Which answer is better?"
    """What the page asks."""
    guidelines: Annotated[str, Field(max_length=100_000)] = ""
    """What people should know before they answer."""
    votes: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("best", "tie", "skip", "flag", "edit")
    """Kinds of vote: `choose` (all that fit), `best` (one, with a strength), `rank`, `tie`, `skip`, `flag`, `edit`."""
    votes_per_item: Annotated[int, Field(ge=1, le=100)] = 2
    """How many people judge each prompt."""
    max_votes_per_item: Annotated[int, Field(ge=1, le=100)] | None = None
    """Where people disagree, ask more, up to so many; `votes_per_item` if left out."""
    item_agreement: Annotated[float, Field(gt=0, le=1)] = 0.6
    """The share of equal votes below which people are taken to disagree."""
    order: Literal["useful", "random"] = "useful"
    """What is asked first: one item of each prompt before further ones, or anything."""
    edits: bool = True
    """Count the better texts that people wrote: paired with what they better, and in `kind: illume` accepted."""
    lease_seconds: Annotated[float, Field(gt=0, le=7 * 86400)] = 1800.0
    """An item that is not answered for so long is given to somebody else."""
    database: str | None = None
    """`postgresql://user@host/name`, without a password; left out: `label.sqlite` in the stage's folder."""
    images: str | None = None
    """The folder of the rows' images, relative to the recipe; left out: the stage's folder, and in `kind: illume` that
    of the data."""
    seed: int = 0
    """Of the order of candidates and items."""

    @field_validator("database")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        if value is None:
            return value
        url = urlsplit(value)
        if url.scheme.split("+")[0] not in ("postgresql", "postgres"):
            raise ValueError("write postgresql://user@host/name, or leave it out for SQLite")
        if url.password is not None:
            raise ValueError("a recipe holds no password: use PGPASSWORD or ~/.pgpass")
        return value

    @model_validator(mode="after")
    def _one_can_answer(self) -> Self:
        if not set(self.votes) & set(ANSWERS):
            raise ValueError(f"votes needs at least one of {', '.join(ANSWERS)}")
        if len(set(self.votes)) < len(self.votes):
            raise ValueError("votes names one twice")
        if self.max_votes_per_item is not None and self.max_votes_per_item < self.votes_per_item:
            raise ValueError("max_votes_per_item is below votes_per_item")
        return self


class People(Asking):
    """People decide on the label page: the stage waits until every item has its votes."""

    strength_max: Annotated[int, Field(ge=1, le=10)] = 3
    """How many degrees `best` has."""
    quota: Annotated[int, Field(ge=1)] | None = None
    """With `agreement`: enough when so many items are judged and people agree well enough."""
    agreement: Annotated[float, Field(gt=0, le=1)] | None = None
    """Krippendorff's alpha at which `quota` may end the asking."""
    budget: Annotated[int, Field(ge=1)] | None = None
    """Enough after so many votes, whatever is left."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A pair on which a smaller share of the votes says the same is left out."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.quota is None) != (self.agreement is None):
            raise ValueError("quota and agreement go together")
        if self.agreement is not None and self.votes_per_item < 2:
            raise ValueError("agreement needs votes_per_item 2 or more: one person cannot disagree")
        return self
