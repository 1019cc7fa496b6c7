"""Who accepts an explanation: ROUGE-L against a reference, a rubric with a threshold, or people through a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from data.critics import Rubric
from data.errors import DataError
from data.rouge import Tokens, rouge_l
from data.votes import VotesMissing, read_votes

Verdict = tuple[bool | None, float | None]
"""Accepted, and the score; None: not judged."""
HOW = (
    'Write one JSON line for each prompt: {"id": "…", "scores": [1, 0, null]} with 1 (fits), 0 (does not) or null (not '
    "judged) for each candidate. Then run the same command again."
)


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


Critic = Annotated[RougeCritic | RubricCritic | VotesCritic, Field(discriminator="kind")]
Computed = Annotated[RougeCritic | RubricCritic, Field(discriminator="kind")]
"""Critics that need no person."""


def by_rule(
    critic: RougeCritic | RubricCritic,
) -> Callable[[str, Mapping[str, Any], str], tuple[bool, float]]:
    """The critic as a function of text, row and place."""

    def judge(text: str, row: Mapping[str, Any], where: str) -> tuple[bool, float]:
        try:
            return critic.judge(text, row)
        except DataError as fault:
            raise DataError(fault.what, where=where, way_out=fault.way_out) from fault

    return judge


def by_votes(
    critic: VotesCritic,
    base: Path,
    iteration: int,
    shown: Path,
    texts: Mapping[str, int],
    *,
    budget: int | None = None,
) -> dict[str, list[Verdict]]:
    """A verdict for each candidate. Raises VotesMissing while prompts have no line and the budget has room for more.

    A file may hold several lines for a prompt, of several people, in any order; a candidate on which they all say
    null stays unjudged, and so does every candidate of a prompt that the budget leaves out.
    """
    path = critic.file(base, iteration)
    try:
        votes = read_votes(path, texts, shown)
    except VotesMissing as missing:
        raise VotesMissing(missing.what, f"The candidates are in {shown}. {HOW}") from missing
    for key, one in votes.items():
        if one.duels:
            raise DataError(
                f"prompt {key} has a vote on a pair, which does not say whether either text fits",
                where=str(path),
                way_out=HOW,
            )
    found: dict[str, list[Verdict]] = {}
    for key, size in texts.items():
        lines = votes[key].scores if key in votes else []
        said = [[line[i] for line in lines if line[i] is not None] for i in range(size)]
        means = [fmean(cast("list[float]", one)) if one else None for one in said]
        found[key] = [(None if mean is None else mean >= critic.threshold, mean) for mean in means]
    judged = sum(score is not None for verdicts in found.values() for _, score in verdicts)
    missing = [key for key in texts if key not in votes]
    if missing and (budget is None or judged < budget):
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise VotesMissing(
            f"{len(missing)} of {len(texts)} prompts have no votes in {path}: {some}",
            f"The candidates are in {shown}. {HOW}",
        )
    return found
