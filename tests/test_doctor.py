"""What the doctor finds, and that a question without an answer is a line and no crash."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines import doctor, machine
from tests.handmade import RECIPE, heliograph, write_recipe


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the heavy questions answer, without asking torch."""
    found: dict[str, Any] = {
        "torch": {"version": "2.13.0", "cuda_build": None, "cuda": False, "threads": 2},
        "attention": {"sdpa": None, "flash_attention_2": "it runs on CUDA only, and there is none here"},
        "bitsandbytes": {"installed": True, "version": "0.50.2"},
        "flash_attn": {"installed": False},
    }
    monkeypatch.setattr(doctor, "_probe", lambda name: found[name])
    return found


def told(found: dict[str, Any]) -> str:
    return "\n".join(doctor.report(found))


def test_it_tells_what_is_here(tmp_path: Path, answers: dict[str, Any]) -> None:
    write_recipe(tmp_path / "recipes")
    (tmp_path / "recipes" / "wrong.yaml").write_text(
        RECIPE.replace("candidates: answers", "candidates: answrs")
    )
    found = doctor.examine(tmp_path / "runs", tmp_path / "recipes")
    assert found["memory"]["total"] <= psutil.virtual_memory().total
    assert found["disk"]["runs"]["free"] <= shutil.disk_usage(tmp_path).total
    assert found["here"] == {
        "device": "cpu", "dtype": "float32", "attn_implementation": "sdpa", "load_in_4bit": True
    }  # fmt: skip
    right, wrong = found["recipes"]
    assert (right["ok"], right["device"], right["dtype"], right["attention"]) == (
        True,
        "cpu",
        ["float32"],
        ["sdpa"],
    )
    assert (wrong["ok"], wrong["faults"]) == (False, 1)
    text = told(found)
    assert "torch         2.13.0, CPU build, 2 threads" in text
    assert "flash_attention_2: it runs on CUDA only" in text
    assert "flash-attn    not installed" in text
    assert "alias         smollm2-135m: SmolLM2-135M-Instruct" in text
    found["aliases"] = [{**alias, "built": False} for alias in found["aliases"]]
    assert ", 0.0 MB)" not in told(found)
    assert "alias         minilm-l6: all-MiniLM-L6-v2" in text
    assert "alias         tiny-reranker: " in text
    assert "demo.yaml: runs here with cpu, float32, sdpa" in text
    assert "wrong.yaml: 1 fault; see" in text


def test_a_gpu_changes_what_auto_means(tmp_path: Path, answers: dict[str, Any]) -> None:
    device = {"name": "H100", "capability": "9.0", "memory": 80e9}
    answers["torch"] = {
        "version": "2.13.0",
        "cuda_build": "13.0",
        "cuda": True,
        "threads": 2,
        "bf16": True,
        "devices": [device],
    }
    answers["attention"] |= {"flash_attention_2": None}
    write_recipe(tmp_path / "recipes")
    found = doctor.examine(tmp_path / "runs", tmp_path / "recipes")
    assert found["here"]["attn_implementation"] == "flash_attention_2"
    assert "CUDA 13.0: H100 (sm 9.0); bfloat16 yes" in told(found)
    assert "demo.yaml: runs here with cuda, bfloat16, flash_attention_2" in told(found)


def test_what_a_recipe_asks_for_in_vain_is_told(tmp_path: Path, answers: dict[str, Any]) -> None:
    answers["bitsandbytes"] = {"error": "cannot be imported"}
    ask = "model: tiny\n    load_in_4bit: true\n    attn_implementation: flash_attention_2"
    write_recipe(tmp_path / "recipes", RECIPE.replace("model: tiny", ask))
    found = doctor.examine(tmp_path / "runs", tmp_path / "recipes")
    assert found["recipes"][0]["problems"] == [
        "stages.answers asks for flash_attention_2, which does not load here",
        "asks for 4-bit weights, and bitsandbytes does not load here",
    ]
    assert "bitsandbytes  unknown: cannot be imported" in told(found)


def test_every_question_may_fail(
    tmp_path: Path, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError("no answer\ntoday")

    for name in ("memory_limit", "gpus", "disk_free", "cpu_flags"):
        monkeypatch.setattr(machine, name, refuse)
    monkeypatch.setattr(doctor, "_probe", refuse)
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/sbatch")
    monkeypatch.setattr(machine, "ask", refuse)
    found = doctor.examine(tmp_path / "runs", tmp_path)
    lines = told(found).splitlines()
    for title in (
        "cpu",
        "memory",
        "gpu",
        "torch",
        "bitsandbytes",
        "flash-attn",
        "slurm",
        "attention",
        "runs folder",
    ):
        assert f"{title:<14}unknown: no answer today" in lines
    json.dumps(found)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_gpus_are_read_from_the_driver_s_tool(tools: Path) -> None:
    tool(
        tools,
        "nvidia-smi",
        "echo 'NVIDIA H100, 81559, 81000, 570.1'; echo 'NVIDIA H100 MIG, [N/A], [N/A], 570.1'",
    )
    assert machine.gpus() == [
        {"name": "NVIDIA H100", "memory_mib": 81559, "free_mib": 81000, "driver": "570.1"},
        {"name": "NVIDIA H100 MIG", "memory_mib": None, "free_mib": None, "driver": "570.1"},
    ]
    tool(tools, "nvidia-smi", "echo 'NVIDIA-SMI has failed' >&2; exit 9")
    with pytest.raises(OSError, match="NVIDIA-SMI has failed"):
        machine.gpus()


def test_a_tool_that_hangs_is_left(tools: Path) -> None:
    tool(tools, "sbatch", "exec sleep 30")
    with pytest.raises(OSError, match=r"gave no answer in 0\.2 s"):
        machine.ask(["sbatch", "--version"], 0.2)


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5)])
def test_a_container_s_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: float | None
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.cpu_quota() == cores


def test_the_whole_command_with_torch(tmp_path: Path) -> None:
    done = heliograph("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["torch"]["version"] == found["packages"]["torch"]
    assert found["attention"]["sdpa"] is None
    assert found["recipes"] == []
