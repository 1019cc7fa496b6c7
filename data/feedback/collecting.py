"""Candidates to people and back: a stage of labelling from a file of candidates, and pairs once the votes are there.

Texts that are equal but for the blanks around them are asked about once; empty ones are not asked about. A prompt
with fewer than two texts left makes no item. Unjudged is not rejected: what nobody judged is in no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from data.errors import DataError
from data.feedback.ballots import COUNTED
from data.feedback.critic import People
from data.feedback.exchange_files import export_jsonl
from data.feedback.items import NewItem, check_item
from data.feedback.opening import fill, open_stage, wait_for
from data.feedback.results import Judgements, judged_records, judgements, preference_pairs, undecided
from data.feedback.stages import set_state
from data.feedback.stopping import wanting
from data.feedback.summary import alphas
from data.jsonl import write_jsonl_atomic
from data.judging import JUDGED, ROUNDING, read_candidates
from data.pictures import find

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
    new = [one.item for one in asked if one.item is not None]
    if not new:
        raise DataError(
            "no prompt has two different candidates to compare",
            where=str(candidates),
            way_out="sample more or wilder candidates (num_return_sequences, temperature)",
        )
    store, stage = open_stage(folder, critic, images)
    with store:
        fill(store, stage, new)
        left = wanting(store, stage.id)
        said = f"{left.items} of {left.of} items need votes, {left.votes} in all; {left.judged} are there"
        wait_for(left, said, folder)
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
