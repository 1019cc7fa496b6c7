"""A file of people's votes on candidates: read, checked line by line, and what is missing of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from data.errors import DataError
from data.jsonl import iterate_jsonl

HOW = (
    'Write one JSON line for each prompt: {"id": "…", "chosen": 0, "rejected": 2} with the indices of two '
    'candidates (several lines for several pairs), or {"id": "…", "scores": [0.9, null, 0.2]} with a number or null '
    "(not judged) for each candidate; all null skips the prompt. Then run the same command again."
)


class VotesFile(BaseModel):
    """People decide: their votes are read from a JSONL file, one line for each prompt.

    `{"id": "…", "chosen": 0, "rejected": 2}` prefers one candidate to another, by their places (several lines for
    several pairs); `{"id": "…", "scores": [0.9, null, 0.2]}` scores each, null where nobody judged. Ids and candidates
    stand in the `rows.jsonl` of the stage that sampled them; the run waits until every prompt has votes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file"] = "file"
    path: str = Field(min_length=1, description="JSONL, relative to the recipe.")


class VotesMissing(Exception):  # noqa: N818 - it is a state, not an error
    """Candidates that nobody has judged yet."""

    def __init__(self, what: str, how: str) -> None:
        self.what = what
        self.how = how
        super().__init__(f"{what}\n  {how}")


@dataclass
class Votes:
    """What people said about the candidates of one prompt."""

    duels: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(chosen, rejected), one for each vote."""
    scores: list[list[float | None]] = field(default_factory=list[list[float | None]])
    """One list for each line; None: not judged."""


def read_votes(path: Path, candidates: Mapping[str, int], shown: Path) -> dict[str, Votes]:
    """Votes by prompt. `candidates` says how many each prompt has; `shown` is the file that holds them."""
    found: dict[str, Votes] = {}
    if not path.is_file():
        raise VotesMissing(
            f"{len(candidates)} prompts wait for votes: {path} is not there",
            f"The candidates are in {shown}. {HOW}",
        )
    for number, line in iterate_jsonl(path):
        where = f"{path}:{number}"
        key = _key(line, candidates, where, shown)
        votes = found.setdefault(key, Votes())
        keys = set(line) - {"id"}
        if keys == {"scores"}:
            votes.scores.append(_scores(line["scores"], candidates[key], where))
        elif keys == {"chosen", "rejected"}:
            votes.duels.append(_duel(line, candidates[key], where))
        else:
            raise DataError(
                f"a vote has id, chosen and rejected, or id and scores; this line has {', '.join(line)}",
                where=where,
                way_out=HOW,
            )
        if votes.duels and votes.scores:
            raise DataError(
                f"prompt {key} has both scores and chosen/rejected votes",
                where=where,
                way_out="keep one of the two for each prompt",
            )
    return found


def demand(votes: Mapping[str, Votes], needed: Sequence[str], path: Path, shown: Path) -> None:
    """Raise VotesMissing when a prompt that could make a pair has no vote."""
    missing = [key for key in needed if key not in votes]
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise VotesMissing(
            f"{len(missing)} of {len(needed)} prompts have no votes in {path}: {some}",
            f"The candidates are in {shown}. {HOW}",
        )


def _key(line: dict[str, Any], candidates: Mapping[str, int], where: str, shown: Path) -> str:
    found = line.get("id")
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        raise DataError("a vote needs the prompt's `id`", where=where, way_out=HOW)
    key = str(found)
    if key not in candidates:
        raise DataError(
            f"there is no prompt {key!r} among the candidates",
            where=where,
            way_out=f"take the ids from {shown}",
        )
    return key


def _duel(line: dict[str, Any], count: int, where: str) -> tuple[int, int]:
    pair: list[int] = []
    for column in ("chosen", "rejected"):
        index = line[column]
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise DataError(
                f"`{column}` is {index!r}; the prompt has the candidates 0 to {count - 1}",
                where=where,
                way_out=HOW,
            )
        pair.append(index)
    if pair[0] == pair[1]:
        raise DataError("chosen and rejected are the same candidate", where=where, way_out="name two")
    return pair[0], pair[1]


def _scores(value: object, count: int, where: str) -> list[float | None]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    if len(items) != count:
        said = f"has {len(items)} numbers" if isinstance(value, list) else f"is {value!r}"
        raise DataError(f"`scores` {said}; the prompt has {count} candidates", where=where, way_out=HOW)
    scores: list[float | None] = []
    for item in items:
        if item is not None and (
            isinstance(item, bool) or not isinstance(item, (int, float)) or not math.isfinite(item)
        ):
            raise DataError(f"`scores` holds {item!r}, neither a number nor null", where=where, way_out=HOW)
        scores.append(None if item is None else float(item))
    return scores
