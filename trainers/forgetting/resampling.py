"""Bootstrap intervals for figures that are no plain mean, such as a harmonic mean over several question sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from data.errors import DataError


@dataclass(frozen=True)
class Interval:
    """A figure and the middle 95 % of its resampled values."""

    value: float
    low: float
    high: float


def interval(
    statistic: Callable[..., float], *sets: ArrayLike, resamples: int = 1000, seed: int = 0
) -> Interval:
    """`statistic(*sets)` and its interval: the rows of each set are resampled, independently of the other sets'.

    A set is [questions] or [questions, measures]: the measures of a question stay together. The interval holds the
    middle 95 % (numpy's linear percentiles), as in `comparison`.
    """
    found = [np.asarray(one, dtype=np.float64) for one in sets]
    if not found or any(one.ndim == 0 or len(one) == 0 for one in found) or resamples < 1:
        raise DataError("an interval needs at least one resample, and at least one question in each set")
    dice = np.random.default_rng(seed)
    values = [
        statistic(*(one[dice.integers(0, len(one), len(one))] for one in found)) for _ in range(resamples)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(statistic(*found)), float(low), float(high))


def paired(
    statistic: Callable[..., float],
    later: Sequence[ArrayLike],
    earlier: Sequence[ArrayLike],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """`statistic(later) - statistic(earlier)` where both models answered the same questions, set by set.

    Questions are resampled and both models keep theirs; `statistic` takes the sets stacked as one argument each.
    """
    both = [
        np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)], axis=1)
        for a, b in zip(later, earlier, strict=True)
    ]

    def gap(*sets: np.ndarray) -> float:
        return statistic(*(one[:, 0] for one in sets)) - statistic(*(one[:, 1] for one in sets))

    return interval(gap, *both, resamples=resamples, seed=seed)
