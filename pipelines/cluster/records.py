"""What a run folder knows of its jobs: which were submitted, how each attempt ended, and where they print."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines import state
from pipelines.state import Record

FOLDER = ".slurm"
"""Below the run's folder; a stage's name cannot begin with a dot."""
Outcome = Literal["done", "again", "waiting", "failed"]
"""The word the job script acts on: end well, go back into the queue, go back and be held, end badly."""


class Submitted(Record):
    """The job of a stage or of a shard, as it was handed to SLURM."""

    job: str
    cluster: str
    """The cluster file."""
    attempts: int = 3
    """Attempts in a row that may end badly."""
    time: str
    output: str
    """What the job printed, the words of its nodes included."""


class Attempt(Record):
    """One start of a job."""

    job: str
    host: str
    began: str
    ended: str | None = None
    """None while it works, and for ever when it was killed with its job."""
    how: Literal["", "done", "failed", "waiting", "stopped"] = ""
    """Empty: it ended without a word."""
    told: Literal["", "TERM", "USR1"] = ""
    """What asked it to stop: USR1 is the time limit, TERM is preemption."""
    reached: dict[str, float] = Field(default_factory=dict[str, float])
    """How far it was, by unit."""


class Attempts(Record):
    """Every start of a stage's jobs, oldest first."""

    attempts: tuple[Attempt, ...] = ()


def submitted_file(run_dir: Path, stage: str) -> Path:
    return run_dir / FOLDER / f"{stage}.json"


def attempts_file(run_dir: Path, stage: str) -> Path:
    return run_dir / FOLDER / f"{stage}.attempts.json"


def stop_file(run_dir: Path, stage: str) -> Path:
    """The job script writes it when SLURM wants the place back."""
    return run_dir / FOLDER / f"{stage}.stop"


def last_stop_file(run_dir: Path, stage: str) -> Path:
    """The one of the start before this."""
    return run_dir / FOLDER / f"{stage}.stop.last"


def outcome_file(run_dir: Path, stage: str) -> Path:
    """The job script reads it when the work has ended."""
    return run_dir / FOLDER / f"{stage}.outcome"


def broken_file(run_dir: Path, stage: str) -> Path:
    """slurm/node.sh writes it on a node other than the first, when its processes ended badly in this start."""
    start = f"{os.environ.get('SLURM_JOB_ID', '')}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return run_dir / FOLDER / f"{stage}.broken.{start}"


def this_job() -> str:
    """The number of the job this runs in, as it was recorded when it was submitted."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    array = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    return f"{array}_{task}" if task else os.environ.get("SLURM_JOB_ID", "")


def submitted(run_dir: Path, stage: str) -> Submitted | None:
    return state.read(submitted_file(run_dir, stage), Submitted)


def attempts(run_dir: Path, stage: str) -> tuple[Attempt, ...]:
    found = state.read(attempts_file(run_dir, stage), Attempts)
    return found.attempts if found else ()


def bad_in_a_row(attempts: Sequence[Attempt]) -> int:
    """Attempts that ended badly since one last got further. A preempted one is nobody's fault, and not counted."""
    count = 0
    furthest: dict[str, float] = {}
    for attempt in attempts:
        further = any(done > furthest.get(unit, 0) for unit, done in attempt.reached.items())
        furthest |= {unit: max(done, furthest.get(unit, 0)) for unit, done in attempt.reached.items()}
        if further:
            count = 0
        if attempt.told == "TERM" or attempt.how in ("done", "waiting"):
            continue
        # Out of time on the way forward is how a long stage crosses several jobs.
        if attempt.told == "USR1" and further:
            continue
        count += 1
    return count
