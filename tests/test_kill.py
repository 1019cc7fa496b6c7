"""kill -9 at three moments, then the same command: it goes on, and ends in the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training import pair_rows, sft_rows, weights, write_rows

ROOT = Path(__file__).parent.parent
HOOK = ROOT / "tests" / "kill_hook"

RECIPE = """
recipe: killed
defaults: {seed: 3, max_length: 64, per_device_train_batch_size: 4, save_steps: 2, logging_steps: 1}
stages:
  - {name: sft, kind: sft, model: tiny, data: sft.jsonl, learning_rate: 1e-3, max_steps: 5,
     use_peft: true, lora_r: 4, lora_dropout: 0.2}
  - {name: dpo, kind: prefer, model: sft, pairs: pairs.jsonl, learning_rate: 1e-3, max_steps: 5,
     use_peft: true, lora_r: 4, lora_dropout: 0.1}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    write_rows(folder / "sft.jsonl", sft_rows())
    write_rows(folder / "pairs.jsonl", pair_rows())
    (folder / "killed.yaml").write_text(RECIPE)
    return folder / "killed.yaml"


def command(recipe: Path, runs: Path) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--runs-dir", str(runs)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", **more}


def run(recipe: Path, runs: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, runs), cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    done = run(recipe, runs)
    assert done.returncode == 0, done.stderr
    return runs / "killed"


def assert_same(run_dir: Path, undisturbed: Path) -> None:
    for stage in ("sft", "dpo"):
        found, expected = weights(run_dir / stage / "model"), weights(undisturbed / stage / "model")
        assert found.keys() == expected.keys()
        assert expected
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_in_a_training_step(recipe: Path, undisturbed: Path, tmp_path: Path):
    """The command itself is killed; its worker must not live on."""
    metrics = tmp_path / "killed" / "dpo" / "metrics.jsonl"
    running = subprocess.Popen(
        command(recipe, tmp_path),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and running.poll() is None:
        if metrics.exists() and '"step": 3' in metrics.read_text():
            break
        time.sleep(0.002)
    assert running.poll() is None, "it ended before it could be killed"
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed" / "dpo" / "done.json").exists()

    again = run(recipe, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "going on from checkpoint-2" in again.stdout
    assert_same(tmp_path / "killed", undisturbed)


@pytest.mark.parametrize("stage", [pytest.param("sft", marks=pytest.mark.slow), "dpo"])
def test_in_a_checkpoint_write(stage: str, recipe: Path, undisturbed: Path, tmp_path: Path):
    """Weights and optimiser of step 4 are on disk, the trainer's state and the seal are not."""
    killed = run(
        recipe, tmp_path, KILL_AT=rf"/{stage}/.*checkpoint-4/trainer_state\.json", PYTHONPATH=str(HOOK)
    )
    assert killed.returncode != 0
    checkpoints = tmp_path / "killed" / stage / "scratch" / "checkpoints"
    assert (checkpoints / "checkpoint-4").is_dir()
    assert not (checkpoints / "checkpoint-4" / "sealed.json").exists()

    again = run(recipe, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "checkpoint-4 cannot be used (it was not finished)" in again.stdout
    assert "going on from checkpoint-2" in again.stdout
    assert_same(tmp_path / "killed", undisturbed)


@pytest.mark.slow
def test_between_stages(recipe: Path, undisturbed: Path, tmp_path: Path):
    killed = run(recipe, tmp_path, KILL_AT=r"/dpo/", PYTHONPATH=str(HOOK))
    assert killed.returncode != 0
    first = (tmp_path / "killed" / "sft" / "done.json").read_bytes()
    assert not (tmp_path / "killed" / "dpo" / "done.json").exists()

    again = run(recipe, tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "killed" / "sft" / "done.json").read_bytes() == first  # not made again
    assert_same(tmp_path / "killed", undisturbed)
    assert json.loads((tmp_path / "killed" / "dpo" / "done.json").read_text())["inputs"] == {
        "sft": json.loads(first)["build"]
    }
