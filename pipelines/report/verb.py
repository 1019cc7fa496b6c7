"""The verb `report`: one run or two, from what a person typed to the path of the page."""

from __future__ import annotations

from pathlib import Path

from pipelines.cluster.jobs import locate
from pipelines.report.gather import gather
from pipelines.report.page import put, write
from pipelines.report.sides import labels, side_by_side


def report(name: str, other: str | None, out: Path | None, runs_dir: Path) -> Path:
    """`name` and `other` are names of runs, their folders, or their recipes."""
    folder = locate(name, runs_dir)
    if other is None:
        return write(folder, out)
    first, second = gather(folder), gather(locate(other, runs_dir))
    called = labels(first, second)
    return put(side_by_side(first, second, called), out or folder / f"report-{first.name}-{second.name}.html")
