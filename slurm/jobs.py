"""A job as sbatch's flags: what it needs, where it runs, what it waits for."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import RunError
from slurm.site import Site

SCRIPT = Path(__file__).parent / "stage.sbatch"
NODE_SCRIPT = Path(__file__).parent / "node.sh"
SPARE_SECONDS = 15
"""Of the warning: what asking for the job's return to the queue may take."""


@dataclass(frozen=True)
class Need:
    """What a job needs; None is the site's to say."""

    gpus: int = 0
    nodes: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Shape:
    """The same on a site's nodes."""

    nodes: int
    gpus: int
    """On each node."""

    @property
    def processes(self) -> int:
        """One for each GPU, and on nodes without GPUs one each."""
        return self.nodes * max(1, self.gpus)


@dataclass(frozen=True)
class Job:
    """A job to be. `after` are keys of jobs that must have ended well before."""

    key: str
    name: str
    need: Need
    after: tuple[str, ...]
    output: Path
    """Where what it prints goes; `-NUMBER.out` is appended, and `.TASK-NUMBER_TASK.out` for a task of an array."""
    arguments: tuple[str, ...]
    """Of the script."""
    array: tuple[int, ...] = ()
    """Tasks of an array, by their numbers; none: a job of its own."""


def shape(need: Need, site: Site, where: str) -> Shape:
    """How many nodes, and how many GPUs on each; an error where the site's nodes cannot hold it."""
    if need.gpus == 0:
        return Shape(need.nodes or 1, 0)
    if site.gpus_per_node == 0:
        raise RunError(
            "asks for GPUs, and the cluster has none",
            where=where,
            way_out="Set `gpus_per_node:` in the cluster file, or `resources: {gpus: 0}` for this stage.",
        )
    nodes = need.nodes or math.ceil(need.gpus / site.gpus_per_node)
    if need.gpus % nodes:
        raise RunError(
            f"{need.gpus} GPUs do not spread evenly over {nodes} nodes",
            where=where,
            way_out=f"Ask for {math.ceil(need.gpus / nodes) * nodes} GPUs, or for other `nodes:`.",
        )
    if need.gpus > nodes * site.gpus_per_node:
        raise RunError(
            f"{need.gpus} GPUs do not fit on {nodes} of the cluster's nodes, which have {site.gpus_per_node} each",
            where=where,
            way_out=f"Leave `nodes:` out, or ask for {math.ceil(need.gpus / site.gpus_per_node)}.",
        )
    return Shape(nodes, need.gpus // nodes)


def clock(hours: float) -> str:
    """Days-hours:minutes:seconds, in whole minutes as SLURM counts them."""
    minutes = max(1, math.ceil(hours * 60))
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"


def flags(job: Job, site: Site, after: Sequence[str] = ()) -> list[str]:
    """Everything sbatch is told about a job; `after` are the ids of the jobs it waits for."""
    on = shape(job.need, site, job.key)
    per_node = on.gpus
    found = [
        f"--job-name={job.name}",
        f"--partition={(site.partition if per_node else site.cpu_partition) or site.partition}",
        *([f"--account={site.account}"] if site.account else []),
        *([f"--qos={site.qos}"] if site.qos else []),
        f"--nodes={on.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={per_node * site.cpus_per_gpu if per_node else site.cpus}",
    ]
    if per_node:
        found.append(f"--gres=gpu:{site.gpu_type}:{per_node}" if site.gpu_type else f"--gres=gpu:{per_node}")
    memory = site.mem if not per_node else site.mem_per_gpu and site.mem_per_gpu * per_node
    if memory is not None:
        found.append(f"--mem={memory}G")
    if site.exclusive and on.nodes > 1:
        found.append("--exclusive")
    limits = [hours for hours in (job.need.hours, site.max_hours) if hours is not None]
    if limits:
        found.append(f"--time={clock(min(limits))}")
    found += [
        f"--signal=B:USR1@{site.warning_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--output={_plain(job.output)}.%a-%A_%a.out"
        if job.array
        else f"--output={_plain(job.output)}-%j.out",
    ]
    if job.array:
        found.append(f"--array={','.join(map(str, job.array))}")
    if after:
        found += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    return [*found, *site.sbatch]


def command(job: Job, site: Site, after: Sequence[str] = ()) -> list[str]:
    return ["sbatch", "--parsable", *flags(job, site, after), str(SCRIPT), *job.arguments]


def settings(site: Site, python: str, source: str, path: str = "") -> str:
    """The file every node of a job reads first: the site's words on how to run Python there."""
    lines = [
        f"# Written by `heliograph submit` from {' '.join(source.split())}; the job script reads it on every node."
    ]
    lines += [f"node_script={shlex.quote(str(NODE_SCRIPT))}", f"python={shlex.quote(site.python or python)}"]
    lines.append(f"save_seconds={max(10, site.warning_seconds - SPARE_SECONDS)}")
    lines.append(f"container=({' '.join(_filled(word) for word in site.container)})")
    lines += ["export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1"]
    if path:  # The program runs from a source tree, and a safe path does not look there.
        lines.append(f"export PYTHONPATH={shlex.quote(path)}${{PYTHONPATH:+:$PYTHONPATH}}")
    if site.scratch:
        lines += [f"TMPDIR={_filled(site.scratch)}", "export TMPDIR", 'mkdir -p -- "$TMPDIR"']
    return "\n".join([*lines, *site.setup.splitlines(), ""])


def _filled(word: str) -> str:
    """In double quotes: variables are filled in on the node, and nothing else is read into it."""
    kept = word.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$(", "\\$(")
    return f'"{kept}"'


def _plain(path: Path) -> str:
    """SLURM reads % in a path as the start of a pattern."""
    return str(path).replace("%", "%%")
