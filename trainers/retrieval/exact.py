"""The k best passages by inner product, exactly: blocks of the vectors against all questions, and a running merge."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 32 << 20
"""Scores, and vectors, that are in memory at a time."""
MANY = 32
"""Times k: so many better scores of a question in one block are picked one by one; more are sorted."""


def search(
    vectors: NDArray[np.floating],
    queries: NDArray[np.float32],
    k: int,
    *,
    rows: NDArray[np.int64] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and places of the k best passages for each question, best first; of equal scores the lower place.

    `rows`: which of the vectors are passages, and in which order; a place is one in this list. Memory is bounded by
    twice `block_bytes`, for a block of vectors and its scores, and the k best of every question.
    """
    import torch

    total = len(vectors) if rows is None else len(rows)
    k = min(k, total)
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    place = np.empty((len(queries), 0), dtype=np.int64)
    if not len(queries) or not total:
        return best, place
    device = "cuda" if torch.cuda.is_available() else "cpu"
    asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(device)
    # Neither the scores of a block nor its vectors may outgrow the bound.
    step = max(k, block_bytes // (4 * max(len(queries), vectors.shape[1])), 1)
    # The first block sets the mark that the others are held against: the smaller it is, the less is sorted.
    start, stop = 0, min(max(k, step // 8), total)
    while start < total:
        picked = vectors[start:stop] if rows is None else vectors[rows[start:stop]]
        scores = asked @ _tensor(picked).to(device).T
        found = _above(scores, best[:, -1], k) if start and device == "cpu" else None
        some, there = found or [one.cpu().numpy() for one in _top(scores, min(k, stop - start))]
        best, place = _merged(best, place, some, there + start, k)
        start, stop = stop, min(stop + step, total)
    return best, place


def _tensor(block: NDArray[np.floating]) -> Any:
    """Without a copy where the numbers are float32 already; nothing writes into it."""
    import torch

    with warnings.catch_warnings():
        # A map of a file cannot be written to, which torch tells of.
        warnings.filterwarnings(
            "ignore", message="The given NumPy array is not writable", category=UserWarning
        )
        return torch.from_numpy(np.ascontiguousarray(block, dtype=np.float32))


def _merged(
    best: NDArray[np.float32],
    place: NDArray[np.int64],
    scores: NDArray[np.float32],
    found: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of both. Equal scores stand by place in each, and every place found is higher than those before: the
    result is the same whatever the size of a block."""
    if not best.shape[1]:
        return scores, found
    both, places = np.concatenate([best, scores], axis=1), np.concatenate([place, found], axis=1)
    # Stable: of equal scores the earlier place stays first.
    order = np.argsort(-both, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(both, order, 1), np.take_along_axis(places, order, 1)


def _above(
    scores: Any, least: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """The scores of a block that beat the k-th best so far, by place and filled up with -inf; None if they are many.

    After the first block they are few, and comparing all with a number takes a tenth of sorting them. What only equals
    the k-th best has the higher place, and comes after it.
    """
    flat = scores.numpy().reshape(-1)
    # In numpy, whose search through a sparse mask is several times as fast as torch's.
    hit = np.flatnonzero(scores.numpy() > least[:, None])
    row, column = np.divmod(hit, scores.shape[1])
    counts = np.bincount(row, minlength=len(least))
    wide = int(counts.max())
    if wide > MANY * k:
        return None
    nth = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    some = np.full((len(counts), wide), -np.inf, dtype=np.float32)
    there = np.zeros((len(counts), wide), dtype=np.int64)
    some[row, nth] = flat[hit]
    there[row, nth] = column
    return some, there


def _top(scores: Any, k: int) -> tuple[Any, Any]:
    """The k highest of each row, of equal ones the lower place first; topk itself takes any of them."""
    import torch

    # One more than asked for: where it equals the last one, the cut goes through equals.
    more = min(k + 1, scores.shape[1])
    best, place = torch.topk(scores, more, dim=1)
    level = best[:, 1:] == best[:, :-1]
    tied = level.any(dim=1).nonzero().squeeze(1)
    best, place = best[:, :k].contiguous(), place[:, :k].contiguous()
    if len(tied):
        ordered, order = torch.sort(scores[tied], dim=1, descending=True, stable=True)
        best[tied], place[tied] = ordered[:, :k], order[:, :k]
    return best, place
