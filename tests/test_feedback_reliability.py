"""Dawid and Skene: by hand for one step, and on people whose errors are known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from data.feedback.reliability import dawid_skene


def test_one_round_by_hand() -> None:
    """Two units, three people, two classes. Votes 0 0 1 on unit 0, and 1 1 1 on unit 1; no smoothing to speak of."""
    units, people, said = [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 1, 1]
    found = dawid_skene(units, people, said, 2, rounds=1, smoothing=0.5)
    # Start: unit 0 is class 0 with 2/3, unit 1 class 1 with 1. With 1/2 added to every count:
    # priors (2/3 + .5, 4/3 + .5) / 3. Person 0 says 0 of class 0: (2/3 + .5) / (2/3 + 1) = .7, of class 1:
    # (1/3 + .5) / (4/3 + 1) = 5/14; person 2 says 1 of class 0: .7, of class 1: (4/3 + .5) / (7/3) = 11/14.
    one = (7 / 18) * 0.7 * 0.7 * 0.7
    other = (11 / 18) * (5 / 14) * (5 / 14) * (11 / 14)
    assert found.posterior[0, 0] == pytest.approx(one / (one + other))
    # Unit 1: person 0 says 1 of class 0: .3, person 2: .7; of class 1: 9/14 and 11/14.
    one1, other1 = (7 / 18) * 0.3 * 0.3 * 0.7, (11 / 18) * (9 / 14) * (9 / 14) * (11 / 14)
    assert found.log_likelihood == pytest.approx(math.log(one + other) + math.log(one1 + other1))


@pytest.mark.parametrize("with_gold", [False, True])
def test_it_finds_who_errs_how_often(with_gold: bool) -> None:
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 2, 600)
    # The last two guess, one always says 0.
    right = [0.95, 0.9, 0.8, 0.7, 0.5]
    units, people, said = [], [], []
    for person, share in enumerate(right):
        for unit, true in enumerate(truth):
            if rng.random() < 0.7:
                units.append(unit)
                people.append(person)
                said.append(int(true if rng.random() < share else 1 - true))
    known = {unit: int(truth[unit]) for unit in range(60)} if with_gold else None
    found = dawid_skene(units, people, said, 2, known=known)
    assert found.converged
    assert found.accuracy == pytest.approx(right, abs=0.05)
    votes = np.zeros((600, 2))
    np.add.at(votes, (units, said), 1)
    decided = votes.sum(1) > 0
    majority = (votes.argmax(1) == truth)[decided].mean()
    weighted = (found.posterior.argmax(1) == truth)[decided].mean()
    assert weighted > majority + 0.02


def test_likelihood_never_falls() -> None:
    rng = np.random.default_rng(2)
    units = np.repeat(np.arange(50), 3).tolist()
    people = np.tile(np.arange(3), 50).tolist()
    said = rng.integers(0, 3, 150).tolist()
    # Without smoothing the steps are exact maximisations.
    steps = [
        dawid_skene(units, people, said, 3, rounds=n, smoothing=1e-12).log_likelihood for n in range(1, 30)
    ]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(steps))


def test_a_gold_unit_is_what_it_is() -> None:
    found = dawid_skene([0, 0, 1], [0, 1, 0], [1, 1, 0], 2, known={0: 0})
    assert found.posterior[0].tolist() == [1.0, 0.0]
    assert found.accuracy[1] < 0.1
