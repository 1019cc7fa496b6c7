"""What else judged candidates are good for: rows to fine-tune on, preference pairs, rows with a label, negatives.

ILLUME itself uses the accepted texts alone; the other shapes are this project's extension. What nobody judged is in
no row: unjudged is not rejected.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from data.illume.loop import Accepted, Judged

Row = dict[str, Any]


def sft_rows(accepted: Accepted) -> Iterator[Row]:
    """The accepted set as prompt and completion."""
    for texts in accepted.values():
        for one in texts:
            row = one.to_row()
            yield {**_shaped(row.pop("prompt"), completion=row.pop("text")), **_filled(row)}


def pairs(judged: Iterable[Judged], *, max_per_prompt: int) -> Iterator[Row]:
    """Accepted over rejected of the same prompt, the widest difference in score first."""
    for texts in _by_prompt(judged):
        good = [one for one in texts if one.accepted]
        bad = [one for one in texts if one.accepted is False]
        among = sorted(
            product(good, bad), key=lambda pair: -round((pair[0].score or 0.0) - (pair[1].score or 0.0), 9)
        )
        for chosen, rejected in among[:max_per_prompt]:
            margin = (chosen.score or 0.0) - (rejected.score or 0.0)
            yield {
                **_shaped(chosen.prompt, chosen=chosen.candidate, rejected=rejected.candidate),
                "id": chosen.id,
                **({"image": chosen.image} if chosen.image is not None else {}),
                "score_chosen": chosen.score,
                "score_rejected": rejected.score,
                "margin": round(margin, 9),
                "chosen_iteration": chosen.iteration,
                "rejected_iteration": rejected.iteration,
                "judge": chosen.judge,
                **_voted(chosen, rejected, margin),
            }


def unpaired_rows(judged: Iterable[Judged]) -> Iterator[Row]:
    """Every judged text with its label, for losses over single answers such as kto."""
    for texts in _by_prompt(judged):
        for one in texts:
            yield {
                **_shaped(one.prompt, completion=one.candidate),
                "label": bool(one.accepted),
                **_provenance(one),
            }


def negatives(judged: Iterable[Judged]) -> Iterator[Row]:
    """The rejected texts, for npo to move away from."""
    for texts in _by_prompt(judged):
        for one in texts:
            if one.accepted is False:
                yield {**_shaped(one.prompt, completion=one.candidate), **_provenance(one)}


def _voted(chosen: Judged, rejected: Judged, margin: float) -> Row:
    """What a preference stage may weigh by. Of those who chose, the margin is who chose the one and not the other."""
    if chosen.n_votes is None or rejected.n_votes is None:
        return {}
    told = [one.agreement for one in (chosen, rejected) if one.agreement is not None]
    return {
        "weight": round(margin, 9),
        "n_votes": min(chosen.n_votes, rejected.n_votes),
        "agreement": min(told) if told else None,
        "vote_ids": sorted({*chosen.vote_ids, *rejected.vote_ids}),
    }


def _provenance(one: Judged) -> Row:
    names = ("id", "image", "iteration", "temperature", "score", "judge", "n_votes", "agreement", "vote_ids")
    return _filled({name: getattr(one, name) for name in names})


def _filled(row: Row) -> Row:
    """Without the columns that only pictures or votes would fill."""
    return {
        name: value
        for name, value in row.items()
        if value not in (None, []) or name not in ("image", "n_votes", "agreement", "vote_ids")
    }


def _by_prompt(judged: Iterable[Judged]) -> Iterator[Sequence[Judged]]:
    """The different texts of each prompt that somebody judged. A text that was accepted once is no negative."""
    found: dict[tuple[str, str], dict[str, Judged]] = {}
    for one in judged:
        if one.accepted is None or not one.candidate:
            continue
        texts = found.setdefault((one.id, json.dumps(one.prompt, sort_keys=True)), {})
        earlier = texts.get(one.candidate)
        if earlier is None or (one.accepted and not earlier.accepted):
            texts[one.candidate] = one
    yield from (list(texts.values()) for texts in found.values())


def _shaped(prompt: Any, **answers: str) -> Row:
    """Plain text continues after a space; a conversation gets a message."""
    return {"prompt": prompt} | {column: completed(prompt, text) for column, text in answers.items()}


def completed(prompt: Any, text: str) -> Any:
    """`text` as what follows `prompt`."""
    if isinstance(prompt, str):
        return text if prompt.endswith((" ", "\n")) else f" {text}"
    return [{"role": "assistant", "content": text}]
