"""What every command that worked on a run leaves behind: the command itself, the run's page, and its cards.

`python -m pipelines.closing RUN_DIR` writes page and cards, and is how a job of a cluster does it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from data.errors import DataError, RunError, UserError
from data.jsonl import append_jsonl
from pipelines import state

Show = Callable[[str], None]


def write_report(run_dir: Path, show: Show, notice: Show) -> None:
    """What happened as a page, and a card beside each final model. What cannot be written is told and fails no run."""
    from pipelines.card.writing import write_cards
    from pipelines.report.page import write

    try:
        show(f"report: {write(run_dir)}")
        for card in write_cards(run_dir):
            show(f"card: {card}")
    except UserError as fault:
        notice(f"the report was not written: {fault}")


def keep_command(run_dir: Path, command: str) -> None:
    """One line for every command that worked on the run, so that it can be done again."""
    row = {"time": state.now(), "command": command, "cwd": str(Path.cwd())}
    try:
        append_jsonl(run_dir / state.COMMANDS, [row])
    except DataError as fault:
        raise RunError(fault.what, where=fault.where, way_out=fault.way_out) from fault


if __name__ == "__main__":
    write_report(Path(sys.argv[1]), print, lambda line: print(line, file=sys.stderr))
