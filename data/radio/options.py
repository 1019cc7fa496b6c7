"""How two score lists are blended and which ranks make a group: the options alone, for recipes that are only read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.feedback.ballots import Kind
from data.feedback.critic import Asking

Normalise = Literal["minmax", "zscore", "rank", "none"]
Sampler = Literal["shift", "shift_all_neg", "iteration", "random"]


class GroupOptions(BaseModel):
    """Which ranks of the blended order make a group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: Sampler = "shift"
    """`shift`: rank 0 over the ranks in `neg_offsets`. `shift_all_neg`: rank 0 over every rank from the first offset
    on. `iteration`: the ranks in blocks of `block`, every document over all lower ones of its block. `random`: rank 0
    over as many ranks as there are offsets, drawn from all ranks below it."""
    top: Annotated[int, Field(ge=2)] = 20
    """Ranks that are looked at; the rest of the pool is left."""
    neg_offsets: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (
        3,
        4,
        6,
        9,
        13,
        18,
    )
    """Ranks of the negatives. Those right below the positive are skipped: they may be as good as it."""
    small_pool: Literal["clip", "drop", "error"] = "clip"
    """Where a pool ends before the last offset. `clip`: offsets beyond it become its last rank, each rank once; a pool
    that ends before the first offset is dropped all the same."""
    block: Annotated[int, Field(ge=2)] = 5
    """Size of a block of `iteration`."""
    require_answer_in_pos: bool = False
    """Drop groups whose positive does not contain a gold answer."""
    drop_answer_in_neg: bool = False
    """Take negatives that contain a gold answer out of their group."""
    seed: int = 0
    """Draws the negatives of `random`."""

    @field_validator("neg_offsets")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("neg_offsets must rise, each rank once")
        return value


class RationalePeople(Asking):
    """People write rationales on the label page: they let a draft stand, or write a better one."""

    question: Annotated[str, Field(min_length=1, max_length=2000)] = (
        "Does this say why the answer is right? If not, write what does."
    )
    """What the page asks."""
    votes: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("choose", "edit", "skip", "flag")
    """Kinds of vote: `choose` (the draft stands, or not), `edit` (a rationale of one's own), `skip`, `flag`."""
    votes_per_item: Annotated[int, Field(ge=1, le=100)] = 1
    """How many people see each question."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A draft stands where this share of its people let it stand; a rationale that a person wrote goes before it."""

    @model_validator(mode="after")
    def _can_be_mended(self) -> Self:
        if not {"choose", "edit"} <= set(self.votes) or set(self.votes) & {"best", "rank", "tie"}:
            raise ValueError(
                "there is one text a question: votes are `choose` and `edit`, with `skip` and `flag`"
            )
        if not self.edits:
            raise ValueError(
                "`edits: false` would leave out what people write, which is what they are asked for"
            )
        return self
