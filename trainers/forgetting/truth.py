"""What TOFU measures: how well an answer is known, whether it is told from wrong ones, and if forgetting shows.

Pure functions of log-probabilities per token (`logps / length` of an answer, which is minus its mean token NLL) and
of ROUGE-L recalls. Ratios are kept as logarithms, so that an answer pushed to e^-1000 per token is still a number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import DataError
from trainers.forgetting.config import WrongMean

Floats = NDArray[np.float64]

KEPT = ("retain", "real_authors", "world_facts")
PARTS = ("probability", "rouge", "truth_ratio")


def _numbers(name: str, values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or found.size == 0:
        raise DataError(f"{name} has shape {found.shape}, not one number for each of one or more questions")
    odd = int((~np.isfinite(found)).sum())
    if odd:
        raise DataError(
            f"{name} holds {odd} values that are not finite",
            way_out="the model that was measured has weights that are not finite",
        )
    return found


def _wrong(values: Sequence[ArrayLike], right: Floats) -> list[Floats]:
    """The wrong answers of each question, which may have different numbers of them."""
    if len(values) != len(right):
        raise DataError(f"{len(right)} answers, and wrong ones for {len(values)}")
    return [_numbers("the wrong answers of a question", row) for row in values]


def per_token(logps: ArrayLike, lengths: ArrayLike) -> Floats:
    """Mean log-probability of each answer's tokens; an answer without tokens is refused."""
    counts = _numbers("lengths", lengths)
    if (counts < 1).any():
        raise DataError(f"{int((counts < 1).sum())} answers have no tokens", way_out="leave their rows out")
    return _numbers("logps", logps) / counts


# ---------------------------------------------------------------- probability


def probability(answers: ArrayLike) -> Floats:
    """P(a|q)^(1/|a|) of each answer from its mean log-probability: TOFU's probability on forget and retain sets."""
    return np.exp(_numbers("answers", answers))


def choice_probability(answers: ArrayLike, wrong: Sequence[ArrayLike]) -> Floats:
    """P(a) / (P(a) + sum of the wrong ones' P), all normalised by length: on real authors and world facts.

    In logarithms and without the 1e-10 that open-unlearning adds below the line: where every answer has become
    impossible, it still says which one is the least so.
    """
    right = _numbers("answers", answers)
    others = np.array([np.logaddexp.reduce(row) for row in _wrong(wrong, right)])
    return np.exp(right - np.logaddexp(right, others))


# ---------------------------------------------------------------- truth ratio


def log_truth_ratio(right: ArrayLike, wrong: Sequence[ArrayLike], mean: WrongMean = "geometric") -> Floats:
    """log R of each question, R = mean of the wrong answers' P / P(right), all normalised by length.

    `right` are the paraphrased answers; on real authors and world facts the answers themselves.
    """
    one = _numbers("right", right)
    others = _wrong(wrong, one)
    if mean == "geometric":
        return np.array([row.mean() for row in others]) - one
    if mean == "arithmetic":
        return np.array([np.logaddexp.reduce(row) - math.log(len(row)) for row in others]) - one
    raise ValueError(f"the mean is {' or '.join(get_args(WrongMean))}, not {mean}")


def truth_on_forget(log_ratios: ArrayLike) -> float:
    """Mean of min(R, 1/R): 1 where right and wrong answers are equally likely, so that nothing is told."""
    return float(forget_terms(log_ratios).mean())


def truth_on_kept(log_ratios: ArrayLike) -> float:
    """Mean of max(0, 1 - R): 1 where wrong answers are impossible beside the right one."""
    return float(kept_terms(log_ratios).mean())


def forget_terms(log_ratios: ArrayLike) -> Floats:
    """min(R, 1/R) of each question, for intervals."""
    return np.exp(-np.abs(_numbers("log_ratios", log_ratios)))


def kept_terms(log_ratios: ArrayLike) -> Floats:
    """max(0, 1 - R) of each question, for intervals."""
    return np.maximum(0.0, -np.expm1(np.minimum(_numbers("log_ratios", log_ratios), 0.0)))


# ---------------------------------------------------------------- the two figures of a TOFU plot


def model_utility(parts: Mapping[str, Mapping[str, float]]) -> float:
    """Harmonic mean of the nine numbers {probability, rouge, truth_ratio} x {retain, real_authors, world_facts}."""
    missing = [f"{part} of {kept}" for kept in KEPT for part in PARTS if part not in parts.get(kept, {})]
    if missing:
        raise DataError(
            f"model utility lacks {', '.join(missing)}",
            way_out=f"measure {', '.join(PARTS)} on each of {', '.join(KEPT)}",
        )
    return harmonic_mean([parts[kept][part] for kept in KEPT for part in PARTS])


def harmonic_mean(values: Sequence[float]) -> float:
    """0 where any value is 0."""
    found = _numbers("values", values)
    if (found < 0).any():
        raise DataError("a harmonic mean of negative numbers was asked for")
    return 0.0 if (found == 0).any() else float(len(found) / (1 / found).sum())


def forget_quality(log_ratios: ArrayLike, retrained: ArrayLike) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test between the truth ratios of two models on the forget set.

    `retrained` are those of a model that never saw the forget set; above 0.05 the two are not told apart. Logarithms
    do as well as ratios: the test only reads the order.
    """
    stats: Any = import_module("scipy.stats")
    with warnings.catch_warnings():
        # Where the distance is the least there can be, scipy's exact sum may exceed 1 by a rounding (5 against 5
        # questions); it then takes the limit for many, which is 1 there too.
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        tested: Any = stats.ks_2samp(_numbers("log_ratios", log_ratios), _numbers("retrained", retrained))
    return float(tested.pvalue)
