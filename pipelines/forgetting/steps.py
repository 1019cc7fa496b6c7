"""How each model came to forget, step by step, out of the unlearn stages that made it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonl import read_jsonl, replacing
from pipelines import state
from pipelines.stage import Built, Job

STEPS = "steps.json"
"""Every label's points, in the stage's folder: what a page of it needs is then all in one place."""
TRAINED = ("logps/forget", "logps/retain", "weights/forget", "loss/forget", "loss/retain", "retain_kl")
"""What each training step logs, by the keys of the trainer."""
WATCHED = ("watch/utility", "watch/repetition", "watch/entropy")
"""What is measured every `watch: {every}` steps."""


def write_steps(models: Mapping[str, str], job: Job) -> dict[str, Any]:
    """`{label: {stage, method, steps, watched}}` for the labels that an unlearn stage made, into `steps.json`."""
    found: dict[str, Any] = {}
    for label, model in models.items():
        built = unlearned(job.inputs.get(model))
        if built is not None:
            found[label] = {
                "stage": built.name,
                "method": built.config["method"],
                "retain_loss_type": built.config.get("retain_loss_type")
                if built.config.get("retain")
                else None,
                "collapsed": built.metrics.get("collapsed"),
                "utility_start": built.metrics.get("utility_start"),
                **points(built.path / state.METRICS),
            }
    job.out.mkdir(parents=True, exist_ok=True)
    with replacing(job.out / STEPS) as file:
        file.write(json.dumps(found, indent=1).encode() + b"\n")
    return found


def unlearned(built: Built | None) -> Built | None:
    """The last unlearn stage on the way to a model: itself, or what a merge or another training started from."""
    while built is not None and built.kind != "unlearn":
        below: object = built.config.get("model")
        folder = built.path.parent
        known = isinstance(below, str) and (folder / below / state.DONE).is_file()
        built = state.built(folder, str(below)) if known else None
    return built


def points(file: Path) -> dict[str, list[dict[str, float]]]:
    """Training steps and measurements of one log. Of a step that is told twice, after a resume, the last counts."""
    steps: dict[int, dict[str, float]] = {}
    watched: dict[int, dict[str, float]] = {}
    if not file.is_file():
        raise DataError(
            "the log of an unlearn stage is gone", where=str(file), way_out="build the stage again"
        )
    for line in read_jsonl(file, torn="skip"):
        step: object = line.get("step")
        if not isinstance(step, int):
            continue
        for keys, into in ((TRAINED, steps), (WATCHED, watched)):
            values = {key: float(line[key]) for key in keys if _number(line.get(key))}
            if values:
                into[step] = {"step": step, **values}
    return {"steps": [steps[i] for i in sorted(steps)], "watched": [watched[i] for i in sorted(watched)]}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
