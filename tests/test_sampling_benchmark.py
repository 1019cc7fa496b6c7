"""The benchmark of the sampler: it runs, its arithmetic holds, and reading a prompt once is faster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.sampling.__main__ import main
from benchmarks.sampling.measure import Setting, spread


def test_the_smoke_run_is_faster_than_generate_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On `tiny` a step is mostly Python, so the gain is far from the one on a real model."""
    target = tmp_path / "figures.json"
    assert main(["--model", "tiny", "--smoke", "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["greedy_equal"] is True
    assert len(found["rounds"]) == 3
    ratios = [one["generate"]["cpu"] / one["heliograph"]["cpu"] for one in found["rounds"]]
    assert found["ratio_cpu"] == spread(ratios)
    assert found["ratio_cpu"]["median"] > 1.15
    tokens = 1 * 8 * 16
    median = sorted(one["heliograph"]["cpu"] for one in found["rounds"])[1]
    assert found["heliograph"]["tokens_per_cpu_second"] == pytest.approx(tokens / median, rel=1e-3)
    assert found["threads"] == 1
    assert {"torch", "transformers", "python"} <= set(found["versions"])
    assert "x the speed of generate(num_return_sequences=8) by CPU time" in capsys.readouterr().out


def test_the_limit_is_the_tokens_that_pass_through_the_model() -> None:
    setting = Setting(
        "tiny", prompts=2, prompt_tokens=384, num_return_sequences=8, max_new_tokens=32, rounds=5
    )
    assert setting.limit == 8 * (384 + 32) / (384 + 8 * 32)
    assert setting.limit == 5.2
    assert setting.new_tokens == 2 * 8 * 32
