"""What the watchdogs remember from step to step, kept in each checkpoint so that a resume goes on as if unbroken."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.errors import RunError
from data.jsonl import replacing
from trainers.watchdogs.rules import Firing, Measured, Norms, Streak

FILE = "watchdogs.json"


@dataclass
class WatchState:
    """All of it; what a roll-back leaves standing is not here but beside the checkpoints."""

    start: Measured | None = None
    """What every measurement is held against."""
    last: Measured | None = None
    streaks: dict[str, Streak] = field(default_factory=dict[str, Streak])
    """Of the watches that have looked."""
    norms: Norms = field(default_factory=Norms)
    steepest: float | None = None
    """The first step's largest gradient of a pair."""
    firings: list[Firing] = field(default_factory=list[Firing])
    """Those that only warned."""
    roll_backs: int = 0
    """How many the stage had behind it; the learning rate beside this is lowered by these."""

    def streak(self, name: str) -> Streak:
        return self.streaks.setdefault(name, Streak())


def write_state(state: WatchState, folder: Path) -> None:
    with replacing(folder / FILE) as file:
        file.write((json.dumps(_plain(asdict(state))) + "\n").encode())


def _plain(value: Any) -> Any:
    """What is not finite as null: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_state(folder: Path) -> WatchState:
    try:
        found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise RunError(
            "this checkpoint was written without watchdogs",
            where=str(folder),
            way_out="Write `watch: false`, or rebuild the stage with --from.",
        ) from missing
    start, last = (Measured(**found[name]) if found[name] else None for name in ("start", "last"))
    streaks = {name: Streak(**one) for name, one in found["streaks"].items()}
    firings = [Firing(**one) for one in found["firings"]]
    return WatchState(
        start, last, streaks, Norms(**found["norms"]), found["steepest"], firings, found["roll_backs"]
    )
