"""Candidates to people and back: a stage of labelling from a file of candidates, and pairs once the votes are there.

Texts that are equal but for the blanks around them are asked about once; empty ones are not asked about. A prompt
with fewer than two texts left makes no item. Unjudged is not rejected: what nobody judged is in no pair.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.ballots import COUNTED
from data.feedback.critic import People
from data.feedback.exchange_files import export_jsonl
from data.feedback.items import NewItem, add_items, check_item
from data.feedback.places import NOTE, Place, default_name, place_of, write_note
from data.feedback.results import Judgements, judged_records, judgements, preference_pairs, undecided
from data.feedback.stages import Stage, StageSettings, create_stage, list_stages, set_state
from data.feedback.stopping import wanting
from data.feedback.store import Store
from data.feedback.summary import alphas
from data.feedback.tables import items
from data.feedback.web.images import find
from data.jsonl import write_jsonl_atomic
from data.judging import JUDGED, ROUNDING, read_candidates
from data.votes import VotesMissing

VOTES = "votes.jsonl"
Pairing = Literal["best_worst", "all"]


@dataclass(frozen=True)
class Asked:
    """A prompt with its candidates, and what is asked of it."""

    key: str
    texts: list[str]
    first: list[int]
    """For each candidate the first one with its text."""
    item: NewItem | None


def collect(
    candidates: Path,
    critic: People,
    out: Path,
    *,
    base: Path,
    pairing: Pairing,
    min_margin: float,
    max_pairs_per_prompt: int,
) -> dict[str, Any]:
    """Write pairs to `out`, or raise VotesMissing; the votes go on record beside it. Returns the figures."""
    folder = out.parent
    images = folder if critic.images is None else (base / critic.images).absolute()
    asked = _read(candidates, images)
    store, stage = _stage(folder, critic, images, [one.item for one in asked if one.item is not None])
    with store:
        _demand(store, stage, folder)
        of = judgements(store, stage.id)
        pairs = _pairs(of, critic, pairing, min_margin, max_pairs_per_prompt)
        figures = _figures(of, asked, pairs)
        write_jsonl_atomic(out.with_name(JUDGED), _judged(of, asked))
        export_jsonl(of, out.with_name(VOTES))
        if not pairs:
            raise DataError(
                f"no pairs: {figures['votes']} votes on {figures['asked']} items decide nothing by min_margin "
                f"{min_margin:g} and min_agreement {critic.min_agreement:g}",
                where=str(out.with_name(VOTES)),
                way_out="Lower them, or open the stage again on the lead's page and ask for more votes.",
            )
        write_jsonl_atomic(out, pairs)
        # What came in later would be in no pair, and nobody should work for nothing.
        set_state(store, stage.id, "closed")
    return figures


def _read(file: Path, images: Path) -> list[Asked]:
    found: list[Asked] = []
    for one in read_candidates(file):
        texts, first = one.texts, one.first
        given = {"id": one.key, "prompt": one.row["prompt"], "image": one.row.get("image")}
        item: NewItem | None = None
        if len(one.distinct) > 1:
            candidates = [{"text": texts[index], "index": index} for index in one.distinct]
            item = check_item({**given, "candidates": candidates}, one.where)
            if item.image is not None:
                find(images, item.image)
        found.append(Asked(one.key, texts, first, item))
    return found


def _stage(folder: Path, critic: People, images: Path, new: Sequence[NewItem]) -> tuple[Store, Stage]:
    """The stage of the folder's note; it is made, with the note, where there is none."""
    place = place_of(folder, critic.database)
    store = Store(place.database)
    known = {stage.name: stage for stage in list_stages(store)}
    noted = (folder / NOTE).is_file()
    name = place.stage
    if not noted:
        # A run of this name may have left its votes in a shared database: they are not this run's.
        name = next(n for n in _names(folder) if n not in known)
        write_note(folder, Place(place.database, name, str(images)))
    if name not in known:
        if not new:
            store.close()
            raise DataError(
                "no prompt has two different candidates to compare",
                where=str(folder),
                way_out="sample more or wilder candidates (num_return_sequences, temperature)",
            )
        known[name] = create_stage(store, name, _settings(critic))
    stage = known[name]
    with store.read() as connection:
        there = connection.scalar(sa.select(sa.func.count()).where(items.c.stage_id == stage.id))
    if not there:
        add_items(store, stage.id, new)
    return store, stage


def _names(folder: Path) -> Sequence[str]:
    name = default_name(folder)
    return [name, *(f"{name} {number}" for number in range(2, 10_000))]


def _settings(critic: People) -> StageSettings:
    return StageSettings(
        question=critic.question,
        guidelines=critic.guidelines,
        kinds=critic.votes,
        overlap=critic.votes_per_item,
        max_overlap=critic.max_votes_per_item,
        item_agreement=critic.item_agreement,
        gold_rate=0.0,
        order=critic.order,
        strength_max=critic.strength_max,
        lease_seconds=critic.lease_seconds,
        quota=critic.quota,
        agreement=critic.agreement,
        budget=critic.budget,
        seed=critic.seed,
    )


def _demand(store: Store, stage: Stage, folder: Path) -> None:
    """Raise VotesMissing unless the stop rule is met: all votes, the quota, the budget, or a lead's word."""
    left = wanting(store, stage.id)
    if not left.items:
        return
    relative = os.path.relpath(folder)
    where = shlex.quote(str(folder.absolute()) if relative.startswith("..") else relative)
    raise VotesMissing(
        f"{left.items} of {left.of} items need votes, {left.votes} in all; {left.judged} are there",
        f"heliograph label people add {where} NAME    (once for each person: it prints the link to send)\n"
        f"  heliograph label serve {where}\n"
        "  and when people are done, the same command again.",
    )


def _pairs(
    of: Judgements, critic: People, pairing: Pairing, min_margin: float, most: int
) -> list[dict[str, Any]]:
    by_key = {item.key: item for item in of.items}
    found: list[dict[str, Any]] = []
    rows = preference_pairs(of, min_agreement=critic.min_agreement, edits=critic.edits)
    for key, group in groupby(rows, key=lambda row: row["id"]):
        candidates = by_key[key].candidates
        voted: list[dict[str, Any]] = []
        edited: list[dict[str, Any]] = []
        for row in group:
            indices: dict[str, int | None] = {
                name: None if row[name] is None else int(candidates[int(row[name])]["index"])
                for name in ("chosen_index", "rejected_index")
            }
            weight = row["weight"]
            scores = {"score_chosen": (1 + weight) / 2, "score_rejected": (1 - weight) / 2, "margin": weight}
            (edited if row["source"] == "edit" else voted).append({**row, **indices, **scores})
        wide = [row for row in voted if row["weight"] >= min_margin - ROUNDING]
        wide.sort(key=lambda row: (-round(row["weight"], 9), row["chosen_index"], row["rejected_index"]))
        found += wide[: 1 if pairing == "best_worst" else most] + edited
    return found


def _judged(of: Judgements, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """A line for each candidate: the mean of people's scores, null where nobody judged it."""
    by_key = {item.key: item for item in of.items}
    scores: dict[tuple[str, int], list[float]] = {}
    for row in judged_records(of):
        index = int(by_key[row["id"]].candidates[int(row["index"])]["index"])
        scores.setdefault((row["id"], index), []).append(row["score"])
    lines: list[dict[str, Any]] = []
    for one in asked:
        for index, text in enumerate(one.texts):
            said = scores.get((one.key, one.first[index]), [])
            lines.append(
                {
                    "id": one.key,
                    "index": index,
                    "text": text,
                    "score": fmean(said) if said else None,
                    "n_votes": len(said),
                    "duplicate_of": one.first[index] if one.first[index] < index else None,
                }
            )
    return lines


def _figures(of: Judgements, asked: Sequence[Asked], pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    votes = [vote for line in of.votes.values() for vote in line]
    counted = [vote for vote in votes if vote.kind in COUNTED]
    judged = {vote.item_id for vote in counted}
    agreed = alphas(counted, {item.id: len(item.candidates) for item in of.items}, samples=0)
    from_votes = [row for row in pairs if row["source"] == "votes"]
    return {
        "prompts": len(asked),
        "asked": len(of.items),
        "identical": sum(one.item is None for one in asked),
        "unjudged": sum(item.id not in judged for item in of.items),
        "flagged": sum(item.flags > 0 for item in of.items),
        "votes": len(counted),
        "people": len({vote.person_id for vote in counted}),
        "pairs": len(pairs),
        "pairs_from_edits": len(pairs) - len(from_votes),
        "undecided": undecided(of),
        "mean_weight": _mean([row["weight"] for row in from_votes]),
        "mean_agreement": _mean([row["agreement"] for row in from_votes]),
        **{f"alpha_{family}": round(found.value, 6) for family, found in agreed.items()},
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 6) if values else None
