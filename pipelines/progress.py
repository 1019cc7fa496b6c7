"""What a person sees while stages work: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

PLAIN_EVERY = 10.0
"""Seconds between two plain lines, at least."""
PLAIN_SHARE = 0.1
PLAIN_LATEST = 60.0


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
        self.show(f"{stage}: {describe(done, total, unit, figures, pace)}")

    def close(self) -> None:
        """Every line stands on its own."""


class Live:
    """One bar on a terminal; what a stage says scrolls above it."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.pace = Pace()
        self.bar = Progress(
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console or Console(highlight=False),
            transient=True,
            refresh_per_second=4,
        )
        self.task: Any = None

    def start(self, stage: str) -> None:
        if self.task is None:
            self.bar.start()
        else:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task("", total=None, stage=stage, text="starting")

    def say(self, stage: str, line: str) -> None:
        self.bar.console.print(f"{stage}: {line}", markup=False, soft_wrap=True)

    def progress(
        self, stage: str, done: float, total: float | None, unit: str, figures: Mapping[str, float | None]
    ) -> None:
        pace = self.pace.update(stage, unit, done, total)
        text = describe(done, total, unit, figures, pace)
        if self.task is not None:
            self.bar.update(self.task, completed=done, total=total, text=text)

    def close(self) -> None:
        if self.task is not None:
            self.bar.stop()
            self.task = None


def watch(show: Callable[[str], None] | None = None) -> Watch:
    """What suits standard output, or plain lines for whoever takes them."""
    if show is not None:
        return Plain(show)
    return Live() if sys.stdout.isatty() else Plain(lambda line: print(line, flush=True))
