"""A simulated critic: a rubric of computable checks, so that preferences need no person and no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.errors import DataError
from data.rouge import rouge_l

Row = Mapping[str, Any]

# Numbers keep their inner marks (18:40, 3.5, 1,000), words their hyphens and apostrophes.
_NUMBER = r"\d+(?:[:.,]\d+)*"
_WORD = rf"{_NUMBER}|[^\W\d_]+(?:['’\-][^\W\d_]+)*"


class _Check(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Its share of the score, before norming."
    )
    name: str | None = Field(None, min_length=1, description="Its name among the parts; the kind by default.")


class Regex(_Check):
    """1 where the pattern is found (or, with `must: not_match`, is not found), else 0."""

    check: Literal["regex"]
    pattern: str = Field(description="Python's syntax; searched for anywhere, so anchor it with ^ and $.")
    must: Literal["match", "not_match"] = "match"

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as fault:
            raise ValueError(f"not a regular expression: {fault}") from fault
        return value

    def part(self, candidate: str, row: Row) -> float:
        return float((re.search(self.pattern, candidate) is not None) == (self.must == "match"))


class MaxWords(_Check):
    """1 up to `words`, then falling evenly to 0 at twice as many."""

    check: Literal["max_words"]
    words: int = Field(ge=1)

    def part(self, candidate: str, row: Row) -> float:
        return min(1.0, max(0.0, 2.0 - len(candidate.split()) / self.words))


class MinWords(_Check):
    """The share of `words` that is reached."""

    check: Literal["min_words"]
    words: int = Field(ge=1)

    def part(self, candidate: str, row: Row) -> float:
        return min(1.0, len(candidate.split()) / self.words)


class Contains(_Check):
    """The share of the strings in the row's column that stand in the candidate, as whole words."""

    check: Literal["contains"]
    column: str = "facts"
    case: bool = Field(False, description="Whether capitals and small letters differ.")

    def part(self, candidate: str, row: Row) -> float:
        wanted = _strings(row, self.column)
        if not wanted:
            return 1.0
        said = _words(candidate, case=self.case)
        return sum(_stands_in(_words(one, case=self.case), said) for one in wanted) / len(wanted)


class NoNewNumbers(_Check):
    """The share of the candidate's numbers that stand in the prompt; 1 where it has none."""

    check: Literal["no_new_numbers"]

    def part(self, candidate: str, row: Row) -> float:
        said = re.findall(_NUMBER, candidate)
        known = set(re.findall(_NUMBER, _text(row, "prompt")))
        return sum(number in known for number in said) / len(said) if said else 1.0


class RougeL(_Check):
    """ROUGE-L against the row's column, as COCO's caption evaluation has it: F with beta 1.2."""

    check: Literal["rouge_l"]
    column: str = "reference"

    def part(self, candidate: str, row: Row) -> float:
        return rouge_l(candidate, _text(row, self.column), how="words")


class NoRepetition(_Check):
    """The share of different runs among all runs of `n` words; 1 where there are fewer than `n` words."""

    check: Literal["no_repetition"]
    n: int = Field(2, ge=1)

    def part(self, candidate: str, row: Row) -> float:
        words = _words(candidate, case=False)
        runs = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
        return len(set(runs)) / len(runs) if runs else 1.0


Check = Annotated[
    Regex | MaxWords | MinWords | Contains | NoNewNumbers | RougeL | NoRepetition,
    Field(discriminator="check"),
]


@dataclass(frozen=True)
class Scored:
    """The weighted mean of the parts, and the parts; all in [0, 1], 1 is best."""

    score: float
    parts: dict[str, float]


class Rubric(BaseModel):
    """What a good candidate is, as weighted checks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["rubric"] = "rubric"
    checks: tuple[Check, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Rubric:
        twice = [name for name, times in Counter(self.names).items() if times > 1]
        if twice:
            raise ValueError(f"more than one check is called {', '.join(twice)}: give each a `name`")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(check.name or check.check for check in self.checks)

    def score(self, candidate: str, row: Row) -> Scored:
        """An empty candidate scores 0 in every part, so that silence never wins by breaking no rule."""
        candidate = candidate.strip()
        parts = {
            name: check.part(candidate, row) if candidate else 0.0
            for name, check in zip(self.names, self.checks, strict=True)
        }
        total = sum(check.weight for check in self.checks)
        weighted = sum(check.weight * part for check, part in zip(self.checks, parts.values(), strict=True))
        return Scored(score=weighted / total, parts=parts)


def _words(text: str, *, case: bool) -> list[str]:
    return re.findall(_WORD, text if case else text.casefold())


def _stands_in(wanted: Sequence[str], said: Sequence[str]) -> bool:
    size = len(wanted)
    return any(list(said[i : i + size]) == list(wanted) for i in range(len(said) - size + 1))


def _strings(row: Row, column: str) -> list[str]:
    value = _cell(row, column)
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        if all(isinstance(item, str) for item in items):
            return [str(item) for item in items]
    raise DataError(f"the column `{column}` must be a list of strings for the check `contains`")


def _text(row: Row, column: str) -> str:
    """A cell as text: a string, or what the messages say, without the system's instruction."""
    value = _cell(row, column)
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        messages = cast("Sequence[Any]", value)
        if all(isinstance(message, Mapping) and "content" in message for message in messages):
            return "\n".join(
                str(message["content"]) for message in messages if message.get("role") != "system"
            )
    raise DataError(f"the column `{column}` must be text or a list of messages")


def _cell(row: Row, column: str) -> object:
    if column not in row:
        raise DataError(
            f"the rubric reads the column `{column}`, which a row lacks",
            way_out=f"The row has: {', '.join(map(str, row))}.",
        )
    return row[column]
