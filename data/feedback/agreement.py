"""How far people agree, beyond chance: Krippendorff's alpha, Cohen's and Fleiss' kappa, with intervals and tests.

Pure functions of arrays; a missing value is NaN. Where a coefficient is not defined (nothing is shared, or nobody
ever used a second value) the answer is NaN: neither perfect agreement nor none has been shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Level = Literal["nominal", "ordinal", "interval"]
Array = NDArray[np.float64]
# Above so many trials the exact sum is long, and its digits beyond what matters.
EXACT_UP_TO = 20_000


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BiasTest:
    """Are candidates chosen by where they stand? `shares` are those of the places, first to last."""

    chosen: list[int]
    shares: list[float]
    expected: list[float]
    p_value: float
    test: Literal["exact binomial", "chi-square"]


def krippendorff_alpha(ratings: ArrayLike, level: Level = "nominal") -> float:
    """1 - observed / expected disagreement. `ratings` has a row for each person and a column for each unit."""
    counts, values = _counts(ratings)
    return _alpha(counts, values, level, np.ones(len(counts)))


def alpha_interval(
    ratings: ArrayLike,
    level: Level = "nominal",
    *,
    groups: Sequence[int] | None = None,
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Alpha with a percentile bootstrap interval over units, or over `groups` of units (the items they are of)."""
    counts, values = _counts(ratings)
    value = _alpha(counts, values, level, np.ones(len(counts)))
    if math.isnan(value):
        return Interval(value, math.nan, math.nan)
    member = (
        np.arange(len(counts)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    size = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    found = np.empty(samples)
    for sample in range(samples):
        drawn = np.bincount(rng.integers(0, size, size), minlength=size)
        found[sample] = _alpha(counts, values, level, drawn[member].astype(np.float64))
    # A sample in which only one value is left has no alpha; it says nothing about the spread.
    found = found[~np.isnan(found)]
    if not len(found):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def cohen_kappa(
    one: ArrayLike, other: ArrayLike, weights: Literal["linear", "quadratic"] | None = None
) -> float:
    """Of two people over the units that both judged; weights are by the order of the values."""
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    values = np.unique(np.concatenate([first, second]))
    if len(first) == 0:
        return math.nan
    table: Array = np.zeros((len(values), len(values)))
    np.add.at(table, (np.searchsorted(values, first), np.searchsorted(values, second)), 1.0)
    table /= table.sum()
    apart = np.abs(np.subtract.outer(np.arange(len(values)), np.arange(len(values)))).astype(np.float64)
    cost = {None: (apart > 0).astype(np.float64), "linear": apart, "quadratic": apart**2}[weights]
    expected = float((cost * np.outer(table.sum(1), table.sum(0))).sum())
    return math.nan if expected == 0 else 1 - float((cost * table).sum()) / expected


def fleiss_kappa(counts: ArrayLike) -> float:
    """A row for each unit, a column for each value: how many people gave it. Every unit has equally many."""
    table = np.asarray(counts, dtype=np.float64)
    people = table.sum(1)
    if len(table) == 0 or (people != people[0]).any() or people[0] < 2:
        raise ValueError("every unit needs the same number of ratings, two or more")
    n = people[0]
    observed = float(((table**2).sum(1) - n).mean() / (n * (n - 1)))
    expected = float(((table.sum(0) / table.sum()) ** 2).sum())
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def position_bias(chosen: Sequence[int]) -> BiasTest:
    """Test whether each place is chosen alike; `chosen` counts choices by place, first to last.

    Two places: the exact two-sided binomial test. More: Pearson's chi-square.
    """
    total = sum(chosen)
    places = len(chosen)
    if places < 2:
        raise ValueError("a choice needs two places")
    shares = [count / total if total else math.nan for count in chosen]
    if places == 2:
        p_value, test = binomial_test(chosen[0], total), "exact binomial"
    else:
        mean = total / places
        statistic = sum((count - mean) ** 2 for count in chosen) / mean if total else 0.0
        p_value, test = chi_square_tail(statistic, places - 1), "chi-square"
    return BiasTest(list(chosen), shares, [1 / places] * places, p_value, test)


def binomial_test(successes: int, trials: int) -> float:
    """Two-sided, exact, against one half: how likely is a count at least as far from the middle."""
    if trials == 0:
        return 1.0
    far = max(successes, trials - successes)
    if 2 * far == trials:
        return 1.0
    if trials <= EXACT_UP_TO:
        term = total = math.comb(trials, far)
        for count in range(far, trials):
            term = term * (trials - count) // (count + 1)
            total += term
        return min(1.0, (2 * total) / (1 << trials) if trials < 1000 else _ratio(2 * total, trials))
    return min(1.0, math.erfc((far - 0.5 - trials / 2) / math.sqrt(trials / 2)))


def _ratio(number: int, bits: int) -> float:
    """number / 2**bits, where neither fits a float."""
    shift = max(0, number.bit_length() - 60)
    return math.ldexp(number >> shift, shift - bits)


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P(X >= statistic): for whole degrees of freedom it is a finite sum."""
    half = statistic / 2
    if half <= 0:
        return 1.0
    even = degrees % 2 == 0
    found = math.exp(-half) if even else math.erfc(math.sqrt(half))
    # Q(a + 1, x) = Q(a, x) + x**a exp(-x) / gamma(a + 1), from a = 1 or a = 1/2.
    a = 1.0 if even else 0.5
    while a < degrees / 2:
        found += math.exp(a * math.log(half) - half - math.lgamma(a + 1))
        a += 1
    return min(1.0, found)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share and its score interval, which stays within 0 and 1 and is right for few trials too."""
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _counts(ratings: ArrayLike) -> tuple[Array, Array]:
    """For each unit how often each value was given, and the values in order."""
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError("ratings need a row for each person and a column for each unit")
    known = ~np.isnan(table)
    values = np.unique(table[known])
    counts = np.zeros((table.shape[1], len(values)))
    for row in table:
        judged = np.flatnonzero(~np.isnan(row))
        counts[judged, np.searchsorted(values, row[judged])] += 1.0
    return counts, values


def _alpha(counts: Array, values: Array, level: Level, times: Array) -> float:
    """Alpha when unit u is there `times[u]` times."""
    size = counts.sum(1)
    pairable = (size > 1) & (times > 0)
    counts, share = counts[pairable], times[pairable] / (size[pairable] - 1)
    # coincidences[c, k]: sum over units of n_c (n_k - [c = k]) / (m - 1)
    coincidences = (counts * share[:, None]).T @ counts - np.diag((counts * share[:, None]).sum(0))
    totals: Array = coincidences.sum(1)
    n = totals.sum()
    if n <= 1:
        return math.nan
    distance = _distance(values, totals, level)
    expected = float((np.outer(totals, totals) * distance).sum()) / (n - 1)
    return math.nan if expected == 0 else 1 - float((coincidences * distance).sum()) / expected


def _distance(values: Array, totals: Array, level: Level) -> Any:
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return np.subtract.outer(values, values) ** 2
    # Ordinal: how many values lie between two, half of the two themselves included.
    middle = np.cumsum(totals) - totals / 2
    return np.subtract.outer(middle, middle) ** 2
