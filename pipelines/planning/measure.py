"""`heliograph plan --measure`: a few real steps of a stage in a process of its own, beside what was predicted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from data.errors import RunError
from pipelines.launch import environment
from pipelines.planning.estimate import Estimate
from pipelines.progress import duration
from pipelines.stage import Stage

STEPS = 3
SECONDS = 1800


@dataclass(frozen=True)
class Measured:
    """What a stage took."""

    peak: float = 0.0
    program: float = 0.0
    seconds: float = 0.0
    """Of a step over the heaviest batch."""
    failed: str | None = None

    def lines(self, found: Estimate) -> Iterator[str]:
        if self.failed is not None:
            yield f"  measured: {self.failed}"
            return
        total = self.peak + self.program
        off = found.total / total - 1
        whole = f", at most {duration(self.seconds * found.steps.total)} in all" if found.steps else ""
        yield (
            f"  measured: peak {total / 1e9:.2f} GB (predicted {off:+.0%}), "
            f"{self.seconds:.2f} s a step of the heaviest batch{whole}"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "program": self.program,
            "step_seconds": self.seconds,
            "failed": self.failed,
        }


def measure(found: Estimate, start: str) -> Measured:
    """Three steps over made-up tokens as long as the heaviest batch. `start`: the model as the stage would get it."""
    stage: Any = found.stage
    kind = str(stage.kind)
    rows = [[row.prompt, list(row.answers)] for row in found.heaviest]
    if kind == "unlearn" and stage.retain is not None:
        rows = rows[: len(rows) // 2]
    asked = {
        "kind": kind,
        "options": options_of(found.stage, start),
        "rows": rows * stage.gradient_accumulation_steps,
    }
    answer = trials([asked])[0]
    if "failed" in answer:
        return Measured(
            failed=f"the process ended with exit code {answer['failed']}; {answer.get('told', '')}"
        )
    each = cast("list[float]", answer["seconds"])
    middle = sorted(each)[len(each) // 2] if each else 0.0
    return Measured(float(answer["peak"]), float(answer["program"]), middle)


def options_of(stage: Stage, start: str) -> dict[str, Any]:
    """The stage's settings as its options class takes them, for a few steps."""
    from trainers.config import PreferOptions, SftOptions, UnlearnOptions

    kinds = {"sft": SftOptions, "prefer": PreferOptions, "unlearn": UnlearnOptions}
    names = kinds[str(getattr(stage, "kind", ""))].model_fields
    given = stage.model_dump(mode="json", include=set(names))
    return {**given, "model": start, "max_steps": STEPS, "report_to": []}


def trials(asked: Sequence[Mapping[str, Any]], threads: int | None = None) -> list[dict[str, Any]]:
    """Each in a process of its own, under the environment in which stages run."""
    env = environment()
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    given = json.dumps({"trials": list(asked), "threads": int(env["OMP_NUM_THREADS"])})
    command = [sys.executable, "-m", "pipelines.planning.trial"]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, env=env, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise RunError(f"no step could be measured: {fault}") from fault
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(found) != len(asked):
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise RunError(
            f"no step could be measured: {last[0]}", way_out="heliograph doctor shows what loads here."
        )
    words = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:]
    return [{**one, "told": words[0] if words else ""} if "failed" in one else one for one in found]
