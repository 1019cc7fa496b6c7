"""The k best passages by inner product, exactly: blocks of the vectors against all questions, and a running merge."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 << 20
"""Scores, and vectors, that are in memory at a time."""


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
    for start in range(0, total, step):
        stop = min(start + step, total)
        picked = vectors[start:stop] if rows is None else vectors[rows[start:stop]]
        block = _tensor(picked).to(device)
        scores, found = _top(asked @ block.T, min(k, stop - start))
        best = np.concatenate([best, scores.cpu().numpy()], axis=1)
        place = np.concatenate([place, found.cpu().numpy() + start], axis=1)
        # By score, then by place: the same result whatever the size of a block.
        order = np.lexsort((place, -best), axis=1)[:, :k]
        best, place = np.take_along_axis(best, order, 1), np.take_along_axis(place, order, 1)
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


def _top(scores: Any, k: int) -> tuple[Any, Any]:
    """The k highest of each row; where equal ones straddle the cut, topk takes any and this the first of them."""
    import torch

    # One more than asked for: where it equals the last one, the cut goes through equals.
    more = min(k + 1, scores.shape[1])
    best, place = torch.topk(scores, more, dim=1)
    tied = (best[:, k - 1] == best[:, -1]).nonzero().squeeze(1) if more > k else place.new_empty(0)
    best, place = best[:, :k].contiguous(), place[:, :k].contiguous()
    if len(tied):
        ordered, order = torch.sort(scores[tied], dim=1, descending=True, stable=True)
        best[tied], place[tied] = ordered[:, :k], order[:, :k]
    return best, place
