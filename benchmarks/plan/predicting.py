"""The same configuration as `heliograph plan` sees it, and as it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.plan.configurations import MODELS, Configuration
from pipelines.planning import cost
from pipelines.planning.choices import setup_of
from pipelines.planning.layouts import Batch, Row, lay_out
from pipelines.planning.memory import peak
from pipelines.planning.models import Models, Start
from pipelines.planning.setup import Setup
from pipelines.planning.shapes import shape_of
from pipelines.stages.prefer import Prefer
from pipelines.stages.sft import Sft
from pipelines.stages.unlearn import Unlearn


def setup(one: Configuration) -> tuple[Setup, Batch]:
    """Through the code that a recipe's stage goes through."""
    kinds: Any = {"sft": Sft, "prefer": Prefer, "unlearn": Unlearn}
    reads = {
        "sft": {"data": "rows"},
        "prefer": {"pairs": "rows"},
        "unlearn": {"forget": "rows", "retain": "more"},
    }
    given = {"name": "stage", "kind": one.kind, "model": one.model, **reads[one.kind], **one.options}
    stage = kinds[one.kind].model_validate(given)
    rows = [Row(prompt, tuple(answers)) for prompt, answers in one.rows]
    start = Models(Path(), {}).start(one.model) if one.model not in MODELS else _made(one.model)
    found, _ = setup_of(stage, start, "cpu", max(row.longest for row in rows))
    if one.kind == "unlearn":
        rows += [Row(prompt, answers[:1]) for prompt, answers in rows]
    return found, lay_out(rows, found.engine)


def record(one: Configuration, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Prediction and measurement side by side."""
    found, batch = setup(one)
    memory = peak(found, batch)
    steps = one.options.get("gradient_accumulation_steps", 1)
    made = steps * cost.operations(found, batch)
    seconds = sorted(measured["cpu_seconds"])
    middle = seconds[len(seconds) // 2]
    return {
        "name": one.name,
        "model": one.model,
        "kind": one.kind,
        "options": one.options,
        "rows": [[prompt, *answers] for prompt, answers in one.rows],
        "parts": {name: round(value) for name, value in memory.parts.items()},
        "moment": memory.moment,
        "predicted": round(memory.total),
        "measured": measured["peak"],
        "error": round(memory.total / measured["peak"] - 1, 4),
        "program": measured["program"],
        "step_cpu_seconds": middle,
        "gflops": round(made / middle / 1e9, 1),
    }


def _made(name: str) -> Start:
    return Start(shape_of({"model_type": "llama", **MODELS[name]}, name), name, None)
