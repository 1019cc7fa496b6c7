"""Who can be relied on: Dawid and Skene's model of each person's errors, fitted by expectation maximisation.

A. P. Dawid and A. M. Skene, Maximum likelihood estimation of observer error-rates using the EM algorithm, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DawidSkene:
    posterior: Array
    """units x classes: how likely each class is for each unit, given all votes."""
    prior: Array
    """How frequent each class is."""
    confusion: Array
    """people x true class x class said."""
    accuracy: Array
    """people: the chance to say the true class, classes weighted by how frequent they are."""
    log_likelihood: float
    rounds: int
    converged: bool


def dawid_skene(
    units: Sequence[int],
    people: Sequence[int],
    said: Sequence[int],
    classes: int,
    *,
    known: dict[int, int] | None = None,
    smoothing: float = 0.01,
    rounds: int = 200,
    tolerance: float = 1e-8,
) -> DawidSkene:
    """Fit to triples (unit, person, class), all numbered from 0; `known` gives the true class of gold units.

    `smoothing` is added to each count: else one person who was never seen to err is taken for certain.
    """
    unit, person, label = (np.asarray(one, dtype=np.int64) for one in (units, people, said))
    if not len(unit) or not len(unit) == len(person) == len(label):
        raise ValueError("units, people and said need the same length, one or more")
    if label.min() < 0 or label.max() >= classes:
        raise ValueError(f"classes are numbered from 0 to {classes - 1}")
    n_units, n_people = int(unit.max()) + 1, int(person.max()) + 1
    fixed = dict(known or {})
    posterior = np.zeros((n_units, classes))
    np.add.at(posterior, (unit, label), 1.0)
    posterior = _normed(posterior, fixed)
    before = -np.inf
    done = 0
    for done in range(1, rounds + 1):  # noqa: B007 - how many rounds there were is part of the answer
        prior, confusion = _maximise(posterior, unit, person, label, n_people, classes, smoothing)
        logs = np.tile(np.log(prior), (n_units, 1))
        np.add.at(logs, unit, np.log(confusion[person, :, label]))
        top = logs.max(1, keepdims=True)
        likelihood = float((top[:, 0] + np.log(np.exp(logs - top).sum(1))).sum())
        posterior = _normed(np.exp(logs - top), fixed)
        if abs(likelihood - before) <= tolerance * max(1.0, abs(likelihood)):
            before = likelihood
            break
        before = likelihood
    prior, confusion = _maximise(posterior, unit, person, label, n_people, classes, smoothing)
    accuracy = cast("Array", np.einsum("pcc,c->p", confusion, prior))
    return DawidSkene(posterior, prior, confusion, accuracy, before, done, done < rounds)


def _maximise(
    posterior: Array,
    unit: NDArray[np.int64],
    person: NDArray[np.int64],
    label: NDArray[np.int64],
    n_people: int,
    classes: int,
    smoothing: float,
) -> tuple[Array, Array]:
    confusion = np.full((n_people, classes, classes), smoothing)
    # Indexed [person, :, label], numpy puts the true class last, as posterior[unit] has it.
    np.add.at(confusion.transpose(0, 2, 1), (person, label), posterior[unit])
    confusion /= confusion.sum(2, keepdims=True)
    prior = posterior.sum(0) + smoothing
    return prior / prior.sum(), confusion


def _normed(weights: Array, fixed: dict[int, int]) -> Array:
    total = weights.sum(1, keepdims=True)
    # A unit that nobody judged is equally likely to be anything.
    even = np.full_like(weights, 1 / weights.shape[1])
    found = np.divide(weights, total, out=even, where=total > 0)
    for unit, true in fixed.items():
        found[unit] = 0.0
        found[unit, true] = 1.0
    return found
