"""What is told while stages work: a screen on a terminal, a plain line now and then elsewhere, or JSON lines."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

PLAIN_EVERY = 10.0
"""Seconds between two plain lines, at least."""
PLAIN_SHARE = 0.1
PLAIN_LATEST = 60.0
SCREEN_ONLY = ("num_tokens", "memory", "logps/")
"""Figures that a line has no room for."""


class Watch(Protocol):
    """Told about the stages as they work."""

    def start(self, stage: str) -> None: ...

    def say(self, stage: str, line: str) -> None: ...

    def progress(
        self,
        stage: str,
        done: float,
        total: float | None,
        unit: str,
        figures: Mapping[str, float | None],
    ) -> None: ...

    def done(self, stage: str, seconds: float) -> None: ...

    def close(self) -> None: ...


class Pace:
    """Rate and time left since this attempt began, so that a continued stage is not credited with earlier steps."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.key: tuple[str, str] | None = None
        self.first = 0.0
        self.since = 0.0

    def update(self, stage: str, unit: str, done: float, total: float | None) -> tuple[float, float] | None:
        """Units per second and seconds left; None while nothing can be said."""
        if (stage, unit) != self.key or done < self.first:
            self.key, self.first, self.since = (stage, unit), done, self.clock()
            return None
        passed = self.clock() - self.since
        if passed <= 0 or done <= self.first:
            return None
        rate = (done - self.first) / passed
        return rate, (total - done) / rate if total is not None else float("nan")


def duration(seconds: float) -> str:
    """`43 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def describe(
    done: float,
    total: float | None,
    unit: str,
    figures: Mapping[str, float | None],
    pace: tuple[float, float] | None,
) -> str:
    """`12/40 steps, loss 0.693, 1.5 steps/s, 19 s left`."""
    parts = [f"{done:g}/{total:g} {unit}" if total is not None else f"{done:g} {unit}"]
    parts += [
        f"{key} {value:.4g}" if value is not None else f"{key} not finite" for key, value in figures.items()
    ]
    if pace is not None:
        rate, left = pace
        parts.append(f"{rate:.2g} {unit}/s" if rate < 10 else f"{rate:,.0f} {unit}/s")
        if left == left and left > 0:
            parts.append(f"{duration(left)} left")
    return ", ".join(parts)


class Plain:
    """Lines for a file or a pipe: no more than one every ten seconds, then one each tenth or minute."""

    def __init__(self, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.show = show
        self.clock = clock
        self.pace = Pace(clock)
        self.last_time = 0.0
        self.last_done = 0.0

    def start(self, stage: str) -> None:
        self.show(f"{stage}: started")
        self.last_time, self.last_done = self.clock(), 0.0

    def say(self, stage: str, line: str) -> None:
        self.show(f"{stage}: {line}")

    def progress(
        self, stage: str, done: float, total: float | None, unit: str, figures: Mapping[str, float | None]
    ) -> None:
        pace = self.pace.update(stage, unit, done, total)
        passed = self.clock() - self.last_time
        if done < self.last_done:
            self.last_done = 0.0
        far = total is not None and done - self.last_done >= PLAIN_SHARE * total
        if passed < PLAIN_EVERY or not (far or passed >= PLAIN_LATEST):
            return
        self.last_time, self.last_done = self.clock(), done
        shown = {key: value for key, value in figures.items() if not key.startswith(SCREEN_ONLY)}
        self.show(f"{stage}: {describe(done, total, unit, shown, pace)}")

    def done(self, stage: str, seconds: float) -> None:
        self.show(f"{stage}: done in {seconds:.1f} s")

    def close(self) -> None:
        """Every line stands on its own."""


class JsonLines:
    """One object a line for every event, for programs."""

    def __init__(
        self, show: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.show: Callable[[str], None] = show or _to_stdout
        self.rates = Rates(clock)

    def tell(self, event: str, **values: Any) -> None:
        """Numbers that are not finite are null: JSON has no word for them."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        found = {"event": event, "time": moment, **{key: _plain(value) for key, value in values.items()}}
        self.show(json.dumps(found, ensure_ascii=False, allow_nan=False))

    def note(self, line: str) -> None:
        """What the command itself says."""
        if line.strip():
            self.tell("note", line=line.strip("\n"))

    def start(self, stage: str) -> None:
        self.tell("start", stage=stage)

    def say(self, stage: str, line: str) -> None:
        self.tell("say", stage=stage, line=line)

    def progress(
        self, stage: str, done: float, total: float | None, unit: str, figures: Mapping[str, float | None]
    ) -> None:
        rate, left, tokens = self.rates.update(stage, unit, done, total, figures)
        self.tell(
            "progress",
            stage=stage,
            done=done,
            total=total,
            unit=unit,
            figures={key: _plain(value) for key, value in figures.items()},
            per_second=rate,
            seconds_left=left,
            tokens_per_second=tokens,
        )

    def done(self, stage: str, seconds: float) -> None:
        self.tell("done", stage=stage, seconds=seconds)

    def close(self) -> None:
        """Every line stands on its own."""


def _to_stdout(line: str) -> None:
    print(line, flush=True)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Rates:
    """Rate, time left and tokens per second of the stage at work; None where nothing can be said yet."""

    WINDOW = 20
    """Logged figures that the tokens per second go over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.pace = Pace(clock)
        self.stage = ""
        self.tokens: list[tuple[float, float]] = []

    def update(
        self,
        stage: str,
        unit: str,
        done: float,
        total: float | None,
        figures: Mapping[str, float | None],
    ) -> tuple[float | None, float | None, float | None]:
        if stage != self.stage:
            self.stage, self.tokens = stage, []
        found = self.pace.update(stage, unit, done, total)
        rate, left = found if found is not None else (None, None)
        seen = figures.get("num_tokens")
        # The count stands still between two log lines: only a new one says something about speed.
        if seen is not None and (not self.tokens or seen > self.tokens[-1][1]):
            self.tokens = [*self.tokens, (self.clock(), seen)][-self.WINDOW :]
        tokens = None
        if len(self.tokens) > 1:
            (first, low), (last, high) = self.tokens[0], self.tokens[-1]
            tokens = (high - low) / (last - first) if last > first else None
        return rate, left if left is not None and math.isfinite(left) else None, tokens


def watch(
    show: Callable[[str], None] | None = None, stages: Sequence[tuple[str, str, bool]] = (), title: str = ""
) -> Watch:
    """What suits standard output, or plain lines for whoever takes them. `stages`: name, kind, whether it is done."""
    if show is not None:
        return Plain(show)
    if not sys.stdout.isatty():
        return Plain(_to_stdout)
    from pipelines.screen import Live

    return Live(stages, title)
