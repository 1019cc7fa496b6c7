"""Rationales from people: each question goes to the label page with its answers and a draft, and comes back mended.

Where a person wrote a rationale, it is taken, of several the last one. Else a draft stands if enough people let it
stand. Everything else, and what was skipped or flagged, gets no rationale and is counted: an empty one would teach
nothing.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.exchange_files import export_jsonl
from data.feedback.items import Item, NewItem, add_items, check_item
from data.feedback.places import NOTE, Place, default_name, place_of, write_note
from data.feedback.results import Judgements, judgements
from data.feedback.stages import Stage, StageSettings, create_stage, get_stage, list_stages, set_state
from data.feedback.store import Store
from data.feedback.tables import items
from data.radio.options import RationalePeople
from data.votes import VotesMissing

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
    store, stage = _opened(people, folder, [_item(row, drafts.get(row["id"], "")) for row in questions])
    with store:
        _demand(store, stage, folder)
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


def _opened(people: RationalePeople, folder: Path, new: Sequence[NewItem]) -> tuple[Store, Stage]:
    """The store of the folder's note; note, stage of labelling and items are made where there are none."""
    place = place_of(folder, people.database)
    store = Store(place.database)
    known = {stage.name for stage in list_stages(store)}
    name = place.stage
    if not (folder / NOTE).is_file():
        # A run of this name may have left its votes in a shared database: they are not this run's.
        name = default_name(folder)
        name = next(one for n in count(1) if (one := name if n == 1 else f"{name} {n}") not in known)
        write_note(folder, Place(place.database, name, str(folder)))
    if name not in known:
        settings = StageSettings(
            question=people.question,
            guidelines=people.guidelines,
            kinds=people.votes,
            overlap=people.votes_per_item,
            max_overlap=people.max_votes_per_item,
            item_agreement=people.item_agreement,
            gold_rate=0.0,
            order=people.order,
            lease_seconds=people.lease_seconds,
            seed=people.seed,
        )
        create_stage(store, name, settings)
    stage = get_stage(store, name)
    with store.read() as connection:
        there = connection.scalar(sa.select(sa.func.count()).where(items.c.stage_id == stage.id))
    if not there:
        add_items(store, stage.id, new)
    return store, stage


def _demand(store: Store, stage: Stage, folder: Path) -> None:
    """Raise VotesMissing until every question has its votes or its flags, or a lead has closed the stage."""
    ours = items.c.stage_id == stage.id
    with store.read() as connection:
        missing, votes = connection.execute(
            sa.select(
                sa.func.count(), sa.func.coalesce(sa.func.sum(items.c.needed - items.c.judged), 0)
            ).where(ours, items.c.judged < items.c.needed, items.c.flags < stage.settings.flags_to_close)
        ).one()
        total = connection.scalar(sa.select(sa.func.count()).where(ours))
    if not missing or stage.state == "closed":
        return
    relative = os.path.relpath(folder)
    where = shlex.quote(str(folder.absolute()) if relative.startswith("..") else relative)
    raise VotesMissing(
        f"{missing} of {total} rationales wait for people, who are to see {votes} in all; {stage.judged} were seen",
        f"heliograph label people add {where} NAME    (once for each person: it prints the link to send)\n"
        f"  heliograph label serve {where}\n"
        "  and when people are done, the same command again.",
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
