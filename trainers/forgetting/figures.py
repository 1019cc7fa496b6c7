"""Figures of forgetting with intervals, from the rows that each model left: TOFU's and those of memorisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from data.errors import DataError
from trainers.forgetting import truth as forgetting
from trainers.forgetting.memorisation import auc, privacy_leak
from trainers.forgetting.resampling import interval
from trainers.forgetting.truth import KEPT, PARTS, Floats, WrongMean

Rows = Sequence[Mapping[str, Any]]
Interval = dict[str, Any]
"""`value`, `low` and `high`: the middle 95 % of the resampled values. None where a resample has no value."""
MEMORY = ("extraction_strength", "exact_memorisation", "min_k")


def of_set(rows: Rows, name: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["set"] == name]


def column(rows: Rows, name: str) -> Floats:
    return np.array([row[name] for row in rows], dtype=np.float64)


def log_ratios(rows: Rows, mean: WrongMean) -> Floats:
    return forgetting.log_truth_ratio(column(rows, "right_logp"), [row["wrong_logps"] for row in rows], mean)


def terms(rows: Rows, name: str, mean: WrongMean) -> Floats:
    """[questions, (probability, rouge, truth ratio)], each question's part of the three means of a set."""
    answers, ratios = column(rows, "logp"), log_ratios(rows, mean)
    if name in ("forget", "retain"):
        known = forgetting.probability(answers)
    else:
        known = forgetting.choice_probability(answers, [row["wrong_logps"] for row in rows])
    told = forgetting.forget_terms(ratios) if name == "forget" else forgetting.kept_terms(ratios)
    return np.stack([known, column(rows, "rouge"), told], axis=1)


def utility(*sets: Floats) -> float:
    """Harmonic mean of the three means of every set: TOFU's model utility where all three sets are there."""
    return forgetting.harmonic_mean([float(value) for one in sets for value in one.mean(axis=0)])


def figures(
    rows: Rows, retrained: Rows | None, mean: WrongMean, *, resamples: int, seed: int
) -> dict[str, Any]:
    """All figures of one model. What cannot be had is None, and `without` says why."""

    def known(statistic: Callable[..., float], *sets: Any) -> Interval:
        return asdict(interval(statistic, *sets, resamples=resamples, seed=seed))

    kept = [name for name in KEPT if of_set(rows, name)]
    by_set = {name: terms(of_set(rows, name), name, mean) for name in ("forget", *kept)}
    forget, holdout = of_set(rows, "forget"), of_set(rows, "holdout")
    found: dict[str, Any] = {
        "forget_quality": None,
        "utility": known(utility, *(by_set[name] for name in kept)),
        "utility_over": kept,
        "sets": {
            name: {part: known(np.mean, values[:, i]) for i, part in enumerate(PARTS)}
            | {"questions": len(values)}
            for name, values in by_set.items()
        },
        **{name: known(np.mean, column(forget, name)) for name in MEMORY},
        "auc": None,
        "privacy_leak": None,
        "without": {},
    }
    lacks: dict[str, str] = found["without"]
    if kept != list(KEPT):
        lacks["utility"] = f"over {', '.join(kept)} alone, so it is not TOFU's model utility"
    if retrained is None:
        lacks["forget_quality"] = "no `retrained` model: name one that never saw the forget rows"
    else:
        both = [log_ratios(one, mean) for one in (forget, of_set(retrained, "forget"))]
        # Both models answered the same questions: a resample takes a question with both of its ratios.
        found["forget_quality"] = known(
            lambda one: forgetting.forget_quality(one[:, 0], one[:, 1]), np.stack(both, 1)
        )
    if not holdout:
        lacks["auc"] = lacks["privacy_leak"] = "no `holdout` set to tell the forget rows from"
        return found
    found["auc"] = known(auc, column(forget, "min_k"), column(holdout, "min_k"))
    if retrained is None:
        lacks["privacy_leak"] = lacks["forget_quality"]
        return found
    sets = [
        np.stack([column(of_set(one, name), "min_k") for one in (rows, retrained)], axis=1)
        for name in ("forget", "holdout")
    ]
    try:
        found["privacy_leak"] = {"value": _leak(*sets), "low": None, "high": None}
        found["privacy_leak"] = known(_leak, *sets)
    except DataError as fault:
        had = "its interval is not had: in some resample " if found["privacy_leak"] else ""
        lacks["privacy_leak"] = f"{had}{fault.what}; {fault.way_out}"
    return found


def _leak(forget: Floats, holdout: Floats) -> float:
    """Columns: the model, and the retrained one."""
    ours, theirs = (auc(forget[:, i], holdout[:, i]) for i in (0, 1))
    return privacy_leak(ours, theirs)


def shown(found: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A figure as a table has it; a dash for what cannot be had."""
    if found is None:
        return "–"
    value = found["value"]
    return f"{value:.1e}" if 0 < abs(value) < 10**-digits else f"{value:.{digits}f}"
