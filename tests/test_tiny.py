"""recipes/tiny.yaml from end to end, by the command a person types: every kind of stage, and a second run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.recipe import load
from pipelines.stages import KINDS

ROOT = Path(__file__).parent.parent
RECIPE = str(ROOT / "recipes" / "tiny.yaml")


def heliograph(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a folder of its own: the recipe is elsewhere, and the runs are in ./runs as for everyone."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    here = tmp_path_factory.mktemp("here")
    started = time.monotonic()
    done = heliograph("run", RECIPE, cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr
    return here / "runs", done.stdout, time.monotonic() - started


def test_it_shows_every_kind_of_stage():
    assert {stage.kind for stage in load(Path(RECIPE)).stages} == set(KINDS)


def test_it_ends_within_two_minutes(run: tuple[Path, str, float]):
    assert run[2] < 120


def test_status_says_that_all_is_done(run: tuple[Path, str, float]):
    said = heliograph("status", "tiny", "--json", cwd=run[0].parent)
    status = json.loads(said.stdout)
    assert status["run"] == "tiny"
    assert [(s["name"], s["kind"], s["state"]) for s in status["stages"]] == [
        ("sft", "sft", "done"),
        ("candidates", "sample", "done"),
        ("collect", "judge", "done"),
        ("dpo", "prefer", "done"),
        ("forget", "unlearn", "done"),
        ("merged", "merge", "done"),
        ("evaluate", "evaluate", "done"),
        ("explain", "illume", "done"),
        ("pools", "retrieve", "done"),
        ("rationales", "rationalise", "done"),
        ("groups", "radio", "done"),
        ("contrasts", "contrast", "done"),
        ("reranker", "rerank", "done"),
        ("answers", "evaluate", "done"),
    ]
    metrics = {s["name"]: s["metrics"] for s in status["stages"]}
    assert metrics["candidates"]["candidates"] == 12 * 4
    assert metrics["dpo"]["reference_gap"] == 0.0
    assert metrics["forget"]["reference_measured"] == 8
    assert metrics["explain"]["judged"] == metrics["explain"]["candidates"] > 12
    assert metrics["rationales"]["asked"] == metrics["groups"]["groups"] == 24
    assert metrics["reranker"]["groups"] == 24
    assert metrics["answers"]["counts"]["questions"] == 24
    assert metrics["sft"]["steps"] == 200


def test_training_moves_the_held_out_score_and_merging_does_not(run: tuple[Path, str, float]):
    done = json.loads((run[0] / "tiny" / "evaluate" / "done.json").read_text())["metrics"]
    assert done["sft"]["score"] > done["base"]["score"] + 0.1
    assert done["merged"]["score"] == done["dpo"]["score"]
    answers = {
        label: [json.loads(line)["answer"] for line in path.read_text().splitlines()]
        for label in ("dpo", "merged")
        for path in [run[0] / "tiny" / "evaluate" / f"answers-{label}.jsonl"]
    }
    assert answers["merged"] == answers["dpo"]


def test_the_margin_grows_from_the_reference(run: tuple[Path, str, float]):
    lines = [
        json.loads(line) for line in (run[0] / "tiny" / "dpo" / "metrics.jsonl").read_text().splitlines()
    ]
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert margins[-1] > 0.1


def test_a_second_run_redoes_nothing_and_takes_seconds(run: tuple[Path, str, float]):
    files = {p: p.stat().st_mtime_ns for p in run[0].rglob("done.json")}
    started = time.monotonic()
    again = heliograph("run", RECIPE, cwd=run[0].parent)
    assert again.returncode == 0
    assert time.monotonic() - started < 10
    assert {p: p.stat().st_mtime_ns for p in run[0].rglob("done.json")} == files


def test_a_changed_value_is_told_and_nothing_is_rebuilt(run: tuple[Path, str, float]):
    changed = heliograph("run", RECIPE, "stages.dpo.beta=0.2", cwd=run[0].parent)
    assert changed.returncode == 2
    assert "stages.dpo.beta: 0.1 -> 0.2" in changed.stderr
    assert "--from dpo" in changed.stderr
    assert "Traceback" not in changed.stderr


def test_what_an_unfinished_stage_needed_is_gone(run: tuple[Path, str, float]):
    assert list(run[0].rglob("scratch")) == []
    assert (run[0] / "tiny" / "dpo" / "model" / "policy.json").is_file()
    assert (run[0] / "tiny" / "dpo" / "ledger.json").is_file()
