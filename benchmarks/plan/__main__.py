"""`python -m benchmarks.plan [--json FILE] [--only NAME ...]`: what a plan predicts beside what a stage then takes.

Every configuration trains two or three steps in a process of its own, under the environment in which stages run. What
counts is the most memory it ever held over what the loaded program holds, from the model's loading to its saving.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plan.configurations import CONFIGURATIONS, Configuration, model_folder
from benchmarks.plan.predicting import record
from pipelines import machine, provenance
from pipelines.planning.measure import trials
from trainers import aliases

STEPS = 3
LARGE_STEPS = 2
"""Of a real model. The second has everything that later ones have."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the configurations")
    asked = parser.parse_args(arguments)
    chosen = [one for one in CONFIGURATIONS if not asked.only or one.name in asked.only]
    if not chosen:
        parser.error(f"there are {', '.join(one.name for one in CONFIGURATIONS)}")
    with tempfile.TemporaryDirectory() as place:
        answers = trials([_trial(one, Path(place)) for one in chosen], threads=1)
    found = summary(
        [(one, answer) for one, answer in zip(chosen, answers, strict=True) if _told(one, answer)]
    )
    print_lines(found)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _trial(one: Configuration, folder: Path) -> dict[str, Any]:
    times = one.options.get("gradient_accumulation_steps", 1)
    steps = LARGE_STEPS if aliases.is_alias(one.model) else STEPS
    options = {**one.options, "model": str(model_folder(one.model, folder)), "max_steps": steps}
    return {
        "kind": one.kind,
        "options": options,
        "rows": [[prompt, list(answers)] for prompt, answers in one.rows] * times,
    }


def _told(one: Configuration, answer: dict[str, Any]) -> bool:
    if "failed" in answer:
        raise SystemExit(f"{one.name}: exit code {answer['failed']}: {answer.get('told', '')}")
    return True


def summary(measured: Sequence[tuple[Configuration, dict[str, Any]]]) -> dict[str, Any]:
    return {
        "configurations": [record(one, answer) for one, answer in measured],
        "versions": provenance.versions(),
        "device": str(provenance.cpu_model()),
        "flags": machine.cpu_flags(),
        "commit": provenance.commit(Path(__file__).parent),
    }


def print_lines(found: dict[str, Any]) -> None:
    for one in found["configurations"]:
        print(
            f"{one['name']:36} predicted {one['predicted'] / 1e6:8,.0f} MB, measured {one['measured'] / 1e6:8,.0f} MB, "
            f"{one['error']:+6.1%}; {one['gflops']:5.1f} GFLOP/s"
        )


if __name__ == "__main__":
    main()
