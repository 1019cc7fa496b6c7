"""Rows of candidates that several jobs made, put together in the order of their prompts.

What is split is the sequence of batches, whole ones: every prompt is answered beside those it would be answered
beside otherwise, so that the joined rows are those of one job to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import RunError
from data.jsonl import read_jsonl, replacing, write_jsonl_atomic
from trainers.config import GenerationOptions
from trainers.sampling.candidates import figures, finished, write
from trainers.work import LEDGER, Work

FOLDER = "shards"
"""In the stage's folder, one folder for each shard."""
ROWS = "rows.jsonl"
PART = "part.json"


def finished_part(folder: Path, mark: str) -> dict[str, Any] | None:
    """The figures of a shard that is there already, if it was made from the same."""
    file = folder / PART
    if not (file.is_file() and (folder / ROWS).is_file()):
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return found["metrics"] if found["fingerprint"] == mark else None


def write_part(
    folder: Path,
    rows: list[dict[str, Any]],
    places: list[int],
    whole: Mapping[str, Any],
    mark: str,
    metrics: dict[str, Any],
    resolved: Mapping[str, Any],
) -> None:
    """A shard's rows, then what is needed to join them; `places` are theirs among all rows."""
    write_jsonl_atomic(folder / ROWS, rows)
    told = {
        "fingerprint": mark, "whole": dict(whole), "places": places, "metrics": metrics, "resolved": dict(resolved),
    }  # fmt: skip
    with replacing(folder / PART) as file:
        file.write(json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")


def join(folders: list[Path], options: GenerationOptions, out: Path, work: Work) -> dict[str, Any]:
    """Write the rows of all shards to `out`, as one job would have; return its figures."""
    parts = [_read(folder) for folder in folders]
    if (earlier := finished(out, parts[0]["whole"]["fingerprint"])) is not None:
        return earlier  # Joined already, and killed before the stage's record was written.
    if any(part["whole"] != parts[0]["whole"] for part in parts):
        raise RunError(
            "its shards were made from different prompts, or with another batch_size: they do not fit together",
            where=str(folders[0].parent),
            way_out="Begin the stage anew with --from, or write the batch_size that it was begun with.",
        )
    whole = parts[0]["whole"]
    ordered: list[dict[str, Any] | None] = [None] * whole["prompts"]
    for folder, part in zip(folders, parts, strict=True):
        rows = read_jsonl(folder / ROWS)
        if len(rows) != len(part["places"]):
            raise RunError(
                f"has {len(rows)} rows and was written with {len(part['places'])}",
                where=str(folder / ROWS),
                way_out=f"Remove {folder} and run again: only this shard is made.",
            )
        for place, row in zip(part["places"], rows, strict=True):
            ordered[place] = row
        work.resolved |= part["resolved"]
    made = [row for row in ordered if row is not None]
    if len(made) != len(ordered):
        raise RunError(
            f"{len(ordered) - len(made)} of {len(ordered)} prompts are in no shard",
            where=str(folders[0].parent),
            way_out="Begin the stage anew with --from.",
        )
    with replacing(work.out / LEDGER) as file:
        file.write((folders[0] / LEDGER).read_bytes())
    seconds = sum(part["metrics"]["seconds"] for part in parts)
    found = figures(made, whole["dropped"])
    # Of one shard at a time: the pace of one device, however many worked side by side.
    found["tokens_per_second"] = round(found["tokens"] / seconds, 1) if seconds else None
    found["shards"] = len(parts)
    figured = write(out, made, found, whole["fingerprint"], options, work, out.with_name(out.name + ".part"))
    for folder in folders:  # They stand in `out`; logs and records stay.
        (folder / ROWS).unlink()
    return figured


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / PART).read_text(encoding="utf-8"))
    except FileNotFoundError as absent:
        raise RunError(
            "the shard is not finished", where=str(folder), way_out="Run again: what is missing is made."
        ) from absent
