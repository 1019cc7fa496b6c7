"""TOFU's measures, memorisation and membership, each against an independent computation from its definition."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from trainers.comparison import compare
from trainers.forgetting.memorisation import auc, exact_memorisation, extraction_strength, min_k, privacy_leak
from trainers.forgetting.resampling import interval, paired
from trainers.forgetting.truth import (
    KEPT,
    PARTS,
    choice_probability,
    forget_quality,
    forget_terms,
    harmonic_mean,
    kept_terms,
    log_truth_ratio,
    model_utility,
    per_token,
    probability,
    truth_on_forget,
    truth_on_kept,
)

# ---------------------------------------------------------------- probabilities


def test_probability_is_the_length_th_root() -> None:
    # Tokens of 0.5, 0.25, 0.125: the cube root of 1/64.
    logps = math.log(0.5) + math.log(0.25) + math.log(0.125)
    assert probability(per_token([logps, math.log(0.3)], [3, 1])).tolist() == pytest.approx(
        [0.25, 0.3], rel=1e-12
    )
    with pytest.raises(DataError, match="1 answers have no tokens"):
        per_token([-1.0, -1.0], [1, 0])


def test_choice_probability() -> None:
    right, wrong = [math.log(0.4)], [[math.log(p) for p in (0.1, 0.2, 0.1)]]
    assert choice_probability(right, wrong)[0] == pytest.approx(0.4 / 0.8, rel=1e-12)
    # Far below what a float holds, and still told apart.
    assert choice_probability([-1000.0], [[-1000.0, -5000.0]])[0] == pytest.approx(0.5, rel=1e-12)
    with pytest.raises(DataError, match="2 answers, and wrong ones for 1"):
        choice_probability([-1.0, -1.0], [[-1.0]])


def test_nan_is_told() -> None:
    for odd in (math.nan, -math.inf):
        with pytest.raises(DataError, match="answers holds 1 values that are not finite"):
            probability([-1.0, odd])
    with pytest.raises(DataError, match="wrong answers of a question has shape"):
        choice_probability([-1.0], [[]])


# ---------------------------------------------------------------- truth ratio


def test_truth_ratio_of_both_kinds() -> None:
    right, wrong = [0.2, 0.6], [[0.1, 0.4], [0.3, 0.3]]
    logs = [[math.log(p) for p in row] for row in wrong]
    geometric = np.exp(log_truth_ratio(np.log(right), logs))
    assert geometric.tolist() == pytest.approx([math.sqrt(0.1 * 0.4) / 0.2, 0.5], rel=1e-12)
    arithmetic = np.exp(log_truth_ratio(np.log(right), logs, "arithmetic"))
    assert arithmetic.tolist() == pytest.approx([0.25 / 0.2, 0.5], rel=1e-12)
    with pytest.raises(ValueError, match="geometric or arithmetic, not harmonic"):
        log_truth_ratio(np.log(right), logs, "harmonic")  # pyright: ignore[reportArgumentType]


def test_questions_may_have_different_numbers_of_wrong_answers() -> None:
    right, wrong = np.log([0.2, 0.5]), [np.log([0.1]), np.log([0.1, 0.2, 0.4])]
    assert np.exp(log_truth_ratio(right, wrong)).tolist() == pytest.approx([0.5, 0.4], rel=1e-12)
    assert np.exp(log_truth_ratio(right, wrong, "arithmetic")).tolist() == pytest.approx(
        [0.5, 0.7 / 1.5], rel=1e-12
    )
    assert choice_probability(right, wrong).tolist() == pytest.approx([2 / 3, 0.5 / 1.2], rel=1e-12)


def test_the_two_aggregations() -> None:
    ratios = [0.5, 2.0, 1.0, 4.0]
    assert truth_on_forget(np.log(ratios)) == pytest.approx(fmean(min(r, 1 / r) for r in ratios), rel=1e-12)
    assert truth_on_kept(np.log(ratios)) == pytest.approx(fmean(max(0, 1 - r) for r in ratios), rel=1e-12)
    assert kept_terms(np.log(ratios)).tolist() == pytest.approx([0.5, 0, 0, 0], abs=1e-15)
    assert forget_terms(np.log(ratios)).tolist() == pytest.approx([0.5, 0.5, 1, 0.25], rel=1e-12)
    # After a collapse: R beyond any float.
    assert truth_on_forget([5000.0, -5000.0]) == 0
    assert truth_on_kept([5000.0, -5000.0]) == 0.5


# ---------------------------------------------------------------- utility


def test_model_utility_is_the_harmonic_mean_of_nine() -> None:
    draw = random.Random(0)
    parts = {kept: {part: draw.uniform(0.1, 1) for part in PARTS} for kept in KEPT}
    nine = [Fraction(value) for of in parts.values() for value in of.values()]
    assert model_utility(parts) == pytest.approx(float(9 / sum(1 / value for value in nine)), rel=1e-12)
    parts["world_facts"]["rouge"] = 0.0
    assert model_utility(parts) == 0
    del parts["real_authors"]["truth_ratio"]
    with pytest.raises(DataError, match="lacks truth_ratio of real_authors"):
        model_utility(parts)
    with pytest.raises(DataError, match="negative"):
        harmonic_mean([1.0, -1.0])


# ---------------------------------------------------------------- forget quality


def exact_p(one: Sequence[float], other: Sequence[float]) -> float:
    """P(D >= d) over all orders of two samples without ties, counted along the paths of a lattice."""
    n, m = len(one), len(other)

    def gap(i: int, j: int) -> int:
        return abs(i * m - j * n)

    i = j = widest = 0
    for value, mine in sorted([(v, True) for v in one] + [(v, False) for v in other]):
        del value
        i, j = i + mine, j + (not mine)
        widest = max(widest, gap(i, j))

    @cache
    def inside(i: int, j: int) -> int:
        if gap(i, j) >= widest:
            return 0
        if i == j == 0:
            return 1
        return (inside(i - 1, j) if i else 0) + (inside(i, j - 1) if j else 0)

    return float(1 - Fraction(inside(n, m), math.comb(n + m, n)))


@pytest.mark.parametrize(("n", "m", "shift"), [(8, 8, 0.0), (20, 20, 0.8), (40, 40, 0.3), (15, 40, 1.5)])
def test_forget_quality_is_the_exact_two_sample_test(n: int, m: int, shift: float) -> None:
    draw = random.Random(n + m)
    one, other = [draw.gauss(shift, 1) for _ in range(n)], [draw.gauss(0, 1) for _ in range(m)]
    assert forget_quality(one, other) == pytest.approx(exact_p(one, other), rel=1e-9)
    # The public codes test R, 1/R: the order is what counts.
    assert forget_quality(np.exp(one), np.exp(other)) == pytest.approx(forget_quality(one, other), rel=1e-9)
    assert forget_quality(np.negative(one), np.negative(other)) == pytest.approx(
        forget_quality(one, other), rel=1e-9
    )


def test_forget_quality_at_its_ends() -> None:
    same = list(range(40))
    assert forget_quality(same, same) == 1
    apart = forget_quality(same, [100.0 + x for x in same])
    assert apart == pytest.approx(2 / math.comb(80, 40), rel=1e-6)


# ---------------------------------------------------------------- memorisation

LETTERS = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@given(st.data())
def test_memorisation_by_definition(data: st.DataObject) -> None:
    answer = data.draw(LETTERS)
    greedy = data.draw(st.lists(st.integers(0, 2), min_size=len(answer), max_size=len(answer)))
    shortest = next(k for k in range(len(answer) + 1) if greedy[k:] == answer[k:])
    assert extraction_strength(greedy, answer) == pytest.approx(1 - shortest / len(answer))
    hits = [greedy[i] == answer[i] for i in range(len(answer))]
    assert exact_memorisation(greedy, answer) == fmean(hits)


def test_memorisation_by_hand() -> None:
    assert extraction_strength([9, 2, 3, 4], [1, 2, 3, 4]) == 0.75
    assert extraction_strength([1, 2, 3, 9], [1, 2, 3, 4]) == 0
    assert exact_memorisation([1, 2, 3, 9], [1, 2, 3, 4]) == 0.75
    for measure in (extraction_strength, exact_memorisation):
        assert measure([1, 2], [1, 2]) == 1
        with pytest.raises(DataError, match="2 greedy tokens for an answer of 3"):
            measure([1, 2], [1, 2, 3])
        with pytest.raises(DataError, match="0 greedy tokens for an answer of 0"):
            measure([], [])


def test_min_k() -> None:
    logps = [-1.0, -5.0, -0.5, -3.0, -2.0]
    assert min_k(logps) == -4.0  # the lowest two of five
    assert min_k(logps, 0.1) == -5.0  # one at least
    assert min_k(logps, 1.0) == pytest.approx(-2.3)
    with pytest.raises(DataError, match="share of tokens is 0"):
        min_k(logps, 0)
    with pytest.raises(DataError, match="at least one token"):
        min_k([])


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
@settings(max_examples=200)
def test_auc_counts_pairs(members: list[int], outsiders: list[int]) -> None:
    won = fmean((m > o) + (m == o) / 2 for m in members for o in outsiders)
    assert auc(members, outsiders) == pytest.approx(won, rel=1e-12)
    assert auc(members, outsiders) + auc(outsiders, members) == pytest.approx(1)


def test_privacy_leak() -> None:
    assert privacy_leak(0.5, 0.5) == 0
    assert privacy_leak(1.0, 0.5) == -100  # all is still told
    assert privacy_leak(0.25, 0.5) == pytest.approx(50)  # forgotten harder than never seen
    with pytest.raises(DataError, match="tells texts that it never saw"):
        privacy_leak(0.5, 1.0)


# ---------------------------------------------------------------- intervals


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.5, 400)
    found = interval(np.mean, values, resamples=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)
    assert interval(np.mean, values, resamples=50, seed=1) == interval(np.mean, values, resamples=50, seed=1)


def test_the_interval_of_a_harmonic_mean_of_sets_is_the_delta_methods() -> None:
    draw = np.random.default_rng(5)
    sets = [draw.uniform(0.2, 0.8, (200, 3)) for _ in range(3)]

    def utility(*of: np.ndarray) -> float:
        return harmonic_mean([float(x) for one in of for x in one.mean(axis=0)])

    found = interval(utility, *sets, resamples=3000, seed=0)
    means = np.concatenate([one.mean(axis=0) for one in sets])
    # d H / d m_i = H^2 / (9 m_i^2); the measures of a set vary together, the sets apart.
    slopes = (found.value**2 / (9 * means**2)).reshape(3, 3)
    variance = sum(s @ np.cov(one.T, bias=True) @ s / len(one) for s, one in zip(slopes, sets, strict=True))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.08)


def test_a_paired_interval_sees_the_same_questions() -> None:
    draw = np.random.default_rng(2)
    easy = draw.uniform(0, 1, 100)
    later = easy + 0.1 + draw.normal(0, 0.01, 100)
    found = paired(np.mean, [later], [easy], resamples=2000, seed=4)
    assert 0.09 < found.low < found.value < found.high < 0.11  # unpaired, it would be +- 0.08
    other = compare({"a": list(easy), "b": list(later)}, resamples=2000, seed=4)["b - a"]
    assert (found.value, found.low, found.high) == pytest.approx(tuple(other.values()), abs=5e-4)


def test_an_empty_set_has_no_interval() -> None:
    with pytest.raises(DataError, match="at least one question in each set"):
        interval(np.mean, [])
