"""A stage of a recipe asks people: its folder gets a stage of labelling, and the run waits until that has its votes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from data.feedback.critic import Asking
from data.feedback.items import NewItem, add_items
from data.feedback.places import NOTE, Place, default_name, place_of, write_note
from data.feedback.stages import Stage, StageSettings, create_stage, get_stage, list_stages
from data.feedback.stopping import Wanting
from data.feedback.store import Store
from data.feedback.tables import items
from data.votes import VotesMissing

OF_SOME = ("strength_max", "quota", "agreement", "budget")
"""Settings that only some ways of asking have; they are called the same on both sides."""


def open_stage(folder: Path, asking: Asking, images: Path | None = None) -> tuple[Store, Stage]:
    """The store and the stage of the folder's note; note and stage are made where there are none.

    First the note, then the stage: a kill between the two leaves a name that the next call makes the stage for.
    """
    place = place_of(folder, asking.database)
    store = Store(place.database)
    known = {stage.name: stage for stage in list_stages(store)}
    name = place.stage
    if not (folder / NOTE).is_file():
        # A run of this name may have left its votes in a shared database: they are not this run's.
        name = default_name(folder)
        name = next(one for n in count(1) if (one := name if n == 1 else f"{name} {n}") not in known)
        write_note(folder, Place(place.database, name, str(images or folder)))
    if name in known:
        return store, get_stage(store, name)
    return store, create_stage(store, name, _settings(asking))


def fill(store: Store, stage: Stage, new: Sequence[NewItem]) -> None:
    """Put the items in, unless they are there already."""
    with store.read() as connection:
        there = connection.scalar(sa.select(sa.func.count()).where(items.c.stage_id == stage.id))
    if not there:
        add_items(store, stage.id, new)


def wait_for(left: Wanting, what: str, folder: Path) -> None:
    """Raise VotesMissing, and say what to type, unless nothing is left; `folder` is what the page is served from."""
    if not left.items:
        return
    relative = os.path.relpath(folder)
    where = shlex.quote(str(folder.absolute()) if relative.startswith("..") else relative)
    raise VotesMissing(
        what,
        f"heliograph label people add {where} NAME    (once for each person: it prints the link to send)\n"
        f"  heliograph label serve {where}\n"
        "  and when people are done, the same command again.",
    )


def _settings(asking: Asking) -> StageSettings:
    return StageSettings(
        question=asking.question,
        guidelines=asking.guidelines,
        kinds=asking.votes,
        overlap=asking.votes_per_item,
        max_overlap=asking.max_votes_per_item,
        item_agreement=asking.item_agreement,
        gold_rate=0.0,
        order=asking.order,
        lease_seconds=asking.lease_seconds,
        seed=asking.seed,
        **asking.model_dump(include=set(OF_SOME)),
    )
