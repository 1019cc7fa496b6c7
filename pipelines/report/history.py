"""A stage's metrics.jsonl as curves and events, whatever a killed attempt left of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

Point = tuple[float, float]
POINTS = 240
"""Of one curve on the page. Longer ones are thinned; the lowest and the highest of each stretch stay."""
CLOSING = frozenset(
    {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss"}
)
"""What transformers logs once, at the end."""
FRAME = frozenset({"time", "step", "event", "iteration"})
MEASURED = "watched"
"""The event whose figures are a curve."""
LISTED = 3


@dataclass(frozen=True)
class Event:
    """Something that happened at a step: a resume, a watchdog, a measurement."""

    kind: str
    step: float | None
    values: Mapping[str, Any]


@dataclass
class History:
    """What was logged."""

    curves: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    events: list[Event] = field(default_factory=list[Event])
    faults: list[str] = field(default_factory=list[str])
    not_finite: dict[str, int] = field(default_factory=dict[str, int])
    """Values that were NaN or infinite, by key."""
    redone: int = 0
    """Points that a continued attempt made again, from its checkpoint on; the later ones count."""

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def read_history(file: Path) -> History:
    """An absent file is an empty history; lines that cannot be read are counted and named."""
    found = History()
    bad: list[int] = []
    try:
        with file.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                if not raw.strip():
                    continue
                line = _line(raw)
                if line is None:
                    bad.append(number)
                else:
                    _add(found, line)
    except FileNotFoundError:
        return found
    except OSError as fault:
        found.faults.append(f"{file.name} cannot be read: {fault.strerror}")
    if bad:
        places = ", ".join(map(str, bad[:LISTED])) + (", …" if len(bad) > LISTED else "")
        found.faults.append(
            f"{file.name}: {len(bad)} line{'s are' if len(bad) > 1 else ' is'} not JSON (line {places})"
        )
    return found


def _line(raw: bytes) -> dict[str, Any] | None:
    try:
        value: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _add(found: History, line: Mapping[str, Any]) -> None:
    step = number_of(line.get("step"))
    kind = line.get("event")
    if isinstance(kind, str):
        found.events.append(Event(kind, step, line))
        if kind != MEASURED:
            return
    if step is None or "train_runtime" in line:
        return
    for key, value in line.items():
        if key in FRAME or key in CLOSING:
            continue
        y = number_of(value)
        if y is not None:
            curve = found.curves.setdefault(key, [])
            while curve and curve[-1][0] >= step:
                curve.pop()
                found.redone += 1
            curve.append((step, y))
        elif value is None:
            found.not_finite[key] = found.not_finite.get(key, 0) + 1


def number_of(value: object) -> float | None:
    """A finite number, or None; truth values are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        known = float(value)
    except OverflowError:
        return None
    return known if abs(known) < 1e300 else None


def thinned(points: list[Point], most: int = POINTS) -> list[Point]:
    """At most so many points, in order: of each stretch the lowest and the highest, and both ends of the curve."""
    if len(points) <= most:
        return points
    inner, count = points[1:-1], max(1, (most - 2) // 2)
    kept = [points[0]]
    for i in range(count):
        stretch = inner[i * len(inner) // count : (i + 1) * len(inner) // count]
        if stretch:
            kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return [*kept, points[-1]]
