"""Groups: from an ordered pool, one positive and its negatives, as a reranker learns from them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from data.errors import DataError
from data.jsonl import iterate_jsonl
from data.radio.answers import answer_finder
from data.radio.fuse import Aligned
from data.radio.options import GroupOptions

__all__ = ["GroupOptions", "growing_offsets", "make_groups", "provenance", "ranks", "read_groups"]

Ranks = tuple[int, tuple[int, ...]]
"""0-based ranks of the positive and of its negatives."""


class _Ended(Exception):  # noqa: N818 - why a pool gives no group
    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def make_groups(
    aligned: Iterable[Aligned], options: GroupOptions, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Rows `{query, pos, neg}` with their provenance. Whatever is left out is counted.

    `pos_with_answer` and `neg_with_answer` are counted whether or not the filters are on: they say what the filters
    would do.
    """
    for pool in aligned:
        try:
            chosen = ranks(len(pool.order), options, pool.pool.id, counts)
        except _Ended as ended:
            counts[ended.reason] += 1
            continue
        has_answer = answer_finder(pool.pool.answers)
        for index, (positive, negatives) in enumerate(chosen):
            row = _row(pool, positive, negatives, index, has_answer, options, counts)
            if row is not None:
                counts["groups"] += 1
                counts["negatives"] += len(row["neg"])
                yield row


def ranks(size: int, options: GroupOptions, key: str, counts: Counter[str] | None = None) -> list[Ranks]:
    """The groups of a pool of `size` documents, as ranks. `key` is the question's id, which seeds `random`."""
    counts = Counter[str]() if counts is None else counts
    size = min(size, options.top)
    if options.sampler == "iteration":
        blocks = (range(start, min(start + options.block, size)) for start in range(0, size, options.block))
        made = [(rank, tuple(range(rank + 1, block.stop))) for block in blocks for rank in block[:-1]]
        if not made:
            raise _Ended("pool_too_small")
        return made
    first = 1 if options.sampler == "random" else options.neg_offsets[0]
    if size <= first:
        raise _small(options, size, key)
    if options.sampler == "shift_all_neg":
        return [(0, tuple(range(first, size)))]
    if options.sampler == "random":
        dice = random.Random(f"{options.seed}/{key}")
        wanted = min(len(options.neg_offsets), size - 1)
        # random() alone is promised to stay the same over versions of Python.
        drawn = sorted(range(1, size), key=lambda _: dice.random())[:wanted]
        return [(0, tuple(sorted(drawn)))]
    if options.neg_offsets[-1] >= size:
        if options.small_pool != "clip":
            raise _small(options, size, key)
        counts["clipped_pools"] += 1
    return [(0, tuple(dict.fromkeys(min(offset, size - 1) for offset in options.neg_offsets)))]


def growing_offsets(first: int = 3, count: int = 6) -> tuple[int, ...]:
    """first + k(k+1)/2: the distance between negatives grows by one with each; 3, 4, 6, 9, 13, 18."""
    return tuple(first + k * (k + 1) // 2 for k in range(count))


def read_groups(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of groups, ours or any of `{query, pos, neg}`, each checked."""
    for number, row in iterate_jsonl(path):
        where = f"{path}:{number}"
        if not isinstance(row.get("query"), str):
            raise DataError("a group has no `query`", where=where, way_out="a group is {query, pos, neg}")
        for column in ("pos", "neg"):
            found = row.get(column)
            texts = cast("list[object]", found) if isinstance(found, list) else []
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataError(
                    f"`{column}` of a group must be a list of texts with at least one",
                    where=where,
                    way_out="a group is {query: text, pos: [text], neg: [text, …]}",
                )
        yield row


def _small(options: GroupOptions, size: int, key: str) -> Exception:
    if options.small_pool == "error":
        return DataError(
            f"question {key} has {size} documents, and the sampler `{options.sampler}` needs more",
            way_out="retrieve more, shorten neg_offsets, or write `small_pool: clip` or `drop`",
        )
    return _Ended("pool_too_small")


def _row(
    aligned: Aligned,
    positive: int,
    negatives: tuple[int, ...],
    index: int,
    has_answer: Callable[[str], bool],
    options: GroupOptions,
    counts: Counter[str],
) -> dict[str, Any] | None:
    documents = [aligned.pool.documents[int(place)] for place in aligned.order[: options.top]]
    answered = has_answer(documents[positive].text)
    guilty = {rank for rank in negatives if has_answer(documents[rank].text)}
    counts["candidate_groups"] += 1
    counts["pos_with_answer"] += answered
    counts["neg_with_answer"] += len(guilty)
    if options.require_answer_in_pos and not answered:
        counts["dropped_pos_without_answer"] += 1
        return None
    if options.drop_answer_in_neg:
        counts["removed_neg_with_answer"] += len(guilty)
        negatives = tuple(rank for rank in negatives if rank not in guilty)
    if not negatives:
        counts["dropped_without_negatives"] += 1
        return None
    chosen = (positive, *negatives)
    places = [int(aligned.order[rank]) for rank in chosen]
    return {
        "query": aligned.pool.question,
        "pos": [documents[positive].text],
        "neg": [documents[rank].text for rank in negatives],
        "id": aligned.pool.id if options.sampler != "iteration" else f"{aligned.pool.id}/{index}",
        "question_id": aligned.pool.id,
        "golden_answers": list(aligned.pool.answers),
        "pos_ids": [documents[positive].id],
        "neg_ids": [documents[rank].id for rank in negatives],
        "pos_ranks": [positive],
        "neg_ranks": list(negatives),
        "retrieval_ranks": places,
        "scores": [round(float(aligned.scores[place]), 9) for place in places],
        "lambda": aligned.weight,
        "sampler": options.sampler,
    }


def provenance(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row made from a group keeps of it."""
    kept = ("id", "question_id", "pos_ids", "neg_ids", "pos_ranks", "neg_ranks", "lambda", "sampler")
    return {"group": {key: row[key] for key in kept if key in row}}
