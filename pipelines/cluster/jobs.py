"""The jobs of a run, seen and steered from the login node: their states, their logs, cancel and release."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import RunError
from pipelines import shards, state
from pipelines.cluster import records as job_records
from pipelines.cluster.records import Attempt, Submitted
from pipelines.recipe import Recipe, load
from pipelines.run import run_folder
from pipelines.summary import plural, table
from slurm import queue
from slurm.queue import Seen
from slurm.submit import cancel, release

LAST_LINES = 5
TAIL_BYTES = 4000
FOLLOW_SECONDS = 0.5


@dataclass(frozen=True)
class Placed:
    """The job of a stage or of a shard: as it was submitted, as SLURM shows it, and its attempts."""

    stage: str
    submitted: Submitted
    seen: Seen | None
    """None while SLURM cannot be asked."""
    attempts: tuple[Attempt, ...]
    log: Path
    """Where to read first."""

    @property
    def alive(self) -> bool:
        return self.seen is not None and self.seen.alive


@dataclass(frozen=True)
class Jobs:
    """All jobs of a run, and why SLURM could not be asked."""

    placed: tuple[Placed, ...]
    unasked: str | None = None


def locate(name: str, runs_dir: Path) -> Path:
    """The folder of a run that is given by its name, its folder or its recipe."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return run_folder(load(path), None, runs_dir)
    return path if not (runs_dir / name).is_dir() and path.is_dir() else runs_dir / name


def jobs_of(recipe: Recipe, run_dir: Path) -> Jobs:
    """One question to SLURM; none when nothing was ever submitted."""
    records = {
        name: found for name in shards.every_name(recipe) if (found := job_records.submitted(run_dir, name))
    }
    if not records:
        return Jobs(())
    unasked: str | None = None
    seen: Mapping[str, Seen] = {}
    try:
        seen = queue.look(record.job for record in records.values())
    except RunError as fault:
        unasked = f"{fault.where}: {fault.what}"
    placed: list[Placed] = []
    for name, record in records.items():
        attempts = tuple(a for a in job_records.attempts(run_dir, name) if a.job == record.job)
        found = seen.get(record.job)
        log = _telling(shards.folder(run_dir, name), found) if attempts else None
        placed.append(Placed(name, record, found, attempts, log or Path(record.output)))
    return Jobs(tuple(placed), unasked)


def _telling(folder: Path, seen: Seen | None) -> Path | None:
    """The stage's own log; None where it cannot say why the job ended as it did."""
    log = folder / state.LOG
    if not log.is_file() or log.stat().st_size == 0:
        return None
    badly = seen is not None and not seen.alive and seen.state != "COMPLETED"
    return None if badly and not (folder / state.FAILED).exists() else log


def lines(jobs: Jobs) -> Iterator[str]:
    """For a person, below the table of stages."""
    if not jobs.placed:
        return
    yield ""
    if jobs.unasked is not None:
        yield f"SLURM cannot be asked ({jobs.unasked}); what follows is what the run folder knows."
    rows = [("stage", "job", "state", "node", "restarts", "log", "")]
    for item in jobs.placed:
        seen = item.seen
        host = item.attempts[-1].host if item.attempts else ""
        restarts = seen.restarts if seen and seen.state != queue.UNKNOWN else max(0, len(item.attempts) - 1)
        rows.append(
            (
                item.stage,
                item.submitted.job,
                seen.state if seen else "?",
                (seen.nodes if seen else "") or host,
                str(restarts),
                str(item.log) if item.log.is_file() else "",
                seen.told if seen and seen.state != "COMPLETED" else "",
            )
        )
    yield from table(rows)
    for item in jobs.placed:
        if _ended_badly(item):
            yield from (f"  {item.stage}: {told}" for told in _broken_nodes(item))
            yield f"  {item.stage}: the end of {item.log}:"
            yield from (f"    {line}" for line in tail(item.log))


def _broken_nodes(item: Placed) -> Iterator[str]:
    """What nodes other than the first told of their processes; those on the first know only that a peer is gone."""
    folder = Path(item.submitted.output).parent
    for file in sorted(folder.glob(f"{item.stage}.broken.*")):
        yield file.read_text(errors="replace").strip()


def _ended_badly(item: Placed) -> bool:
    if item.seen is None or item.seen.alive or item.seen.state == "COMPLETED":
        return False
    return item.log.is_file()  # A job that was cancelled before it began printed nothing.


def told(jobs: Jobs) -> dict[str, Any]:
    """For `status --json`."""
    return {
        "unasked": jobs.unasked,
        "jobs": [
            {
                "stage": item.stage,
                "job": item.submitted.job,
                "state": item.seen.state if item.seen else None,
                "reason": item.seen.reason if item.seen else None,
                "nodes": item.seen.nodes if item.seen else None,
                "restarts": item.seen.restarts if item.seen else None,
                "attempts": [a.model_dump(exclude={"format"}) for a in item.attempts],
                "log": str(item.log),
                "output": item.submitted.output,
            }
            for item in jobs.placed
        ],
    }


def tail(path: Path, count: int = LAST_LINES) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").rstrip().splitlines()[-count:]
    except OSError as fault:
        return [f"(cannot be read: {fault.strerror})"]


def cancel_run(name: str, runs_dir: Path) -> Iterator[str]:
    run_dir, placed = _asked(name, runs_dir)
    alive = [item for item in placed if item.alive]
    cancel(item.submitted.job for item in alive)
    yield _counted("cancelled", alive)
    if alive:
        yield f"What was finished or saved stays in {run_dir}; submitted again, it goes on."


def release_run(name: str, runs_dir: Path) -> Iterator[str]:
    _, placed = _asked(name, runs_dir)
    held = [item for item in placed if item.seen and item.seen.held]
    release(item.submitted.job for item in held)
    yield _counted("released", held)


def _asked(name: str, runs_dir: Path) -> tuple[Path, Sequence[Placed]]:
    from pipelines.verbs import recipe_of

    run_dir = locate(name, runs_dir)
    jobs = jobs_of(recipe_of(run_dir), run_dir)
    if jobs.unasked is not None:
        raise RunError(
            f"SLURM cannot be asked ({jobs.unasked})",
            where=str(run_dir),
            way_out=f"Try again, or by hand: {', '.join(item.submitted.job for item in jobs.placed)} are its jobs.",
        )
    return run_dir, jobs.placed


def _counted(done: str, items: Sequence[Placed]) -> str:
    if not items:
        return f"no job to be {done}"
    listed = ", ".join(f"{item.stage} ({item.submitted.job})" for item in items)
    return f"{done} {plural(len(items), 'job')}: {listed}"


def show_log(name: str, stage: str, follow: bool, runs_dir: Path) -> None:
    """The stage's log; before it has one, what its job printed."""
    from pipelines.verbs import recipe_of

    run_dir = locate(name, runs_dir)
    names = list(shards.every_name(recipe_of(run_dir)))
    if stage not in names:
        raise RunError(
            f"there is no stage `{stage}`", where=str(run_dir), way_out=f"Stages: {', '.join(names)}."
        )
    folder = shards.folder(run_dir, stage)
    log = folder / state.LOG
    record = job_records.submitted(run_dir, stage)
    if not log.is_file() and not follow:
        output = Path(record.output) if record else None
        if output is None or not output.is_file():
            raise RunError(
                "has no log yet", where=f"stages.{stage}", way_out=f"heliograph status {run_dir.name}"
            )
        log = output
    print(f"{log}" + (f"; the job's own words: {record.output}" if record else ""), file=sys.stderr)
    _print_log(log, folder, follow)


def _print_log(log: Path, folder: Path, follow: bool) -> None:
    position = 0
    while True:
        over = any((folder / end).exists() for end in (state.DONE, shards.SHARD, state.FAILED, state.WAITING))
        if log.is_file():
            with log.open("rb") as file:
                file.seek(position)
                block = file.read()
            position += len(block)
            sys.stdout.write(block.decode(errors="replace"))
            sys.stdout.flush()
        if not follow or over:
            return
        time.sleep(FOLLOW_SECONDS)
