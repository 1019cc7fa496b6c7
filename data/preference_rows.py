"""Preference rows in the form a trainer reads: with weights, with all pairs of a prompt together, or one by one."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from data.errors import DataError
from data.ledger import Ledger
from data.records import Placed

WEIGHT = "weight"


def weighed(rows: Iterable[Placed], column: str) -> Iterator[Placed]:
    """The rows with their `weight`, read from `column`: a finite number, not below 0."""
    total = 0.0
    for where, row in rows:
        value = row.get(column)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or value < 0
        ):
            raise DataError(
                f"the weight in '{column}' is {value!r}"
                if column in row
                else f"there is no column '{column}'",
                where=where,
                way_out="a weight is a number, 0 or more; 2 counts as the row twice",
            )
        total += float(value)
        yield Placed(where, {**row, WEIGHT: float(value)})
    if not total:
        raise DataError(
            f"all weights in '{column}' are 0", way_out="then there is nothing to learn: look at the column"
        )


def grouped(rows: Iterable[dict[str, Any]], ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Tokenised pairs as one row for each prompt: its different answers once, and the pairs among them.

    Prompts keep the order of their first pair. A pair that stands there twice counts twice, by its weight.
    """
    found: dict[bytes, dict[bytes, int]] = {}
    pairs: dict[bytes, dict[tuple[int, int], float]] = {}
    for row in rows:
        prompt = _packed(row["prompt_ids"])
        places = found.setdefault(prompt, {})
        chosen, rejected = (
            places.setdefault(_packed(row[side]), len(places)) for side in ("chosen_ids", "rejected_ids")
        )
        known = pairs.setdefault(prompt, {})
        known[chosen, rejected] = known.get((chosen, rejected), 0.0) + float(row.get(WEIGHT, 1.0))
    ledger.group(prompts=len(found), answers=sum(map(len, found.values())))
    for prompt, places in found.items():
        yield {
            "prompt_ids": _unpacked(prompt),
            "completions": [_unpacked(one) for one in places],
            "pairs": [list(pair) for pair in pairs[prompt]],
            "weights": list(pairs[prompt].values()),
        }


def mismatched(
    rows: Iterable[dict[str, Any]], batch_size: int, max_length: int | None
) -> Iterator[dict[str, Any]]:
    """Tokenised answers, each with an answer to another prompt as `mismatched_ids`: the one before it in its batch.

    The batches are TRL's, so that KTO's baseline is over the same mismatches. Where a batch holds one prompt only,
    TRL takes what there is; here it is the answer of the last row before the batch, if there was one.
    """
    source = iter(rows)
    before: dict[str, Any] | None = None
    while batch := list(islice(source, batch_size)):
        for place, row in enumerate(batch):
            others = [batch[place - back] for back in range(1, len(batch))]
            if before is not None:
                others.append(before)
            foreign = (other for other in others if other["prompt_ids"] != row["prompt_ids"])
            other = next(foreign, others[0] if others else row)
            room = None if max_length is None else max(1, max_length - len(row["prompt_ids"]))
            yield {**row, "mismatched_ids": other["completion_ids"][:room]}
        before = batch[-1]


def _packed(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()


def _unpacked(ids: bytes) -> list[int]:
    found = array("i")
    found.frombytes(ids)
    return found.tolist()
