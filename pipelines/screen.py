"""The screen of a run on a terminal: its stages, how far the one at work is, and the figures it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipelines.progress import Rates, duration

SIGNS = {"done": ("✓", "green"), "running": ("●", "bold cyan"), "pending": ("·", "dim")}
TRAIL = 400
"""Values of the loss that the small curve is drawn from."""
BLOCKS = "▁▂▃▄▅▆▇█"
PERCENT = frozenset({"rewards/accuracies"})
NAMES = {
    "loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "pairs right", "logps/chosen": "log p chosen",
    "logps/rejected": "log p rejected", "logps/forget": "log p to forget", "logps/retain": "log p to keep",
}  # fmt: skip
HIDDEN = frozenset({"num_tokens", "memory"})
"""Told as tokens per second and in GB."""
NARROW = 72


@dataclass
class _Line:
    name: str
    kind: str
    state: str
    took: str = ""


class Live:
    """One screen that is redrawn; what a stage says scrolls above it."""

    def __init__(
        self,
        stages: Sequence[tuple[str, str, bool]] = (),
        title: str = "",
        console: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console

        self.console = console or Console(highlight=False)
        self.title = title
        self.clock = clock
        self.began = clock()
        self.rates = Rates(clock)
        self.lines = [_Line(name, kind, "done" if done else "pending") for name, kind, done in stages]
        self.stage = ""
        self.stage_began = self.began
        self.far: tuple[float, float | None, str] = (0.0, None, "")
        self.figures: dict[str, float | None] = {}
        self.speed: tuple[float | None, float | None, float | None] = (None, None, None)
        self.losses: list[float] = []
        self.live: Any = None

    # ---------------------------------------------------------------- what happens

    def start(self, stage: str) -> None:
        from rich.live import Live as Redrawn

        self.stage, self.stage_began = stage, self.clock()
        self.far, self.figures, self.losses = (0.0, None, ""), {}, []
        self.speed = (None, None, None)
        self._line(stage).state = "running"
        if self.live is None:
            self.live = Redrawn(
                console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True
            )
            self.live.start()

    def say(self, stage: str, line: str) -> None:
        self.console.print(f"{stage}: {line}", markup=False, soft_wrap=True)

    def progress(
        self, stage: str, done: float, total: float | None, unit: str, figures: Mapping[str, float | None]
    ) -> None:
        if unit != self.far[2] or done < self.far[0]:
            self.losses = []
        self.far, self.figures = (done, total, unit), dict(figures)
        self.speed = self.rates.update(stage, unit, done, total, figures)
        loss = figures.get("loss")
        if loss is not None and (not self.losses or loss != self.losses[-1]):
            self.losses = [*self.losses, loss][-TRAIL:]

    def done(self, stage: str, seconds: float) -> None:
        line = self._line(stage)
        line.state, line.took = "done", duration(seconds)
        self.console.print(f"{stage}: done in {seconds:.1f} s", markup=False, soft_wrap=True)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _line(self, stage: str) -> _Line:
        found = next((line for line in self.lines if line.name == stage), None)
        if found is None:
            found = _Line(stage, "", "pending")
            self.lines.append(found)
        return found

    # ---------------------------------------------------------------- what is seen

    def render(self) -> Any:
        """The whole screen, for the console's width and height as they are."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.rule import Rule
        from rich.text import Text

        figures = self._figures()
        room = max(3, self.console.height - 10 - (len(figures) // 2))
        parts: list[Any] = [*self._stages(room)]
        if self.stage:
            parts += [Rule(Text(self.stage, "bold"), style="dim"), self._bar(), *self._grid(figures)]
            if len(self.losses) > 2:
                parts.append(self._trail())
        title = Text.assemble(("heliograph", "bold"), (f"  {self.title}" if self.title else "", "cyan"))
        return Panel(
            Group(*parts),
            title=title,
            title_align="left",
            subtitle=Text(duration(self.clock() - self.began), "dim"),
            subtitle_align="right",
            border_style="dim",
            padding=(0, 1),
            width=min(self.console.width, 110),
        )

    def _stages(self, room: int) -> list[Any]:
        """A window around the stage at work where not all have room; how many lie outside is said."""
        from rich.text import Text

        here = next((i for i, line in enumerate(self.lines) if line.state == "running"), len(self.lines) - 1)
        first = max(0, min(here - room // 2, len(self.lines) - room))
        shown = self.lines[first : first + room]
        wide = max((len(line.name) for line in shown), default=0)
        kinds = max((len(line.kind) for line in shown), default=0)
        made: list[Any] = []
        if first:
            made.append(Text(f"  {first} before", "dim"))
        for line in shown:
            sign, style = SIGNS[line.state]
            took = line.took or (duration(self.clock() - self.stage_began) if line.state == "running" else "")
            text = Text(no_wrap=True, overflow="ellipsis")
            text.append(f"{sign} ", style)
            text.append(line.name.ljust(wide), "bold" if line.state == "running" else "" if took else "dim")
            text.append(f"  {line.kind.ljust(kinds)}  {took}", "dim")
            made.append(text)
        if rest := len(self.lines) - first - len(shown):
            made.append(Text(f"  {rest} to come", "dim"))
        return made

    def _bar(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        done, total, unit = self.far
        if not unit:
            return Text("starting", "dim")
        rate, left, _ = self.speed
        words = [f"{done:g}/{total:g} {unit}" if total is not None else f"{done:g} {unit}"]
        if rate is not None:
            words.append(f"{rate:.2g} {unit}/s" if rate < 10 else f"{rate:,.0f} {unit}/s")
        if left:
            words.append(f"{duration(left)} left")
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=1)
        table.add_column(justify="right", no_wrap=True)
        if total:
            from rich.progress_bar import ProgressBar

            table.add_row(
                ProgressBar(
                    total=total,
                    completed=min(done, total),
                    complete_style="cyan",
                    finished_style="green",
                ),
                Text(" · ".join(words)),
            )
            return table
        return Text(" · ".join(words))

    def _figures(self) -> list[tuple[str, str]]:
        """Name and value of everything that is known, what people look for first."""
        known = sorted(
            (key for key in self.figures if key not in HIDDEN),
            key=lambda key: list(NAMES).index(key) if key in NAMES else len(NAMES),
        )
        found = [(NAMES.get(key, key), value_of(key, self.figures[key])) for key in known]
        if (tokens := self.speed[2]) is not None:
            found.append(("tokens/s", f"{tokens:,.0f}"))
        if (memory := self.figures.get("memory")) is not None:
            found.append(("memory", f"{memory / 1e9:.1f} GB"))
        return found

    def _grid(self, figures: Sequence[tuple[str, str]]) -> list[Any]:
        from rich.table import Table
        from rich.text import Text

        if not figures:
            return []
        columns = 2 if self.console.width < NARROW else 4
        table = Table.grid(padding=(0, 2), expand=True)
        for _ in range(columns):
            table.add_column(ratio=1)
        cells = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in figures]
        for i in range(0, len(cells), columns):
            table.add_row(*cells[i : i + columns], *[""] * (columns - len(cells[i : i + columns])))
        return [table]

    def _trail(self) -> Any:
        from rich.text import Text

        wide = min(self.console.width, 110) - 14
        return Text.assemble(("loss  ", "dim"), (sparkline(self.losses, wide), "cyan"))


def value_of(key: str, value: float | None) -> str:
    if value is None:
        return "not finite"
    if key in PERCENT:
        return f"{value:.0%}"
    return f"{value:.4g}".replace("-", "−")


def sparkline(values: Sequence[float], most: int) -> str:
    """The values as blocks, from the lowest to the highest; of more than `most` each stands for several."""
    if len(values) > most:
        ends = [round(i * len(values) / most) for i in range(most + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, high = min(values), max(values)
    if high <= low:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[min(7, int(8 * (value - low) / (high - low)))] for value in values)
