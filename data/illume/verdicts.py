"""What a critic is given and what it says: one iteration's candidates, and a verdict for each, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

from data.errors import DataError
from data.illume.critic import Rule, VotesCritic
from data.illume.items import Item
from data.votes import VotesMissing, read_votes

HOW = (
    'Write one JSON line for each prompt: {"id": "…", "scores": [1, 0, null]} with 1 (fits), 0 (does not) or null (not '
    "judged) for each candidate. Then run the same command again."
)


class Verdict(NamedTuple):
    """What was said of one candidate, and by whom."""

    accepted: bool | None
    """None: nobody said anything, or those who did disagree. It is not the same as rejected."""
    score: float | None
    judge: str
    n_votes: int | None = None
    agreement: float | None = None
    """The share of the votes that say the same."""
    vote_ids: tuple[int, ...] = ()


Verdicts = dict[str, list[Verdict]]
"""By prompt, one for each candidate."""


class Written(NamedTuple):
    """A better explanation that somebody wrote."""

    text: str
    judge: str
    vote_id: int


@dataclass(frozen=True)
class Sheet:
    """One iteration's candidates, as every critic gets them."""

    iteration: int
    rows: list[dict[str, Any]]
    """`{id, prompt, image, candidates: [{text, …}]}`"""
    items: Mapping[str, Item]
    file: Path
    """Where these rows lie."""
    budget: int | None = None
    """Candidates that may still be judged by people."""


@dataclass(frozen=True)
class Found:
    """What a critic made of a sheet."""

    verdicts: Verdicts
    written: dict[str, list[Written]] = field(default_factory=dict[str, list[Written]])
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


def by_rule(critic: Rule) -> Callable[[str, Item], Verdict]:
    """The critic as a function of a text and what it explains."""

    def judge(text: str, item: Item) -> Verdict:
        try:
            accepted, score = critic.judge(text, item.row)
        except DataError as fault:
            raise DataError(fault.what, where=item.where, way_out=fault.way_out) from fault
        return Verdict(accepted, score, critic.kind)

    return judge


def by_file(critic: VotesCritic, base: Path, sheet: Sheet) -> Verdicts:
    """A verdict for each candidate. Raises VotesMissing while prompts have no line and the budget has room for more.

    A file may hold several lines for a prompt, of several people, in any order; a candidate on which they all say
    null stays unjudged, and so does every candidate of a prompt that the budget leaves out.
    """
    path, texts = (
        critic.file(base, sheet.iteration),
        {row["id"]: len(row["candidates"]) for row in sheet.rows},
    )
    shown, budget = sheet.file, sheet.budget
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
    found: Verdicts = {}
    for key, size in texts.items():
        lines = votes[key].scores if key in votes else []
        said = [[line[i] for line in lines if line[i] is not None] for i in range(size)]
        means = [fmean(cast("list[float]", one)) if one else None for one in said]
        found[key] = [
            Verdict(None if mean is None else mean >= critic.threshold, mean, "file", len(given))
            for mean, given in zip(means, said, strict=True)
        ]
    judged = sum(one.score is not None for verdicts in found.values() for one in verdicts)
    missing = [key for key in texts if key not in votes]
    if missing and (budget is None or judged < budget):
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise VotesMissing(
            f"{len(missing)} of {len(texts)} prompts have no votes in {path}: {some}",
            f"The candidates are in {shown}. {HOW}",
        )
    return found
