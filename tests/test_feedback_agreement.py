"""Agreement: published examples, their arithmetic written out, and slow definitions to check the fast ones by."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.feedback.agreement import (
    Level,
    alpha_interval,
    binomial_test,
    chi_square_tail,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    position_bias,
    wilson_interval,
)

N = math.nan
# Four observers, twelve units: the reliability matrix of Krippendorff's "Computing Krippendorff's Alpha-Reliability".
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


def naive_alpha(ratings: list[list[float]], level: Level) -> float:
    """From the definition: mean distance of pairs within units over that of all pairs of pairable values."""
    units = [[row[u] for row in ratings if not math.isnan(row[u])] for u in range(len(ratings[0]))]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    n = Counter(values)

    def distance(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        between = sum(count for value, count in n.items() if min(a, b) <= value <= max(a, b))
        return (between - (n[a] + n[b]) / 2) ** 2

    observed = sum(sum(distance(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum(distance(a, b) for a, b in permutations(values, 2)) / (len(values) - 1)
    return 1 - observed / expected if expected else N


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_krippendorffs_own_example(level: Level, published: float) -> None:
    found = krippendorff_alpha(KRIPPENDORFF, level)
    assert round(found, 3) == published
    assert found == pytest.approx(naive_alpha(KRIPPENDORFF, level), abs=1e-12)


def test_alpha_by_hand() -> None:
    # Units aa, ab, bb: coincidences aa 2, ab 1, ba 1, bb 2; n = 6, n_a = n_b = 3.
    # Observed disagreement 2 / 6; expected 2 * 3 * 3 / (6 * 5) = 18 / 30. Alpha 1 - (1/3) / (3/5) = 4/9.
    assert krippendorff_alpha([[0, 0, 1], [0, 1, 1]]) == pytest.approx(4 / 9)


def test_alpha_is_undefined_where_nothing_can_disagree() -> None:
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert math.isnan(krippendorff_alpha([[1, N], [N, 2]]))
    assert math.isnan(alpha_interval([[1, 1], [1, 1]]).low)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([N, 0.0, 1.0, 2.5, 7.0]), min_size=5, max_size=5), min_size=2, max_size=4
    ),
    st.sampled_from(["nominal", "ordinal", "interval"]),
)
def test_alpha_is_its_definition(ratings: list[list[float]], level: Level) -> None:
    found = krippendorff_alpha(ratings, level)
    if any(sum(not math.isnan(row[u]) for row in ratings) > 1 for u in range(5)):
        assert found == pytest.approx(naive_alpha(ratings, level), abs=1e-9, nan_ok=True)
    else:
        assert math.isnan(found)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Two people who see a fair coin and each err in 1 of 10: agreement .82, expected .5, alpha .64."""
    rng = np.random.default_rng(5)
    inside = 0
    for study in range(100):
        truth = rng.integers(0, 2, 200)
        ratings = [np.where(rng.random(200) < 0.1, 1 - truth, truth) for _ in range(2)]
        found = alpha_interval(ratings, samples=200, seed=study)
        assert found.low <= found.value <= found.high
        inside += found.low <= 0.64 <= found.high
    # 95 expected; fewer than 88 happen in about 1 of 500 runs, and the seed is fixed.
    assert 88 <= inside <= 100


def test_units_of_one_item_are_drawn_together() -> None:
    """Ten copies of each unit tell nothing more: the interval over groups stays that of the single units."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, (2, 40)).astype(float)
    single = alpha_interval(base, seed=3)
    copies = alpha_interval(np.repeat(base, 10, axis=1), groups=list(np.repeat(np.arange(40), 10)), seed=3)
    pretended = alpha_interval(np.repeat(base, 10, axis=1), seed=3)
    assert copies.high - copies.low == pytest.approx(single.high - single.low, rel=0.1)
    assert pretended.high - pretended.low < 0.5 * (single.high - single.low)


def test_cohens_kappa() -> None:
    # 50 grants: both yes 20, only A 5, only B 10, both no 15. Observed 35/50; A yes .5, B yes .6:
    # expected .5 * .6 + .5 * .4 = .5. Kappa (.7 - .5) / (1 - .5) = .4.
    one = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15
    other = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    assert cohen_kappa(one, other, "linear") == pytest.approx(0.4)  # two values: weights change nothing
    # 0, 1, 2 against 0, 1, 1: costs (quadratic) observed 1/3. Marginals 1/3 each; 1/3, 2/3, 0: expected
    # (0*1/9 + 1*2/9) + (1*1/9 + 0*2/9) + (4*1/9 + 1*2/9) = 9/9 = 1. Kappa 1 - 1/3.
    assert cohen_kappa([0, 1, 2], [0, 1, 1], "quadratic") == pytest.approx(2 / 3)
    assert cohen_kappa([0, 1, N, 2], [0, 1, 1, N]) == 1.0
    assert math.isnan(cohen_kappa([1, 1], [1, 1]))


def test_fleiss_kappa() -> None:
    # Fleiss' table as textbooks give it: 10 units, 14 raters, 5 classes; kappa .210.
    table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert round(fleiss_kappa(table), 3) == 0.210
    agreeing = sum(c * (c - 1) for row in table for c in row) / (10 * 14 * 13)
    chance = sum((sum(row[k] for row in table) / 140) ** 2 for k in range(5))
    assert fleiss_kappa(table) == pytest.approx((agreeing - chance) / (1 - chance))
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([[2, 0], [1, 0]])


def test_the_binomial_test_is_a_sum() -> None:
    # 9 of 10: 2 * (10 + 1) / 1024.
    assert binomial_test(9, 10) == pytest.approx(22 / 1024)
    assert binomial_test(5, 10) == 1.0
    assert binomial_test(0, 0) == 1.0
    for trials in (7, 30, 1500):
        for successes in (0, trials // 3, trials // 2, trials):
            far = max(successes, trials - successes)
            tail = sum(math.comb(trials, k) for k in range(far, trials + 1))
            exact = min(
                1.0, float(2 * tail / 2**trials) if trials < 900 else (2 * tail * 10**30 // 2**trials) / 1e30
            )
            assert binomial_test(successes, trials) == pytest.approx(exact, rel=1e-9, abs=1e-25)


def test_chi_square_as_in_the_tables() -> None:
    # The 5 % points of any printed table.
    for degrees, point in [(1, 3.841), (2, 5.991), (3, 7.815), (4, 9.488), (9, 16.919), (10, 18.307)]:
        assert chi_square_tail(point, degrees) == pytest.approx(0.05, abs=2e-4)
    assert chi_square_tail(2.0, 2) == pytest.approx(math.exp(-1))
    assert chi_square_tail(0.0, 3) == 1.0


def test_position_bias() -> None:
    assert position_bias([9, 1]).p_value == pytest.approx(22 / 1024)
    assert position_bias([9, 1]).test == "exact binomial"
    # 20, 10, 0 against 10 each: (100 + 0 + 100) / 10 = 20, and exp(-20 / 2).
    found = position_bias([20, 10, 0])
    assert (found.test, found.p_value) == ("chi-square", pytest.approx(math.exp(-10)))
    assert found.shares == pytest.approx([2 / 3, 1 / 3, 0])
    assert position_bias([0, 0, 0]).p_value == 1.0


def test_wilsons_interval() -> None:
    # 8 of 10 at 95 %: (.8 + z²/20 ± z sqrt(.016 + z²/400)) / (1 + z²/10) with z = 1.959964.
    z = 1.959963984540054
    middle, half, scale = 0.8 + z * z / 20, z * math.sqrt(0.016 + z * z / 400), 1 + z * z / 10
    found = wilson_interval(8, 10)
    assert (found.low, found.high) == (
        pytest.approx((middle - half) / scale),
        pytest.approx((middle + half) / scale),
    )
    assert (round(found.low, 3), round(found.high, 3)) == (0.490, 0.943)
    assert wilson_interval(10, 10).high == 1.0
    assert math.isnan(wilson_interval(0, 0).value)


def test_alpha_of_pairs_alone_is_one_minus_the_share_that_differs_over_chance() -> None:
    """For two raters without gaps, nominal: 1 - D_o / D_e from a Counter of pairs."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    pool: Any = Counter([*a.tolist(), *b.tolist()])
    expected = 2 * sum(x * y for x, y in combinations(pool.values(), 2)) / (100 * 99)
    assert krippendorff_alpha([a, b]) == pytest.approx(1 - float((a != b).mean()) / expected)
