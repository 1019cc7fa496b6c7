"""People as the critic inside the loop: every iteration's candidates go to one label page, and their votes come back.

One stage of labelling serves the whole loop, so that a person's link and a running server stay good from the first
iteration to the last. It is open while an iteration waits and closed while the model learns. What an iteration did not
get judged is asked of nobody later: the model that wrote it is gone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.exchange_files import export_jsonl
from data.feedback.history import Vote
from data.feedback.items import Item, NewItem, add_items, check_item
from data.feedback.leases import release_in
from data.feedback.opening import open_stage, wait_for
from data.feedback.results import Judgements, judgements
from data.feedback.roster import count_again
from data.feedback.stages import Stage, set_state
from data.feedback.stopping import wanting
from data.feedback.store import Store, lock_stage
from data.feedback.tables import items
from data.illume.critic import PeopleCritic
from data.illume.loop import shuffled
from data.illume.verdicts import Found, Sheet, Verdict, Written
from data.pictures import find

VOTES = "votes.jsonl"
"""An iteration's items with their votes, in its folder."""
NOBODY = Verdict(None, None, "people", 0)


def by_people(critic: PeopleCritic, folder: Path, base: Path, sheet: Sheet) -> Found:
    """A verdict for each candidate, or VotesMissing; `folder` is the stage's, from which the label page is served."""
    images = _images(critic, base, sheet)
    store, stage = open_stage(folder, critic, images)
    with store:
        mark = f"{sheet.iteration}/"
        if not _there(store, stage, mark):
            new = [_item(row, mark, sheet, images) for row in _within(sheet, critic.seed)]
            _put_aside(store, stage)
            # First open, then filled: a kill between the two leaves a stage that is filled by the next call.
            set_state(store, stage.id, "open")
            add_items(store, stage.id, new)
        left = wanting(store, stage.id, mark)
        said = f"{left.items} of {left.of} items need votes, {left.votes} in all; {left.judged} are there"
        wait_for(left, f"iteration {sheet.iteration}: {said}", folder)
        # What came in after this would be learned by nobody.
        set_state(store, stage.id, "closed")
        of = judgements(store, stage.id)
    ours = replace(of, items=[item for item in of.items if item.key.startswith(mark)])
    export_jsonl(ours, sheet.file.with_name(VOTES))
    return _found(ours, critic, sheet, mark)


def _images(critic: PeopleCritic, base: Path, sheet: Sheet) -> Path | None:
    """The folder that the page may serve pictures from; None where there are none."""
    if critic.images is not None:
        return (base / critic.images).resolve()
    pictures = [item.picture for item in sheet.items.values() if item.picture is not None]
    return Path(os.path.commonpath([one.parent for one in pictures])) if pictures else None


def _there(store: Store, stage: Stage, mark: str) -> bool:
    with store.read() as connection:
        query = sa.select(items.c.id).where(items.c.stage_id == stage.id, items.c.key.startswith(mark))
        return connection.scalar(query.limit(1)) is not None


def _within(sheet: Sheet, seed: int) -> list[dict[str, Any]]:
    """The prompts that the budget has room for, drawn without regard to what they say; all of them without one."""
    if sheet.budget is None:
        return sheet.rows
    by_key = {row["id"]: row for row in sheet.rows}
    chosen: list[dict[str, Any]] = []
    left = sheet.budget
    for key in shuffled(by_key, seed, f"budget {sheet.iteration}"):
        size = len(by_key[key]["candidates"])
        if chosen and size > left:
            break
        chosen.append(by_key[key])
        left -= size
    return chosen


def _item(row: dict[str, Any], mark: str, sheet: Sheet, images: Path | None) -> NewItem:
    known = sheet.items[row["id"]]
    image: str | None = None
    if known.picture is not None and images is not None:
        image = os.path.relpath(known.picture, images)
        find(images, image)
    texts = [
        {"text": one["text"], "index": index, "temperature": one["temperature"]}
        for index, one in enumerate(row["candidates"])
    ]
    given = {
        "id": mark + row["id"],
        "prompt": row["prompt"],
        "image": image,
        "candidates": texts,
        "iteration": sheet.iteration,
    }
    return check_item(given, known.where)


def _put_aside(store: Store, stage: Stage) -> None:
    """Ask nobody for what earlier iterations left unjudged."""
    with store.write() as connection:
        lock_stage(connection, stage.id)
        release_in(connection, stage.id, None, stage.settings)
        ours = sa.and_(items.c.stage_id == stage.id, items.c.is_gold == 0, items.c.judged < items.c.needed)
        connection.execute(sa.update(items).where(ours).values(needed=items.c.judged, open=0, returned=0))
        count_again(connection, stage.id)


def _found(of: Judgements, critic: PeopleCritic, sheet: Sheet, mark: str) -> Found:
    by_key = {item.key.removeprefix(mark): item for item in of.items}
    verdicts = {
        row["id"]: _verdicts(of, by_key.get(row["id"]), critic, len(row["candidates"])) for row in sheet.rows
    }
    written: dict[str, list[Written]] = {}
    for key, item in by_key.items():
        for vote in of.of(item) if critic.edits else ():
            if vote.edit is not None and vote.edit.text.strip() not in (text.strip() for text in item.texts):
                text = Written(vote.edit.text.strip(), of.names[vote.person_id], vote.id)
                written.setdefault(key, []).append(text)
    if not any(one.score is not None for said in verdicts.values() for one in said) and not written:
        raise DataError(
            f"people judged nothing in iteration {sheet.iteration}: {len(of.items)} items were asked about",
            where=str(sheet.file.with_name(VOTES)),
            way_out="Everything was skipped or flagged, or the stage was closed at once: look at the votes.",
        )
    chosen = [vote for item in of.items for vote in _chosen(of, item)]
    figures = {
        "asked": len(of.items),
        "votes": len(chosen),
        "people": len({vote.person_id for vote in chosen}),
        "disputed": sum(
            one.score is not None and one.accepted is None for said in verdicts.values() for one in said
        ),
        "written": sum(map(len, written.values())),
    }
    return Found(verdicts, written, figures)


def _chosen(of: Judgements, item: Item) -> Sequence[Vote]:
    return [vote for vote in of.of(item) if vote.kind == "choose"]


def _verdicts(of: Judgements, item: Item | None, critic: PeopleCritic, size: int) -> list[Verdict]:
    said: Sequence[Vote] = () if item is None else _chosen(of, item)
    if not said:
        return [NOBODY] * size
    ids = tuple(vote.id for vote in said)
    found: list[Verdict] = []
    for index in range(size):
        share = fmean(float(index in vote.choice) for vote in said)
        agreement = max(share, 1 - share)
        agreed = agreement >= critic.min_agreement - 1e-9
        accepted = share >= critic.threshold if agreed else None
        found.append(Verdict(accepted, share, "people", len(said), agreement, ids))
    return found
