"""A run in a few lines: each stage's state, time and figures, and where the results are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pipelines.plan import Planned
from pipelines.progress import duration
from pipelines.stage import MODEL, ROWS

HEADLINES = 4
PRINTED = ("lines", "report")
"""Metrics that are lines to print: a stage's own table."""


def summary(planned: Sequence[Planned], run_dir: Path, seconds: float) -> Iterator[str]:
    for item in planned:
        if item.done is not None:
            yield from printed(item.done.metrics)
    rows = [("stage", "state", "time", "figures")]
    for item in planned:
        time = duration(item.done.seconds) if item.done else ""
        rows.append((item.name, item.state, time, headline(item.done.metrics) if item.done else ""))
    yield from table(rows)
    yield ""
    if seconds >= 1:
        yield f"this command: {duration(seconds)}"
    for item in planned:
        for made, what in ((MODEL, "model"), (ROWS, "rows")):
            if item.done is not None and (item.folder / made).exists():
                yield f"{item.name} {what}: {item.folder / made}"
    yield f"everything: {run_dir}"


def printed(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The lines a stage wants read, such as a side-by-side table."""
    for key in PRINTED:
        lines: object = metrics.get(key)
        if isinstance(lines, list):
            yield from (str(line) for line in cast("list[object]", lines))
            yield ""


def headline(metrics: Mapping[str, Any]) -> str:
    """The first few plain figures, in the order the stage gave them."""
    found = [(key, value) for key, value in metrics.items() if isinstance(value, int | float | str)]
    return ", ".join(f"{key} {figure(value)}" for key, value in found[:HEADLINES])


def figure(value: float | str) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell; the last one is left ragged."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(count: float) -> str:
    """`4.7 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.0f} MB"
        count /= 1000
    return f"{count:.1f} GB"


def ago(moment: str) -> str:
    """`3 min ago`."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return moment
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 48 * 3600:
        return f"{seconds // 3600:.0f} h ago"
    return f"{seconds // 86400:.0f} days ago"


def status(planned: Sequence[Planned], run: str) -> dict[str, Any]:
    """What `status --json` prints."""
    return {"run": run, "stages": [_stage(item) for item in planned]}


def _stage(item: Planned) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": item.name,
        "kind": item.kind,
        "state": item.state,
        "metrics": item.done.metrics if item.done else {},
        "reasons": list(item.reasons),
        "inputs": list(item.inputs),
        "folder": str(item.folder),
    }
    if item.record is not None:
        found |= {"build": item.record.build, "started": item.record.started}
    if item.done is not None:
        found |= {"seconds": item.done.seconds, "finished": item.done.finished}
    for key, record in (("failed", item.failed), ("waiting", item.waiting), ("progress", item.progress)):
        if record is not None:
            found[key] = record.model_dump(exclude={"format", "command"})
    return found


def lines(planned: Sequence[Planned]) -> Iterator[str]:
    """The same for a person."""
    rows = [("stage", "kind", "state", "time", "")]
    for item in planned:
        time = duration(item.done.seconds) if item.done else ""
        note = headline(item.done.metrics) if item.done else "; ".join(item.reasons)
        rows.append((item.name, item.kind, item.state, time, note.splitlines()[0] if note else ""))
    yield from table(rows)
    for item in planned:
        if item.state == "stale":
            yield from (f"  {line}" for line in item.reasons)
        for told in (item.failed and item.failed.way_out, item.waiting and item.waiting.how):
            if told:
                yield f"  {item.name}: {told}"
