"""One stage attempted in this process: its job, its records, and what it tells while it works."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

from data.errors import RunError
from data.jsonl import append_jsonl
from pipelines import provenance, shards, state
from pipelines.recipe import resolved
from pipelines.stage import Built, Job, Stage, input_names
from pipelines.staleness import differences, input_files
from trainers.training import ranks

Tell = Callable[[dict[str, Any]], None]
"""Receives what happens, as small JSON values: {"event": "say", "stage": …, "line": …}."""
STORE = ".store"
"""Beside the runs, and shared by them. A run's name cannot begin with a dot."""
TELL_EVERY = 0.2
MARK_EVERY = 0.5


@dataclass(frozen=True)
class Setting:
    """What all stages of one command share."""

    run_dir: Path
    base: Path
    """The recipe's folder."""
    command: str
    """The id of the lock this runs under."""
    tell: Tell


@dataclass
class Reporter:
    """What a stage says, logs and how far it is: to its files, and to whoever waits."""

    stage: str
    folder: Path
    setting: Setting
    log_file: TextIOWrapper
    metrics_file: TextIOWrapper
    told: float = field(default=0.0)
    marked: float = field(default=0.0)

    def say(self, text: str) -> None:
        for line in str(text).splitlines():
            self.log_file.write(f"{state.now()} {line}\n")
            self.setting.tell({"event": "say", "stage": self.stage, "line": line})

    def log(self, figures: dict[str, Any]) -> None:
        line = json.dumps(state.plain({"time": state.now(), **figures}), ensure_ascii=False)
        self.metrics_file.write(f"{line}\n")

    def progress(self, *, done: float, total: float | None, unit: str, **figures: float) -> None:
        moment = time.monotonic()
        last = total is not None and done >= total
        values: dict[str, float | None] = {key: state.plain(value) for key, value in figures.items()}
        if last or moment - self.told >= TELL_EVERY:
            self.told = moment
            numbers = {"done": done, "total": total, "unit": unit, "figures": values}
            self.setting.tell({"event": "progress", "stage": self.stage, **numbers})
        if last or moment - self.marked >= MARK_EVERY:
            self.marked = moment
            self.mark(done, total, unit, values)

    def mark(
        self,
        done: float = 0,
        total: float | None = None,
        unit: str = "",
        figures: Mapping[str, float | None] | None = None,
    ) -> None:
        state.write_light(
            self.folder / state.PROGRESS,
            state.ProgressMark(
                command=self.setting.command,
                done=done,
                total=total,
                unit=unit,
                figures=dict(figures or {}),
                time=state.now(),
            ),
        )


def run_stage(stage: Stage, earlier: set[str], setting: Setting) -> state.Done:
    """Begin the stage or go on with it, and write done.json last. What stops it is raised, and recorded elsewhere.

    `earlier` are the names of the stages before it. Of several processes the first keeps the records and prepares;
    each runs.
    """
    folder = setting.run_dir / stage.name
    inputs = _inputs(stage, earlier, setting.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    started = _begin(stage, folder, inputs, earlier, setting)
    append_jsonl(folder / state.METRICS, [])  # Removes a line that a killed attempt left half-written.
    with (
        (folder / state.LOG).open("a", buffering=1, encoding="utf-8") as log_file,
        (folder / state.METRICS).open("a", buffering=1, encoding="utf-8") as metrics_file,
    ):
        reporter = Reporter(stage.name, folder, setting, log_file, metrics_file)
        reporter.mark()
        job = _job(folder, reporter, inputs, setting)
        provenance.reset_peak_memory()
        clock = time.monotonic()
        stage.prepare(job)
        ranks.wait_for_everyone()
        metrics = stage.run(job) if stage.shards == 1 else _run_shards(stage, job, setting)
        seconds = round(time.monotonic() - clock, 3)
        done = _done(stage, started, job, metrics, seconds, setting.base)
    state.write(folder / state.DONE, done)
    shutil.rmtree(job.scratch, ignore_errors=True)
    return done


def _job(folder: Path, reporter: Reporter, inputs: Mapping[str, Built], setting: Setting) -> Job:
    return Job(
        out=folder,
        say=reporter.say,
        progress=reporter.progress,
        log=reporter.log,
        inputs=inputs,
        base=setting.base,
        store=setting.run_dir.parent / STORE,
    )


def _run_shards(stage: Stage, job: Job, setting: Setting) -> Mapping[str, Any]:
    """Make the shards that no job has made, one after another, and join them all."""
    open_ones = shards.missing(setting.run_dir, stage)
    if open_ones:
        job.say(f"{len(open_ones)} of {stage.shards} shards are to be made here")
    works: dict[int, Job] = {}
    for index in open_ones:
        folder = shards.folder(setting.run_dir, shards.name(stage.name, index))
        works[index] = replace(job, out=folder, say=partial(_said_by, job, index), resolved={})
    _make(stage, job, works)
    folders = [shards.folder(setting.run_dir, given) for given in shards.names(stage)]
    return stage.join(job, folders)


def _said_by(job: Job, index: int, text: str) -> None:
    job.say("\n".join(f"shard {index}: {line}" for line in text.splitlines()))


def _make(stage: Stage, job: Job, works: Mapping[int, Job]) -> None:
    clock = time.monotonic()
    for index, metrics in stage.run_shards(job, works):
        record = shards.ShardDone(
            index=index,
            count=stage.shards,
            metrics=state.plain(metrics),
            seconds=round(time.monotonic() - clock, 3),
            host=socket.gethostname(),
            finished=state.now(),
        )
        state.write(works[index].out / shards.SHARD, record)
        clock = time.monotonic()


def run_shard(stage: Stage, index: int, earlier: set[str], setting: Setting) -> float:
    """Make one shard of a stage, beside other processes that make the others; returns the seconds it took."""
    began = time.monotonic()
    given = shards.name(stage.name, index)
    whole, folder = setting.run_dir / stage.name, shards.folder(setting.run_dir, given)
    inputs = _inputs(stage, earlier, setting.run_dir)
    whole.mkdir(parents=True, exist_ok=True)
    state.remove(whole / state.FAILED)  # How an earlier attempt at the whole ended is no longer true.
    _begin(stage, whole, inputs, earlier, setting)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    with (
        (folder / state.LOG).open("a", buffering=1, encoding="utf-8") as log_file,
        (folder / state.METRICS).open("a", buffering=1, encoding="utf-8") as metrics_file,
    ):
        reporter = Reporter(given, folder, setting, log_file, metrics_file)
        reporter.mark()
        job = _job(folder, reporter, inputs, setting)
        _make(stage, job, {index: job})
    return round(time.monotonic() - began, 3)


def take_part(stage: Stage, earlier: set[str], setting: Setting) -> None:
    """Run the stage beside the first process, once that one has prepared it; records nothing."""
    ranks.wait_for_everyone()
    job = Job(
        out=setting.run_dir / stage.name,
        say=_unsaid,
        log=_unlogged,
        inputs=_inputs(stage, earlier, setting.run_dir),
        base=setting.base,
        store=setting.run_dir.parent / STORE,
    )
    stage.run(job)


def _unsaid(line: str) -> None:
    """The first process says it."""


def _unlogged(figures: dict[str, Any]) -> None:
    """The first process logs them."""


def _inputs(stage: Stage, earlier: set[str], run_dir: Path) -> dict[str, Built]:
    found: dict[str, Built] = {}
    for name in input_names(stage, earlier):
        built = state.built(run_dir, name)
        if built is None:
            raise RunError(
                f"its input {name} is not done",
                where=f"stages.{stage.name}",
                way_out="Run without --only, or run that stage first.",
            )
        found[name] = built
    return found


def _sweep(folder: Path) -> None:
    """Remove how the last attempt ended, and files it was writing aside when it was killed."""
    for name in (state.FAILED, state.WAITING, state.TRACE):
        state.remove(folder / name)
    for name in (state.DONE, state.STARTED, state.PROGRESS, state.FAILED, state.WAITING):
        for left in folder.glob(f".{name}.*.tmp"):
            state.remove(left)


def _begin(
    stage: Stage, folder: Path, inputs: Mapping[str, Built], earlier: set[str], setting: Setting
) -> state.Started:
    found = state.read(folder / state.STARTED, state.Started)
    if found is not None:
        changed = differences(stage, found, cast("Mapping[str, Built | None]", inputs), setting.base, earlier)
        if not changed:
            return found
        if state.worth_keeping(folder):
            raise RunError(
                "\n  ".join(["what it was begun with has changed:", *changed]),
                where=f"stages.{stage.name}",
                way_out=f"Change it back, or begin the stage anew: --from {stage.name}.",
            )
        state.clear(folder)
    config = cast("dict[str, Any]", state.plain(resolved(stage)))
    builds = {name: built.build for name, built in inputs.items()}
    files = input_files(stage, setting.base, earlier)
    started = state.Started(
        name=stage.name,
        kind=str(config.get("kind", type(stage).__name__)),
        build=state.new_build(config, builds, files),
        config=config,
        inputs=builds,
        files=files,
        seed=getattr(stage, "seed", None),
        started=state.now(),
    )
    state.write(folder / state.STARTED, started)
    return started


def _done(
    stage: Stage, started: state.Started, job: Job, metrics: Mapping[str, Any], seconds: float, base: Path
) -> state.Done:
    begun = started.model_dump()
    # Values that do not shape the result may have changed since the first attempt: those of the last one count.
    begun["config"] = state.plain(resolved(stage))
    return state.Done(
        **begun,
        resolved=state.plain(job.resolved),
        metrics=state.plain(metrics),
        versions=provenance.versions(),
        device=provenance.device(),
        commit=provenance.commit(base.absolute()),
        finished=state.now(),
        seconds=seconds,
        peak_memory=provenance.peak_memory(),
    )
