"""Runs made by hand for the tests of the run engine: a `sample` stage that is done, and a cheap `judge` after it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipelines import state
from pipelines.recipe import load, resolved
from pipelines.staleness import input_files

ROOT = Path(__file__).parent.parent
RECIPE = """\
recipe: demo
stages:
  - name: answers
    kind: sample
    model: tiny
    prompts: prompts.jsonl
    batch_size: 4
  - name: pick
    kind: judge
    candidates: answers
    critic:
      kind: rubric
      checks: [{check: regex, pattern: good}]
"""
VOTES_RECIPE = RECIPE.replace(
    "      kind: rubric\n      checks: [{check: regex, pattern: good}]\n",
    "      kind: file\n      path: votes.jsonl\n",
)
BUILD = "0123456789ab"


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text('{"prompt": "Say something good."}\n')
    path = folder / "demo.yaml"
    path.write_text(text)
    return path


def candidates(count: int = 3, length: int = 0) -> list[dict[str, object]]:
    pad = "x" * length
    texts = [(f"good {i} {pad}", f"bad {pad}") for i in range(count)]
    return [
        {"id": f"p{i}", "prompt": "Say something good.", "candidates": [{"text": text} for text in pair]}
        for i, pair in enumerate(texts)
    ]


def give_answers(
    recipe: Path, runs_dir: Path, rows: list[dict[str, object]] | None = None, build: str = BUILD
) -> Path:
    """The `sample` stage as it would lie there, had a model answered; returns the run's folder."""
    loaded = load(recipe, ())
    stage = loaded.stages[0]
    folder = runs_dir / loaded.name / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row) + "\n" for row in (candidates() if rows is None else rows))
    (folder / "rows.jsonl").write_text("".join(lines))
    done = state.Done(
        name=stage.name,
        kind="sample",
        build=build,
        config=state.plain(resolved(stage)),
        files=input_files(stage, loaded.base, set()),
        started=state.now(),
        metrics={"rows": 3},
        finished=state.now(),
        seconds=1.5,
    )
    state.write(folder / state.DONE, done)
    return folder.parent


def environment() -> dict[str, str]:
    """That of these tests, with the package to be found from any folder."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def heliograph(
    *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command, as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        cwd=cwd,
        env=environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def started(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """The command, still at work."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listening,
    )


def listening() -> None:
    """A shell starts background jobs deaf to Ctrl-C, and these tests may be part of one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def cpu_seconds_of_children() -> float:
    """Processor time of all commands run so far; on a machine that others use too, what a command takes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def until(happened: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def workers_of(run_dir: Path) -> list[int]:
    """Worker processes of this run folder, by their command line and folder; a zombie has neither."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text().split("\0")
                if "pipelines.worker" in words and (entry / "cwd").resolve() / words[3] == run_dir:
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
    return found
