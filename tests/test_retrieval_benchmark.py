"""The retrieval benchmark: both of its halves run, on little of everything, and say what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.handmade import ROOT, environment


def measured(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    target = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.retrieval", *arguments, "--json", str(target)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(target.read_text()), done.stdout + done.stderr


@pytest.mark.slow
def test_the_comparison_runs_and_its_ratios_are_those_of_its_times(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    code, found, said = measured(tmp_path, "--smoke")
    slower = [name for name, way in found["ways"].items() if way["times_library"]["max"] < 1]
    assert code == (1 if slower else 0), said
    assert {"encode, mixed", "search, exact", "search, faiss IVF256,Flat, mapped", "bm25, search"} <= set(
        found["ways"]
    )
    for figures in found["ways"].values():
        ratio, ours, library = figures["times_library"], figures["ours"], figures["library"]
        assert library["min"] / ours["max"] <= ratio["min"] * 1.01
        assert ratio["max"] <= library["max"] / ours["min"] * 1.01
    # Far enough apart for any machine: mapped as FAISS maps, each search starts threads that read every list.
    assert found["ways"]["search, faiss IVF256,Flat, mapped"]["times_library"]["median"] > 1


@pytest.mark.slow
def test_each_way_is_measured_and_the_kept_ones_build_nothing(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    arguments = ("--passages", "3000", "--dimension", "32", "--folder", str(tmp_path / "scale"))
    code, found, said = measured(tmp_path, *arguments)
    assert code == 0, said
    assert found["corpus"]["rows"] == found["vectors"]["vectors"] == 3000
    # 8 bytes a passage for its place, 16 for its key, 2 a number for its vector in float16.
    assert 3000 * 8 < found["corpus"]["disk_bytes"] < 3000 * 8 + 1000
    assert 0 < found["vectors"]["disk_bytes"] - 3000 * (16 + 2 * 32) < 1000
    for way in ("bm25", "faiss"):
        assert found[way]["built"]
        assert not found[f"{way}-kept"]["built"]
        assert found[way]["disk_bytes"] == found[f"{way}-kept"]["disk_bytes"] > 0
    assert all(found[way]["peak_own_mib"] > 0 for way in ("corpus", "bm25", "vectors", "exact", "faiss"))
