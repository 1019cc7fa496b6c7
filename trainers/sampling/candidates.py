"""Rows of candidates as a finished call leaves them, whoever answered: their figures, and the file written last."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from data.jsonl import replacing, write_jsonl_atomic
from trainers.config import GenerationOptions
from trainers.work import Work

DONE = "sampling.json"
"""Beside the rows, written last: what they were made from, and the figures."""


def finished(out: Path, mark: str) -> dict[str, Any] | None:
    """The figures of a call that finished, if this is the same call again."""
    file = out.with_name(DONE)
    if not (out.is_file() and file.is_file()):
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return found["metrics"] if found["fingerprint"] == mark else None


def figures(rows: list[dict[str, Any]], dropped: int) -> dict[str, Any]:
    """What the rows hold; every candidate is counted under what ended it."""
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    shares = [len({c["text"] for c in row["candidates"]}) / len(row["candidates"]) for row in rows]
    ends = Counter(candidate["ended_by"] for candidate in candidates)
    counted = [candidate["tokens"] for candidate in candidates if candidate["tokens"] is not None]
    found: dict[str, Any] = {
        "prompts": len(rows),
        "dropped": dropped,
        "candidates": len(candidates),
        "tokens": sum(counted) if counted else None,
        "ended_by_eos": ends.pop("eos", 0),
        "ended_by_stop": ends.pop("stop", 0),
        "cut": ends.pop("length", 0),
    }
    found |= {f"ended_by_{reason}": count for reason, count in sorted(ends.items())}
    if counted and len(counted) < len(candidates):
        found["without_token_count"] = len(candidates) - len(counted)
    found["empty"] = sum(not candidate["text"].strip() for candidate in candidates)
    found["distinct"] = round(sum(shares) / len(shares), 4)
    return found


def write(
    out: Path,
    rows: list[dict[str, Any]],
    found: dict[str, Any],
    mark: str,
    options: GenerationOptions,
    work: Work,
    part: Path,
) -> dict[str, Any]:
    """Rows, then the mark of what they were made from; `part`, from which they came, goes last."""
    write_jsonl_atomic(out, rows)
    with replacing(out.with_name(DONE)) as file:
        file.write(json.dumps({"fingerprint": mark, "metrics": found}, indent=2).encode() + b"\n")
    part.unlink(missing_ok=True)
    if found["cut"]:
        work.say(
            f"{found['cut']:,} of {found['candidates']:,} candidates were cut at max_new_tokens "
            f"{options.max_new_tokens}"
        )
    return found
