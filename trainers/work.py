"""Where a piece of work writes, and whom it tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

REFERENCES = "references"
SCRATCH = "scratch"
"""Folder for what only an unfinished stage needs: tokenised rows, reference values, checkpoints."""


LEDGER = "ledger.json"
"""What became of every row a stage read, in its folder."""


class Progress(Protocol):
    """Called often; the receiver decides how much of it to show."""

    def __call__(self, *, done: float, total: float | None, unit: str, **figures: float) -> None: ...


def silent(*, done: float, total: float | None, unit: str, **figures: float) -> None:
    """Progress that nobody watches."""


Log = Callable[[dict[str, Any]], None]


@dataclass
class Work:
    """A folder to write into, and the person who waits."""

    out: Path
    say: Callable[[str], None] = print
    """One line for the person who waits; also written to the stage's log."""
    progress: Progress = silent
    """Where a long piece of work stands, e.g. progress(done=3, total=10, unit="steps", loss=0.7)."""
    log: Log = lambda _: None
    """One line of metrics.jsonl."""
    resolved: dict[str, Any] = field(default_factory=dict[str, Any])
    """What each `auto` became; recorded in done.json."""

    store: Path | None = None
    """Where work is kept that other stages and runs can use again; None: the stage's own scratch."""

    @property
    def references(self) -> Path:
        """Reference log-probabilities, by content; it can be removed at any time, and costs measuring them again."""
        return (self.store or self.scratch) / REFERENCES

    @property
    def scratch(self) -> Path:
        """Removed once the stage is done; until then it is what a killed run goes on from."""
        return self.out / SCRATCH

    def choose(self, key: str, value: object, why: str) -> None:
        """Record and print what an `auto` became; the same choice again, for another model, is not news."""
        chosen = {"value": value, "why": why}
        if self.resolved.get(key) == chosen:
            return
        self.resolved[key] = chosen
        self.say(f"{key}: {value} ({why})")
