"""`heliograph prune`: the store beside the runs gets smaller, and nothing that was paid for goes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.errors import RunError
from pipelines.pruning import bytes_of, prune_runs
from pipelines.summary import size
from tests.handmade import environment
from trainers.store.folders import size_on_disk
from trainers.store.tokens import TokenStore


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three stores of one size, used three, two and no hours ago, beside rationales."""
    references = tmp_path / ".store" / "references"
    for number, hours in enumerate((3, 2, 0)):
        store = TokenStore(references, {"number": number})
        store.add(bytes(32), np.zeros(1000))
        store.close()
        then = time.time() - 3600 * hours
        for file in (store.folder, *store.folder.iterdir()):
            os.utime(file, (then, then))
    paid = tmp_path / ".store" / "rationales"
    paid.mkdir()
    (paid / "asked.jsonl").write_bytes(bytes(5_000_000))
    return tmp_path


def test_the_longest_unused_goes_first_and_what_was_paid_for_stays(runs: Path) -> None:
    references = runs / ".store" / "references"
    each = size_on_disk(references) // 3
    said: list[str] = []
    prune_runs(runs, str(2 * each), said.append)
    assert said == [
        f"{references}: 1 folder removed, {size(3 * each)} -> {size(2 * each)}",
        f"{runs / '.store' / 'rationales'}: 5 MB, never removed by this: it was paid for",
    ]
    assert size_on_disk(references) == 2 * each
    said.clear()
    prune_runs(runs, "0", said.append)
    assert said[0].endswith(f"what was used within the hour stays, {size(each)} above --keep")
    assert size_on_disk(references) == each
    assert (runs / ".store" / "rationales" / "asked.jsonl").stat().st_size == 5_000_000


def test_sizes_are_read_and_written() -> None:
    given = ("0", "2GB", "500M", "1.5 tb", "12")
    assert [bytes_of(text) for text in given] == [0, 2 * 10**9, 500 * 10**6, 15 * 10**11, 12]
    with pytest.raises(RunError, match="--keep lots is no size"):
        bytes_of("lots")


def test_the_command(runs: Path) -> None:
    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "prune", *more],
            cwd=runs, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = call("--runs-dir", ".", "--keep", "1KB")
    assert done.returncode == 0, done.stderr
    assert "2 folders removed" in done.stdout
    absent = call("--runs-dir", "elsewhere")
    assert absent.returncode == 2
    assert "nothing is kept here" in absent.stderr
