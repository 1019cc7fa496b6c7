"""`heliograph submit`: a recipe's unfinished stages as a graph of jobs."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import RunError
from data.jsonl import replacing
from pipelines import lock, shards, state
from pipelines.closing import keep_command
from pipelines.cluster import records as job_records
from pipelines.cluster.launcher import config_file
from pipelines.cluster.site import load_cluster
from pipelines.plan import Planned, dependents, plan
from pipelines.recipe import Recipe, from_json, load, resolved
from pipelines.run import known_stage, refuse_stale, run_folder, set_aside, snapshot
from pipelines.stage import Stage, input_names
from pipelines.summary import plural, table
from slurm import jobs, queue
from slurm.jobs import Job, Need
from slurm.site import Site
from slurm.submit import submit as submit_jobs
from trainers.config import GenerationOptions, TrainingOptions

Show = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    recipe: Path
    cluster: Path
    overrides: tuple[str, ...] = ()
    name: str | None = None
    until: str | None = None
    from_stage: str | None = None
    runs_dir: Path = Path("runs")
    dry_run: bool = False


@dataclass(frozen=True)
class Chain:
    """What is to be submitted, and what stands already."""

    run_dir: Path
    site: Site
    site_file: Path
    settings: str
    jobs: tuple[Job, ...]
    done: tuple[str, ...]
    live: Mapping[str, str]
    """Stages that have a job in the queue, and its number."""
    kinds: Mapping[str, str]


def submit(request: Request, show: Show, notice: Show) -> dict[str, Any]:
    """Submit, or with `dry_run` only say what would be; returns the same as plain values."""
    site = load_cluster(request.cluster)
    recipe = load(request.recipe, request.overrides)
    for line in recipe.notices:
        notice(str(line))
    for option, stage in (("--until", request.until), ("--from", request.from_stage)):
        known_stage(recipe, option, stage)
    run_dir = run_folder(recipe, request.name, request.runs_dir).absolute()
    if request.dry_run:
        chain = _chain(recipe, run_dir, site, request)
        for line in dry(chain):
            show(line)
        return _told(chain, {})
    # Shared with jobs at work on this run; a `heliograph run` on it holds the lock alone.
    command = shlex.join(["heliograph", *sys.argv[1:]])
    held = lock.acquire_stage(run_dir, ".submit", command)
    try:
        if held.notice:
            notice(held.notice)
        chain = _chain(recipe, run_dir, site, request)
        if chain.jobs:
            for name in dependents(recipe, request.from_stage) if request.from_stage else []:
                set_aside(run_dir, name, show)
            snapshot(recipe, run_dir)
            keep_command(run_dir, command)
            _write(chain)
        ids = submit_jobs(
            chain.jobs, site, chain.live, lambda job, number: _record(chain, request, job, number)
        )
    finally:
        held.release()
    for line in _shown(chain, ids):
        show(line)
    return _told(chain, ids)


def _chain(recipe: Recipe, run_dir: Path, site: Site, request: Request) -> Chain:
    live = _live(recipe, run_dir)
    aside = dependents(recipe, request.from_stage) if request.from_stage else []
    if blocked := [name for name in live if shards.parsed(name)[0] in aside]:
        raise RunError(
            f"jobs are in the queue for {', '.join(blocked)}",
            where="--from",
            way_out=f"Cancel them first: heliograph cancel {run_dir.name}.",
        )
    planned = plan(recipe, run_dir, aside=frozenset(aside))
    wanted = _wanted(recipe, request.until)
    items = [item for item in planned if item.name in wanted]
    refuse_stale(items)
    done = tuple(item.name for item in items if item.state == "done")
    pending = [item for item in items if item.state != "done" and item.name not in live]
    parts = {item.name: _open_shards(item, run_dir, live, set(aside)) for item in pending}
    settings = jobs.settings(site, sys.executable, str(request.cluster), _source_path(site))
    mark = hashlib.sha256(settings.encode()).hexdigest()[:8]
    site_file = run_dir / job_records.FOLDER / f"site-{mark}.sh"
    made = tuple(
        job
        for item in pending
        for job in _jobs(item, recipe.base, run_dir, site, site_file, set(done), parts[item.name], live)
    )
    shown = {name: number for name, number in live.items() if shards.parsed(name)[0] in wanted}
    kinds = {item.name: item.kind for item in items}
    return Chain(run_dir, site, site_file, settings, made, done, shown, kinds)


def _wanted(recipe: Recipe, until: str | None) -> set[str]:
    """All stages, or one and what it needs, directly or through others."""
    names = [stage.name for stage in recipe.stages]
    if until is None:
        return set(names)
    wanted = {until}
    for stage in reversed(recipe.stages):
        if stage.name in wanted:
            wanted |= set(input_names(stage, set(names)))
    return wanted


def _live(recipe: Recipe, run_dir: Path) -> dict[str, str]:
    """Stages whose job is in the queue. What such a job will read may not be changed under it."""
    records = ((name, job_records.submitted(run_dir, name)) for name in shards.every_name(recipe))
    found = {name: record.job for name, record in records if record}
    if not found:
        return {}
    seen = queue.look(found.values())
    live = {name: number for name, number in found.items() if seen[number].alive}
    if live:
        before = {stage.name: stage for stage in from_json(state.read_json(run_dir / state.RECIPE)).stages}
        for stage in recipe.stages:
            old = before.get(stage.name)
            job = next((live[name] for name in (*shards.names(stage), stage.name) if name in live), None)
            if job is not None and (old is None or resolved(old) != resolved(stage)):
                raise RunError(
                    f"job {job} is in the queue for it, submitted with other settings",
                    where=f"stages.{stage.name}",
                    way_out=f"Cancel it first (heliograph cancel {run_dir.name}), or use another run: --name NEW.",
                )
    return live


def need(stage: Stage, site: Site) -> Need:
    """What the stage asks for; a stage that trains or generates takes one GPU where there are any."""
    asked = stage.resources
    runs_model = isinstance(stage, (TrainingOptions, GenerationOptions))
    gpus = asked.gpus if asked and asked.gpus is not None else int(runs_model and site.gpus_per_node > 0)
    return Need(gpus, asked.nodes if asked else None, asked.hours if asked else None)


def _open_shards(item: Planned, run_dir: Path, live: Mapping[str, str], aside: set[str]) -> tuple[int, ...]:
    """Shards that are neither done nor in the queue."""
    stage = item.stage
    if stage.shards == 1:
        return ()
    left = range(stage.shards) if item.name in aside else shards.missing(run_dir, stage)
    return tuple(index for index in left if shards.name(stage.name, index) not in live)


def _jobs(
    item: Planned,
    base: Path,
    run_dir: Path,
    site: Site,
    site_file: Path,
    done: set[str],
    parts: tuple[int, ...],
    live: Mapping[str, str],
) -> list[Job]:
    """Of a stage; where it is split, an array for its shards, and a small job that joins them."""
    job = _job(item, base, run_dir, site, site_file, done)
    if item.stage.shards == 1:
        return [job]
    array = replace(job, key=f"{item.name}.shards", array=parts)
    waited = tuple(name for name in shards.names(item.stage) if name in live)
    after = (array.key, *waited) if parts else waited
    whole = replace(job, name=f"{job.name}.join", need=Need(), after=after or job.after)
    return [array, whole] if parts else [whole]


def _job(item: Planned, base: Path, run_dir: Path, site: Site, site_file: Path, done: set[str]) -> Job:
    stage = item.stage
    asked = need(stage, site)
    where = f"stages.{stage.name}"
    processes = jobs.shape(asked, site, where).processes
    if processes > 1 and not isinstance(stage, TrainingOptions):
        raise RunError(
            f"asks for {processes} processes, and kind {item.kind} works in one",
            where=f"{where}.resources",
            way_out="Ask for one GPU on one node.",
        )
    if stage.resources and stage.resources.accelerate_config and not isinstance(stage, TrainingOptions):
        raise RunError(
            f"kind {item.kind} does not train, and runs in one process",
            where=f"{where}.resources.accelerate_config",
            way_out="Leave it out.",
        )
    config_file(stage, base, processes)  # One that cannot be read is told here, and not by a job hours later.
    return Job(
        key=stage.name,
        name=f"{run_dir.name}/{stage.name}",
        need=asked,
        after=tuple(name for name in item.inputs if name not in done),
        output=run_dir / job_records.FOLDER / stage.name,
        arguments=(str(run_dir), stage.name, str(site_file)),
    )


def _source_path(site: Site) -> str:
    """Where the program is, when it runs from a source tree."""
    root = str(Path(__file__).parents[2])
    installed = root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return "" if installed or site.python else root


def _write(chain: Chain) -> None:
    chain.site_file.parent.mkdir(exist_ok=True)
    with replacing(chain.site_file) as file:
        file.write(chain.settings.encode())


def _record(chain: Chain, request: Request, job: Job, number: str) -> None:
    """At once: a command that dies here must not leave jobs that nobody knows."""
    stage = shards.parsed(job.key)[0]
    tasks = [(shards.name(stage, i), f"{number}_{i}", f".{i}-{number}_{i}") for i in job.array]
    for name, known, ending in tasks or [(job.key, number, f"-{number}")]:
        record = job_records.Submitted(
            job=known,
            cluster=os.path.abspath(request.cluster),
            attempts=chain.site.attempts,
            time=state.now(),
            output=f"{job.output}{ending}.out",
        )
        state.write(job_records.submitted_file(chain.run_dir, name), record)


def dry(chain: Chain) -> list[str]:
    """The exact script, settings and commands, ready to be pasted."""
    lines = [f"# {jobs.SCRIPT}", *jobs.SCRIPT.read_text(encoding="utf-8").splitlines(), ""]
    lines += [f"# {jobs.NODE_SCRIPT}", *jobs.NODE_SCRIPT.read_text(encoding="utf-8").splitlines(), ""]
    lines += [f"# {chain.site_file}", *chain.settings.splitlines(), ""]
    lines += [f"# {name}: done" for name in chain.done]
    lines += [f"# {name}: job {number} is in the queue" for name, number in chain.live.items()]
    ids = {**chain.live, **{job.key: f"${_variable(job.key)}" for job in chain.jobs}}
    for job in chain.jobs:
        words = jobs.command(job, chain.site, [ids[key] for key in job.after])
        lines.append(f"{_variable(job.key)}=$({_pasted(words, ids.values())})")
    return lines


def _variable(name: str) -> str:
    return "job_" + "".join(c if c.isalnum() else "_" for c in name)


def _pasted(words: Sequence[str], variables: Any) -> str:
    """Quoted for a shell, but for the variables that hold numbers of jobs."""
    used = {value for value in variables if value.startswith("$")}
    return " ".join(
        f'"{word}"' if any(value in word for value in used) else shlex.quote(word) for word in words
    )


def _shown(chain: Chain, ids: Mapping[str, str]) -> list[str]:
    rows = [("stage", "kind", "job", "after")]
    mine = {job.key: job for job in chain.jobs}
    for name, kind in chain.kinds.items():
        for key in (f"{name}.shards", name):
            if key in ids:
                job = mine[key]
                shown = f"{name}, {plural(len(job.array), 'shard')}" if job.array else name
                rows.append((shown, kind, ids[key], ", ".join(job.after)))
        if name in chain.live:
            rows.append((name, kind, chain.live[name], "in the queue already"))
        elif name in chain.done:
            rows.append((name, kind, "", "done"))
    told = plural(len(ids), "job") + " submitted" if ids else "nothing to submit"
    return [*table(rows), "", f"{told}; `heliograph status {chain.run_dir}` shows how they fare"]


def _told(chain: Chain, ids: Mapping[str, str]) -> dict[str, Any]:
    return {
        "run": chain.run_dir.name,
        "folder": str(chain.run_dir),
        "done": list(chain.done),
        "queued": dict(chain.live),
        "settings": chain.settings,
        "jobs": [
            {
                "stage": job.key,
                **({"array": list(job.array)} if job.array else {}),
                "job": ids.get(job.key),
                "after": list(job.after),
                "command": jobs.command(
                    job, chain.site, [{**chain.live, **ids}.get(key, key) for key in job.after]
                ),
            }
            for job in chain.jobs
        ],
    }
