"""The benchmark of the label server: it runs, its counting holds, and nothing is lost under a small team."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.labelling.__main__ import main
from benchmarks.labelling.measure import spread


@pytest.mark.slow
def test_the_smoke_run_loses_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The floors are loose: other work may share the machine."""
    target = tmp_path / "figures.json"
    assert main(["--smoke", "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert set(found["rounds"]) == {"paced", "saturated"}
    for one in found["rounds"].values():
        assert (one["lost"], one["doubled"], one["failed"]) == (0, 0, 0)
        assert one["votes"] >= 8
        assert (
            0
            < one["milliseconds"]["median"]
            <= one["milliseconds"]["p95"]
            <= one["milliseconds"]["most"]
            < 5000
        )
    # 4 people, 2 s, at most one answer in 0.3 s each.
    assert found["rounds"]["paced"]["votes"] <= 4 * (2 / 0.3 + 1)
    assert found["next_item"]["items"] == 2000
    assert found["next_item"]["median"] < 100
    assert "0 lost, 0 doubled" in capsys.readouterr().out


def test_the_arithmetic_of_the_spread() -> None:
    milliseconds = [n / 1000 for n in range(1, 101)]
    assert spread(milliseconds) == {"median": 50, "p95": 95, "p99": 99, "most": 100}
    assert spread([0.002]) == {"median": 2, "p95": 2, "p99": 2, "most": 2}
