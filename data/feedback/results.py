"""What follows from the votes: judged candidates, preference pairs, accepted texts, unpaired rows, lines for a judge.

Unjudged is not rejected: a candidate that nobody judged is in no row. Only last words count, and only of people whose
votes count; items whose answer was known beforehand are left out unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.history import Vote, counted_votes
from data.feedback.items import Item, read_items
from data.feedback.readings import preferences, scores
from data.feedback.stages import StageSettings
from data.feedback.store import Store
from data.feedback.tables import people, stages
from data.jsonl import write_jsonl_atomic

Row = dict[str, Any]


@dataclass(frozen=True)
class Judgements:
    """A stage's items with the votes that count, as one moment had them."""

    stage: str
    items: list[Item]
    votes: dict[int, list[Vote]]
    """By item."""
    names: dict[int, str]
    settings: StageSettings
    over: bool = False
    """Nobody will judge more: the stage is closed, or its stop rule has spoken."""
    trust: Mapping[int, float] = field(default_factory=dict[int, float])
    """How much a person's vote weighs; 1 where nothing is said."""

    def of(self, item: Item) -> list[Vote]:
        return self.votes.get(item.id, [])


def judgements(
    store: Store,
    stage_id: int,
    *,
    gold: bool = False,
    voted: bool = False,
    trust: Mapping[int, float] | None = None,
) -> Judgements:
    """`voted` leaves out items that nobody voted on; `trust` is a weight for each person, such as `reliability`'s."""
    with store.read() as connection:
        row = connection.execute(sa.select(stages).where(stages.c.id == stage_id)).one_or_none()
        if row is None:
            raise DataError(f"there is no stage {stage_id}", where=store.shown, way_out="list the stages")
        found = [item for item in read_items(connection, stage_id, voted=voted) if gold or item.gold is None]
        votes: dict[int, list[Vote]] = {}
        for vote in counted_votes(connection, stage_id):
            votes.setdefault(vote.item_id, []).append(vote)
        names = {one.id: one.name for one in connection.execute(sa.select(people.c.id, people.c.name))}
    settings = StageSettings.model_validate(row.settings)
    over = row.state == "closed" or row.stopped is not None
    return Judgements(row.name, found, votes, names, settings, over, trust or {})


def judged_records(of: Judgements) -> Iterator[Row]:
    """One row for each candidate that a person judged.

    `accepted` is a truth value where people chose what fits, null where they compared; `score` is from 0 to 1.
    """
    for item in of.items:
        for vote in of.of(item):
            values = _scores(of, item, vote)
            for index, score in enumerate(values or ()):
                if score is None:
                    continue
                candidate = item.candidates[index]
                yield {
                    "id": item.key,
                    "iteration": item.extra.get("iteration", 0),
                    "prompt": item.prompt,
                    "image": item.image,
                    "candidate": candidate["text"],
                    "temperature": candidate.get("temperature"),
                    "accepted": bool(score) if vote.kind == "choose" else None,
                    "score": score,
                    "judge": of.names[vote.person_id],
                    "time": vote.at,
                    "index": index,
                    "vote_id": vote.id,
                }


def preference_pairs(of: Judgements, *, min_agreement: float = 0.0, edits: bool = True) -> Iterator[Row]:
    """Rows of prompt, chosen, rejected with `weight`, `n_votes` and `agreement`.

    For each two candidates that people compared: a vote is worth 1, -1 or 0, times s / strength_max where it has a
    strength, times the person's trust. `weight` is the size of the mean; its sign says which one is chosen, and a
    mean of zero makes no pair. `agreement` is the share of the votes, ties included, that say the same.
    An edit makes one pair more: the better text over the one that it betters.
    """
    for item in of.items:
        for (one, other), said in _compared(of, item):
            if item.texts[one].strip() == item.texts[other].strip():
                continue
            mean = _mean(of, said)
            chosen, rejected = (one, other) if mean > 0 else (other, one)
            same = sum(value * mean > 0 for value, _ in said) / len(said)
            if abs(mean) < 1e-12 or same < min_agreement:
                continue
            yield {
                **_pair(item, item.texts[chosen], item.texts[rejected]),
                "weight": abs(mean),
                "n_votes": len(said),
                "agreement": same,
                "id": item.key,
                "chosen_index": chosen,
                "rejected_index": rejected,
                "source": "votes",
                "vote_ids": [vote.id for _, vote in said],
            }
        for vote in of.of(item) if edits else ():
            if vote.edit is None or vote.edit.candidate is None:
                continue
            before = item.texts[vote.edit.candidate]
            if before.strip() == vote.edit.text.strip():
                continue
            yield {
                **_pair(item, vote.edit.text, before),
                "weight": 1.0,
                "n_votes": 1,
                "agreement": 1.0,
                "id": item.key,
                "chosen_index": None,
                "rejected_index": vote.edit.candidate,
                "source": "edit",
                "vote_ids": [vote.id],
            }


def unpaired_rows(of: Judgements) -> Iterator[Row]:
    """Rows of prompt, completion, label from `choose` votes: true where more people accepted than did not.

    A candidate that is accepted as often as not is in no row.
    """
    for item in of.items:
        for index, text in enumerate(item.texts):
            said = [(1.0 if index in v.choice else -1.0, v) for v in of.of(item) if v.kind == "choose"]
            mean = _mean(of, said) if said else 0.0
            if abs(mean) < 1e-12:
                continue
            yield {
                "prompt": item.prompt,
                "completion": _answer(item, text),
                "label": mean > 0,
                **_image(item),
                "weight": abs(mean),
                "n_votes": len(said),
                "agreement": sum(value * mean > 0 for value, _ in said) / len(said),
                "id": item.key,
                "index": index,
                "vote_ids": [vote.id for _, vote in said],
            }


def accepted_rows(of: Judgements) -> Iterator[Row]:
    """Rows of prompt, completion to fine-tune on: what most people accepted, and what people wrote themselves.

    Equal texts of one prompt come once.
    """
    seen: set[tuple[str, str]] = set()
    chosen = [(row, row["completion"], "votes") for row in unpaired_rows(of) if row["label"]]
    written = [
        (
            {
                "prompt": item.prompt,
                **_image(item),
                "weight": 1.0,
                "n_votes": 1,
                "agreement": 1.0,
                "id": item.key,
                "index": vote.edit.candidate,
                "vote_ids": [vote.id],
            },
            _answer(item, vote.edit.text),
            "edit",
        )
        for item in of.items
        for vote in of.of(item)
        if vote.edit is not None
    ]
    for row, completion, source in [*chosen, *written]:
        mark = (repr(row["prompt"]), repr(completion).strip())
        if mark not in seen:
            seen.add(mark)
            kept = {name: value for name, value in row.items() if name not in ("label", "completion")}
            yield {**kept, "completion": completion, "source": source}


def vote_lines(of: Judgements) -> Iterator[Row]:
    """The votes as a judge stage reads them (`critic: {kind: file}`): a line of scores for each vote.

    The mean of these scores is what that stage pairs by, so that for two candidates its margin is our weight. An
    item that nobody will judge (flagged, or the stage is over) gets nulls: it is settled, and makes no pair.
    """
    for item in of.items:
        lines = [values for vote in of.of(item) if (values := _scores(of, item, vote)) is not None]
        if not lines and (of.over or item.flags >= of.settings.flags_to_close):
            lines = [[None] * len(item.candidates)]
        for values in lines:
            yield {"id": item.key, "scores": values}


def write_votes(store: Store, stage_id: int, path: Path) -> int:
    """Write the file of votes that a recipe's judge stage waits for; returns how many lines."""
    return write_jsonl_atomic(path, vote_lines(judgements(store, stage_id)))


def undecided(of: Judgements) -> int:
    """How many pairs of candidates people compared without a winner."""
    return sum(abs(_mean(of, said)) < 1e-12 for item in of.items for _, said in _compared(of, item))


def _compared(of: Judgements, item: Item) -> list[tuple[tuple[int, int], list[tuple[float, Vote]]]]:
    """For each two candidates that somebody compared, what was said of them."""
    found: dict[tuple[int, int], list[tuple[float, Vote]]] = {}
    for vote in of.of(item):
        for one, other, value in preferences(
            vote.kind, vote.choice, vote.strength, len(item.candidates), of.settings.strength_max
        ):
            found.setdefault((one, other), []).append((value, vote))
    return sorted(found.items())


def _scores(of: Judgements, item: Item, vote: Vote) -> list[float | None] | None:
    found = scores(vote.kind, vote.choice, vote.strength, len(item.candidates), of.settings.strength_max)
    return None if found is None else list(found)


def _mean(of: Judgements, said: list[tuple[float, Vote]]) -> float:
    weights = [of.trust.get(vote.person_id, 1.0) for _, vote in said]
    total = sum(weights)
    return fmean([value for value, _ in said], weights) if total > 0 else 0.0


def _pair(item: Item, chosen: str, rejected: str) -> Row:
    return {
        "prompt": item.prompt,
        "chosen": _answer(item, chosen),
        "rejected": _answer(item, rejected),
        **_image(item),
    }


def _answer(item: Item, text: str) -> Any:
    """Text to a prompt of text, a message to a conversation."""
    return text if isinstance(item.prompt, str) else [{"role": "assistant", "content": text}]


def _image(item: Item) -> Row:
    return {} if item.image is None else {"image": item.image}
