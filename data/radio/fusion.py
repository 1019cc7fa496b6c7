"""Two score lists over the same documents become one order: normalise, blend by lambda, sort stably.

Every list stands in the retriever's order, best first, so that documents whose blended scores are equal keep it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import DataError
from data.radio.options import Normalise

__all__ = ["Normalise", "descending", "fuse", "normalise"]

Scores = NDArray[np.float64]


def normalise(scores: ArrayLike, how: Normalise = "minmax") -> Scores:
    """The scores on a scale that two lists can share. Constant scores tell nothing: they become zeros.

    `minmax`: from 0 to 1. `zscore`: mean 0, standard deviation 1 (of the population). `rank`: the share of the other
    documents that score less, so that equal scores get equal shares. `none`: as they are, constant or not.
    """
    values = _finite(scores)
    if how == "none" or values.size == 0:
        return values
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros_like(values)
    if how == "rank":
        ordered = np.sort(values)
        return np.searchsorted(ordered, values, side="left").astype(np.float64) / (values.size - 1)
    # By a power of two, which is exact: the range of two huge scores would overflow although the scores do not.
    values = np.ldexp(values, -int(np.frexp(max(abs(low), abs(high)))[1]))
    unit = (values - values.min()) / (values.max() - values.min())
    return unit if how == "minmax" else (unit - unit.mean()) / unit.std()


def fuse(
    rationale: ArrayLike, retrieval: ArrayLike, lambdas: Sequence[float], how: Normalise = "minmax"
) -> Scores:
    """lambda * n(rationale) + (1 - lambda) * n(retrieval), a row for each lambda; each list is normalised once."""
    weights = np.asarray(lambdas, dtype=np.float64)[:, None]
    if not np.all((weights >= 0) & (weights <= 1)):
        raise DataError(
            f"lambda must lie between 0 and 1: {list(lambdas)}", way_out="0 is the retriever alone"
        )
    ours, theirs = normalise(rationale, how), normalise(retrieval, how)
    if ours.shape != theirs.shape:
        raise DataError(
            f"{ours.size} rationale scores and {theirs.size} retrieval scores for one question",
            way_out="score the documents that were retrieved, all of them",
        )
    blended = weights * ours + (1 - weights) * theirs
    # Exactly the one list at the ends: 0 * x is no longer 0 where x overflowed.
    blended[weights[:, 0] == 0] = theirs
    blended[weights[:, 0] == 1] = ours
    return blended


def descending(scores: ArrayLike) -> NDArray[np.intp]:
    """Places from the highest score to the lowest, along the last axis; of equal scores the earlier place first."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), axis=-1, kind="stable")


def _finite(scores: ArrayLike) -> Scores:
    values = np.array(scores, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError(
            "scores must be one list of finite numbers for each question",
            way_out="look for NaN or infinity in what the encoder or the retriever gave",
        )
    return values
