"""Who accepts an explanation, as a recipe writes it: a reference, a rubric, a model, a file of votes, or people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.chatting.request import ServerOptions
from data.critics import Rubric
from data.errors import DataError
from data.feedback.ballots import Kind
from data.feedback.critic import Asking
from data.rouge import Tokens, rouge_l

MOST_SHOWN = 64
"""Explanations that the label page shows side by side at most; reading it there would open the store."""


class RougeCritic(BaseModel):
    """A simulated person who knows a reference: accepts what comes close enough to it, in ROUGE-L as COCO has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["rouge_l"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Accepted from here on, the threshold included."""
    column: str = "reference"
    """The row's reference, or a list of them."""
    beta: Annotated[float, Field(gt=0)] = 1.2
    """Above 1 leans to recall."""
    tokens: Tokens = "whitespace"
    """`whitespace` keeps punctuation, as COCO; `words` drops it and case."""
    lowercase: bool = True
    """Compare in small letters."""
    min_chars: Annotated[int, Field(ge=0)] = 3
    """What is shorter scores 0."""

    def judge(self, text: str, row: Mapping[str, Any]) -> tuple[bool, float]:
        if len(text.strip()) < self.min_chars:
            return False, 0.0
        references = self._references(row)
        if self.lowercase:
            text, references = text.lower(), [one.lower() for one in references]
        score = rouge_l(text, references, beta=self.beta, how=self.tokens)
        return score >= self.threshold, score

    def _references(self, row: Mapping[str, Any]) -> list[str]:
        value: object = row.get(self.column)
        among = [value] if isinstance(value, str) else value
        if isinstance(among, list | tuple) and among:
            items = cast("Sequence[object]", among)
            if all(isinstance(one, str) for one in items):
                return [str(one) for one in items]
        raise DataError(
            f"the column `{self.column}` holds no reference to compare with",
            way_out="text or a list of texts; or choose another critic",
        )


class RubricCritic(Rubric):
    """A rubric whose score is high enough."""

    kind: Literal["rubric"] = "rubric"
    threshold: float = Field(0.7, ge=0, le=1, description="Accepted from here on.")
    min_chars: int = Field(3, ge=0, description="What is shorter scores 0.")

    def judge(self, text: str, row: Mapping[str, Any]) -> tuple[bool, float]:
        if len(text.strip()) < self.min_chars:
            return False, 0.0
        score = self.score(text, row).score
        return score >= self.threshold, score


class VotesCritic(BaseModel):
    """People decide: their votes are read from a JSONL file for each iteration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    """JSONL, relative to the recipe; `{iteration}` becomes 0, 1, …"""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Accepted where the mean of the scores reaches it."""

    @field_validator("path")
    @classmethod
    def _one_file_each(cls, value: str) -> str:
        if "{iteration}" not in value:
            raise ValueError("every iteration asks about other texts: write {iteration} into the path")
        return value

    def file(self, base: Path, iteration: int) -> Path:
        return base / self.path.replace("{iteration}", str(iteration))


class ModelCritic(BaseModel):
    """A model judges, and says everything twice, the other way round the second time; where it contradicts itself, it
    has said nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["model"]
    how: Literal["accept", "pairwise"] = "accept"
    """`accept`: is asked of each explanation whether it fits, yes or no; then no or yes. `pairwise`: is asked which of
    two explains better; then with the two changed over."""
    criterion: Annotated[str, Field(min_length=1, max_length=4000)] = (
        "It names what makes the answer right, and says nothing that is not so."
    )
    """What a good explanation is, in the judge's prompt."""
    server: ServerOptions | None = None
    """An OpenAI-compatible server that judges, instead of the stage's `judge:`."""
    opponents: Annotated[int, Field(ge=1)] = 2
    """pairwise: others of the same prompt after it that each explanation is compared with, in a ring."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """pairwise: accepted from this share of won comparisons on, of those that were decided."""
    min_chars: Annotated[int, Field(ge=0)] = 3
    """What is shorter is rejected unasked."""
    max_reply_tokens: Annotated[int, Field(ge=1)] = 16
    """Longest reply of the judge; the first of the two words in it counts."""


class PeopleCritic(Asking):
    """People choose on the label page what fits: every iteration waits for them, and the command exits 75."""

    question: Annotated[str, Field(min_length=1, max_length=2000)] = "Which explanations fit the answer?"
    """What the page asks."""
    votes: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("choose", "skip", "flag", "edit")
    """Kinds of vote: `choose` (none, one or several that fit), `skip`, `flag`, `edit`."""
    votes_per_item: Annotated[int, Field(ge=1, le=100)] = 1
    """How many people judge each prompt."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Accepted where this share of its people chose it."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Where a smaller share of people say the same of an explanation, it is neither accepted nor rejected."""

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        odd = sorted({"best", "rank", "tie"} & set(self.votes))
        if odd:
            raise ValueError(
                f"{', '.join(odd)} compare explanations, and do not say whether any fits: use `choose`"
            )
        if "choose" not in self.votes:
            raise ValueError("votes needs `choose`")
        return self


Rule = RougeCritic | RubricCritic
"""Critics that need nobody."""
Critic = Annotated[
    RougeCritic | RubricCritic | ModelCritic | VotesCritic | PeopleCritic, Field(discriminator="kind")
]
Computed = Annotated[RougeCritic | RubricCritic, Field(discriminator="kind")]
