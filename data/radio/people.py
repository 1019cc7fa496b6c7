"""Rationales from people: each question goes to the label page with its answers and a draft, and comes back mended.

Where a person wrote a rationale, it is taken, of several the last one. Else a draft stands if enough people let it
stand. Everything else, and what was skipped or flagged, gets no rationale and is counted: an empty one would teach
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from data.errors import DataError
from data.feedback.exchange_files import export_jsonl
from data.feedback.items import Item, NewItem, check_item
from data.feedback.opening import fill, open_stage, wait_for
from data.feedback.results import Judgements, judgements
from data.feedback.stages import set_state
from data.feedback.stopping import wanting
from data.radio.options import RationalePeople

VOTES = "votes.jsonl"
"""Every question with its votes, beside the rationales."""


@dataclass(frozen=True)
class Written:
    """What became of the questions."""

    rows: list[dict[str, Any]]
    """`{id, question, golden_answers, reason, source}`, of the questions that got a rationale; source is `people` where
    a person wrote it and `draft` where a draft was let stand."""
    figures: dict[str, int]


def by_people(
    people: RationalePeople,
    questions: Sequence[Mapping[str, Any]],
    drafts: Mapping[str, str],
    folder: Path,
) -> Written:
    """What people made of the drafts, or VotesMissing; `folder` is the stage's, from which the label page is served."""
    asked = [_item(row, drafts.get(row["id"], "")) for row in questions]
    store, stage = open_stage(folder, people)
    with store:
        fill(store, stage, asked)
        left = wanting(store, stage.id)
        said = f"{left.items} of {left.of} rationales wait for people, who are to see {left.votes} in all"
        wait_for(left, f"{said}; {left.judged} were seen", folder)
        # What came in after this would be read by nobody.
        set_state(store, stage.id, "closed")
        of = judgements(store, stage.id)
    export_jsonl(of, folder / VOTES)
    return _written(of, people, questions)


def _item(row: Mapping[str, Any], draft: str) -> NewItem:
    answers = " / ".join(row["golden_answers"])
    return check_item(
        {
            "id": row["id"],
            "prompt": f"{row['question']}\n\nAnswer: {answers}",
            "candidates": [{"text": draft, "index": 0}],
        },
        f"the question {row['id']}",
    )


def _written(of: Judgements, people: RationalePeople, questions: Sequence[Mapping[str, Any]]) -> Written:
    by_key = {item.key: item for item in of.items}
    rows: list[dict[str, Any]] = []
    figures = Counter[str](questions=len(questions), written=0, drafts_that_stand=0, rejected=0, unjudged=0)
    for row in questions:
        item = by_key.get(row["id"])
        reason, source = ("", "unjudged") if item is None else _reason(of, item, people)
        figures[source] += 1
        if reason:
            told = "people" if source == "written" else "draft"
            rows.append({**row, "reason": reason, "source": told})
    if not rows:
        raise DataError(
            f"people left no rationale: {dict(figures)}",
            where=of.stage,
            way_out="Everything was rejected, skipped or flagged, or the stage was closed at once: look at the votes.",
        )
    return Written(rows, dict(figures))


def _reason(of: Judgements, item: Item, people: RationalePeople) -> tuple[str, str]:
    """The rationale, and what it counts as."""
    votes = sorted(of.of(item), key=lambda vote: vote.id)
    draft = item.texts[0].strip()
    own = [vote.edit.text.strip() for vote in votes if vote.edit is not None]
    own = [text for text in own if text and text != draft]
    if own:
        return own[-1], "written"
    said = [float(0 in vote.choice) for vote in votes if vote.kind == "choose"]
    if not said:
        return "", "unjudged"
    if draft and fmean(said) >= people.threshold:
        return draft, "drafts_that_stand"
    return "", "rejected"
