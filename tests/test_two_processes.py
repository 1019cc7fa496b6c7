"""Two processes over gloo make the steps that one process makes at the same global batch, and share one reference."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.errors import TrainingError
from data.ledger import LedgerLimits
from data.sources import Mixture
from tests import going_back_together
from tests.conformance import prepared
from tests.training import run_sft, weights, write_rows
from trainers.config import SftOptions
from trainers.engine.batches import answers
from trainers.store.tokens import TokenStore, key
from trainers.training import checkpoints
from trainers.training.prepare import load_rows, prepare_sft
from trainers.work import Work

STEPS = 2
GLOBAL = 4
"""Rows of a micro-batch over all processes."""


def ragged_rows(judged: bool) -> list[dict[str, Any]]:
    """Answers from one word to twenty, weights from 0 to 3, prompts that come again."""
    rows = []
    for i in range(4 * GLOBAL * STEPS):
        prompt = [{"role": "user", "content": f"How many is {i % 11}?"}]
        texts = " ".join(["so"] * (1 + i * i % 19)) + f" {i}.", "no" * (1 + 5 * i % 7)
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in texts)
        row = {"prompt": prompt, "agreement": (i % 7) / 2}
        answer = chosen if i % 3 else rejected
        rows.append(
            {**row, "completion": answer, "label": bool(i % 3)}
            if judged
            else {**row, "chosen": chosen, "rejected": rejected}
        )
    return rows


CASES: dict[str, dict[str, Any]] = {
    "sigmoid": {"loss_type": "sigmoid", "use_peft": True, "lora_r": 4},
    "likelihood": {"loss_type": "ipo", "sft_weight": 0.5, "beta": 0.3},
    "weights": {"loss_type": "apo_zero", "sft_weight": 0.5, "weight_column": "agreement"},
    "kto": {"loss_type": "kto", "beta": 0.3, "desirable_weight": 1.5},
    "orpo": {"loss_type": "orpo", "use_peft": True},
    "padded": {"loss_type": ["sigmoid", "sft"], "engine": "padded", "weight_column": "agreement"},
}

SFT: dict[str, dict[str, Any]] = {"sft": {}, "sft-lora": {"use_peft": True, "lora_r": 4}}
"""On rows whose answers are from one token to many: a mean over tokens is none over rows."""
WITHOUT: set[str] = {"orpo", *SFT}
"""Those that need no reference."""


def both(folder: Path, names: list[tuple[str, int]], *, together: Sequence[dict[str, Any]] = ()) -> None:
    """Train every case as one process and as two, from the same tokenised rows; stages `together` as two only."""
    jobs: list[dict[str, Any]] = [{"world": 1, "stages": []}, {"world": 2, "stages": [*together]}]
    for name, accumulation in names:
        given = {
            **(SFT | CASES)[name],
            "gradient_accumulation_steps": accumulation,
            "max_steps": STEPS,
            "learning_rate": 0.5,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            # Adam divides by the gradient's size, and makes a whole step of its rounding error.
            "training": {"optim": "sgd"},
        }
        rows = folder / f"rows-{name}-{accumulation}"
        # KTO's mismatches are drawn within a batch: both runs get those of two rows.
        half = {**given, "per_device_train_batch_size": GLOBAL // 2}
        if name in SFT:
            prepared_for_sft(rows, half)
        else:
            prepared(rows, ragged_rows(name == "kto"), **half)
        for job in jobs:
            out = folder / f"{name}-{accumulation}-{job['world']}"
            shutil.copytree(rows, out)
            options = {"model": "tiny", **given, "per_device_train_batch_size": GLOBAL // job["world"]}
            options["gradient_checkpointing"] = False
            kept = str(folder / f"store-{job['world']}")
            kind = "sft" if name in SFT else "prefer"
            stage = {"kind": kind, "out": str(out), "store": kept, "options": options}
            job["stages"].append(stage)
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_processes", str(file)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def prepared_for_sft(folder: Path, given: dict[str, Any]) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in ragged_rows(True)]
    folder.mkdir(parents=True)
    file = write_rows(folder / "rows.jsonl", rows)
    options = SftOptions(model="tiny", **given)
    work = Work(folder, say=lambda _: None)
    prepare_sft(options, "tiny", Mixture.model_validate(str(file)), None, folder, LedgerLimits(), work)


def told(folder: Path, name: str, accumulation: int, world: int) -> list[dict[str, Any]]:
    file = folder / f"{name}-{accumulation}-{world}" / "told-0.json"
    return [line for line in json.loads(file.read_text())["lines"] if "loss" in line]


def check(folder: Path, name: str, accumulation: int) -> None:
    one, two = (told(folder, name, accumulation, world) for world in (1, 2))
    assert len(one) == len(two) == STEPS
    for alone, together in zip(one, two, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
        assert set(together) == set(alone)
        watched = {figure for figure in alone if figure.startswith("watch/")}
        for figure in {"rewards/margins", "logps/chosen", "logps/rejected", *watched} & set(alone):
            assert together[figure] == pytest.approx(alone[figure], rel=1e-4, abs=1e-5), figure
        if name == "kto":
            assert together["kl"] == pytest.approx(alone["kl"], rel=1e-4, abs=1e-6)
    assert abs(one[0]["loss"] - one[1]["loss"]) > 1e-3  # it learned: the second step is of other weights
    finals = [weights(folder / f"{name}-{accumulation}-{world}" / "model") for world in (1, 2)]
    assert set(finals[0]) == set(finals[1])
    for tensor, alone in finals[0].items():
        far = (alone.double() - finals[1][tensor].double()).norm() / alone.double().norm()
        assert far < 1e-5, tensor


def check_store(folder: Path, name: str, accumulation: int) -> None:
    """Each answer is there whichever process measured it, with the value that one process finds."""
    rows = load_rows(folder / f"rows-{name}-{accumulation}")[0]
    keys = {key(prompt, one) for prompt, several in map(answers, rows) for one in several}  # pyright: ignore
    engine = CASES[name].get("engine", "tree")
    alone, together = (store(folder / f"store-{world}" / "references", engine) for world in (1, 2))
    assert len(keys) > 20
    assert not together.missing(keys)
    assert len(together) == len(alone)
    assert not together.faults()
    for one in keys:
        assert together.read(one) == pytest.approx(alone.read(one), abs=1e-5)
    assert len(list(together.folder.glob("*.tokens"))) >= 2 * len(list(alone.folder.glob("*.tokens")))


def store(folder: Path, engine: str) -> TokenStore:
    for file in folder.glob("*/identity.json"):
        identity = json.loads(file.read_text())["identity"]
        if identity["engine"] == engine:
            return TokenStore(folder, identity)
    raise AssertionError(f"no store of the engine {engine} in {folder}")


def all_alike(folder: Path, names: list[tuple[str, int]], *, together: Sequence[dict[str, Any]] = ()) -> None:
    both(folder, names, together=together)
    for name, accumulation in names:
        check(folder, name, accumulation)
        if name not in WITHOUT:
            check_store(folder, name, accumulation)


def test_two_processes_are_one(tmp_path: Path) -> None:
    watched = going_back_together.stage(tmp_path / "watched", ragged_rows(False))
    all_alike(tmp_path, [("weights", 4), ("kto", 1), ("sft", 4)], together=[watched])
    going_back_together.check(tmp_path / "watched")


@pytest.mark.slow
def test_two_processes_are_one_for_every_loss(tmp_path: Path) -> None:
    all_alike(tmp_path, [(name, accumulation) for name in CASES | SFT for accumulation in (1, 4)])


def test_checkpoints_of_another_number_of_processes_are_refused(tmp_path: Path) -> None:
    """The batch of a step is per process: going on would be with other rows than were asked for."""
    run_sft(tmp_path, max_steps=2, save_steps=1)
    (newest,) = (tmp_path / "scratch" / "checkpoints").glob("checkpoint-2")
    (newest / checkpoints.SEAL).unlink()
    checkpoints.seal(newest, 2)  # as two processes leave it
    with pytest.raises(TrainingError) as caught:
        run_sft(tmp_path, max_steps=2, save_steps=1)
    assert "it was begun by 2 processes, of 8 rows a step, and would go on with 1, of 4" in str(caught.value)
    assert "begin the stage anew with --from" in str(caught.value)
