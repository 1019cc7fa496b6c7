"""A run made by hand for the tests of the report: five stages with every file that the page reads, figures known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.ledger import Ledger
from pipelines import state
from pipelines.recipe import load, resolved, to_json
from pipelines.staleness import input_files

RECIPE = """\
recipe: demo
description: DESCRIPTION
stages:
  - name: sft
    kind: sft
    model: tiny
    data: rows.jsonl
  - name: candidates
    kind: sample
    model: sft
    prompts: prompts.jsonl
  - name: collect
    kind: judge
    candidates: candidates
    critic:
      kind: rubric
      checks: [{check: max_words, words: 3}]
  - name: dpo
    kind: prefer
    model: sft
    pairs: collect
    beta: 0.1
  - name: evaluate
    kind: evaluate
    models: {before: sft, after: dpo}
    prompts: prompts.jsonl
    critic:
      kind: rubric
      checks: [{check: max_words, words: 3}]
"""
LN2 = math.log(2)
LOSSES = [0.6817, 0.5523, 0.4391, 0.3012]
PAIR = {
    "prompt": "Say where the harbour is.",
    "chosen": "By the old mill.",
    "rejected": "The harbour is, as everybody knows, by the old mill.",
    "score_chosen": 0.9375,
    "score_rejected": 0.3125,
    "margin": 0.625,
    "id": "p0",
    "chosen_index": 1,
    "rejected_index": 0,
}
ANSWERS = {
    "before": [("It is a long way to the harbour", 0.25), ("Nobody knows", 0.5)],
    "after": [("It is a short way to the harbour", 0.75), ("Ask the miller", 1.0)],
}


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def steps(losses: Iterable[float] = LOSSES) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"event": "first_loss", "step": 0, "first_loss": 0.693151, "expected_first_loss": LN2}
    ]
    for i, loss in enumerate(losses, start=1):
        lines.append(
            {
                "step": 5 * i,
                "loss": loss,
                "rewards/margins": 0.5 * i,
                "rewards/chosen": 0.1 * i,
                "rewards/rejected": -0.4 * i,
                "rewards/accuracies": 0.5 + 0.125 * i,
                "logps/chosen": -40.5 - i,
                "logps/rejected": -50.25 - 4 * i,
                "grad_norm": 1.5,
            }
        )
    return lines


def ledger() -> dict[str, Any]:
    made = Ledger(name="train")
    made.count_read("rows.jsonl", 1234)
    for i in range(4):
        made.drop("the answer is empty", f"rows.jsonl:{i + 7}")
    for _ in range(1230):
        made.keep(length=90, tokens=90, loss_tokens=30)
    made.cut_row(17)
    return {"train": made.to_json()}


METRICS: dict[str, dict[str, Any]] = {
    "sft": {"rows": 1230, "steps": 20, "train_loss": 1.2345},
    "candidates": {"prompts": 2, "candidates": 8},
    "collect": {
        "prompts": 2,
        "pairs": 1,
        "no_margin": 1,
        "identical": 0,
        "unjudged": 0,
        "mean_margin": 0.625,
    },
    "dpo": {
        "rows": 1,
        "steps": 20,
        "train_loss": 0.4936,
        "rewards/margins": 2.0,
        "first_loss": 0.693151,
        "expected_first_loss": LN2,
    },
    "evaluate": {
        "before": {"prompts": 2, "score": 0.375, "parts": {"max_words": 0.375}, "words": 4.5, "cut": 0.5},
        "after": {"prompts": 2, "score": 0.875, "parts": {"max_words": 0.875}, "words": 4.0, "cut": 0.0},
        "score": "before 0.375 -> after 0.875",
        "differences": {"after - before": {"mean": 0.5, "low": 0.4375, "high": 0.5625}},
        "overlap": {"sft": {"prompts": 2, "exact": 1, "near": 0}},
    },
}
SECONDS = {"sft": 61.0, "candidates": 4.2, "collect": 0.1, "dpo": 125.0, "evaluate": 9.0}


def write_run(
    folder: Path,
    *,
    name: str = "demo",
    recipe: str = RECIPE,
    until: str | None = None,
    metrics: Mapping[str, Mapping[str, Any]] = METRICS,
    description: str = "A run made by hand",
    answers: Mapping[str, list[tuple[str, float]]] = ANSWERS,
    pairs: Iterable[Mapping[str, Any]] = (PAIR,),
    losses: Iterable[float] = LOSSES,
    prompt: str = "Where is the harbour?",
) -> Path:
    """The run's folder. `until`: the first stage that is not there."""
    home = folder / "recipes"
    home.mkdir(parents=True, exist_ok=True)
    jsonl(home / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    jsonl(home / "prompts.jsonl", [{"prompt": prompt}])
    path = home / f"{name}.yaml"
    path.write_text(recipe.replace("DESCRIPTION", json.dumps(description)), encoding="utf-8")
    loaded = load(path, ())
    run = folder / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    state.write_json(run / state.RECIPE, to_json(loaded))
    jsonl(
        run / state.COMMANDS,
        [{"time": "2026-11-20T09:00:00+00:00", "command": "heliograph run demo.yaml", "cwd": "/home/ada"}],
    )
    builds: dict[str, str] = {}
    names: set[str] = set()
    for place, stage in enumerate(loaded.stages):
        if stage.name == until:
            break
        config = state.plain(resolved(stage))
        builds[stage.name] = f"{place:012x}"
        (run / stage.name).mkdir(exist_ok=True)
        state.write(
            run / stage.name / state.DONE,
            state.Done(
                name=stage.name,
                kind=config["kind"],
                build=builds[stage.name],
                config=config,
                inputs={one: build for one, build in builds.items() if one != stage.name},
                files=input_files(stage, loaded.base, names),
                started="2026-11-20T09:00:00+00:00",
                resolved={"dtype": {"value": "float32", "why": "no GPU is here"}},
                metrics=dict(metrics.get(stage.name, {})),
                versions={"heliograph": "0.1.0", "torch": "2.13.0"},
                device="cpu: a slow one",
                commit={"id": "0123456789abcdef0123", "dirty": True},
                finished="2026-11-20T09:10:00+00:00",
                seconds=SECONDS[stage.name],
                peak_memory={"rss": 1_500_000_000},
            ),
        )
        names.add(stage.name)
    if "sft" in builds:
        jsonl(run / "sft" / state.METRICS, [{"step": 5 * i, "loss": 3.0 / i} for i in range(1, 5)])
        state.write_json(run / "sft" / state.LEDGER, ledger())
    if "collect" in builds:
        jsonl(run / "collect" / "rows.jsonl", pairs)
        jsonl(
            run / "collect" / "judged.jsonl",
            [
                {
                    "id": "p0",
                    "index": 0,
                    "text": PAIR["rejected"],
                    "score": 0.3125,
                    "parts": {"max_words": 0.3125},
                },
                {
                    "id": "p0",
                    "index": 1,
                    "text": PAIR["chosen"],
                    "score": 0.9375,
                    "parts": {"max_words": 0.9375},
                },
            ],
        )
    if "dpo" in builds:
        jsonl(run / "dpo" / state.METRICS, steps(losses))
    if "evaluate" in builds:
        for label, given in answers.items():
            jsonl(
                run / "evaluate" / f"answers-{label}.jsonl",
                [
                    {"id": f"q{i}", "prompt": prompt, "answer": text, "score": score}
                    for i, (text, score) in enumerate(given)
                ],
            )
    return run
