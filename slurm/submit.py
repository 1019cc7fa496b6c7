"""Hand a graph of jobs to SLURM, all of it or none: when one is refused, those before it are cancelled."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence

from data.errors import RunError
from slurm.jobs import Job, command
from slurm.site import Site

PATIENCE = 60.0
"""Seconds for one answer; a controller that is down lets its clients wait for their own limit first."""


def ask(words: Sequence[str], seconds: float = PATIENCE) -> str:
    """What one of SLURM's commands prints; RunError when it is absent, fails or does not answer."""
    tool = words[0]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as absent:
        raise RunError(
            "SLURM's commands are not here", where=tool, way_out="Run this on a login node of the cluster."
        ) from absent
    except subprocess.TimeoutExpired as slow:
        raise RunError(
            f"no answer in {seconds:g} s",
            where=tool,
            way_out="The controller is down or unreachable: try again later.",
        ) from slow
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        text = "; ".join(re.sub(rf"^{tool}: (error: )?", "", line) for line in lines[-3:])
        raise RunError(text or f"exit code {done.returncode}", where=tool, way_out=_way_out(text))
    return done.stdout


_WAYS = {
    "invalid partition": "`sinfo` lists the partitions; name one in the cluster file.",
    "account": "`sacctmgr show user $USER withassoc` lists yours; name one in the cluster file.",
    "qos": "`sacctmgr show qos` lists them; name one in the cluster file.",
    "generic resource": "`sinfo -o '%P %G'` shows the GPUs there are; set gpu_type and gpus_per_node to that.",
    "node configuration is not available": "`sinfo -o '%P %c %m %G'` shows what nodes have; ask for less.",
    "time limit": "`sinfo -o '%P %l'` shows the limits; set max_hours in the cluster file.",
    "unable to contact": "The controller is down or unreachable: try again later.",
    "invalid job id": "The job is no longer known to SLURM.",
}


def _way_out(text: str) -> str | None:
    return next((way for words, way in _WAYS.items() if words in text.casefold()), None)


def submit(
    jobs: Iterable[Job],
    site: Site,
    known: Mapping[str, str],
    submitted: Callable[[Job, str], None],
) -> dict[str, str]:
    """Ids by key. Jobs come in an order in which each follows those it waits for.

    `known` are jobs that are in the queue already; `submitted` is told of each job as soon as it is there.
    """
    ids: dict[str, str] = {}
    key = ""
    try:
        for job in jobs:
            key = job.key
            after = [{**known, **ids}[key] for key in job.after]
            answer = ask(command(job, site, after)).strip()
            number = answer.partition(";")[0]  # A federation appends the cluster's name.
            if not number.isdigit():
                raise RunError(f"answered {answer!r} instead of a job's number", where="sbatch")
            ids[job.key] = number
            submitted(job, number)
    except RunError as refused:
        told = _undone(ids)
        raise RunError(
            f"{key} was refused: {refused.what}",
            where=refused.where,
            way_out=_joined(refused.way_out, told),
        ) from refused
    except BaseException:  # Ctrl-C in the middle must not leave half a chain behind.
        cancel(ids.values())
        raise
    return ids


def _joined(way_out: str | None, told: str) -> str:
    return f"{way_out}\n  {told}" if way_out else told


def _undone(ids: Mapping[str, str]) -> str:
    if not ids:
        return "Nothing was submitted."
    listed = ", ".join(f"{key} (job {number})" for key, number in ids.items())
    try:
        cancel(ids.values())
    except RunError as fault:
        by_hand = f"scancel {' '.join(ids.values())}"
        return f"Submitted before it, and NOT cancelled ({fault.what}): {listed}. Cancel them: {by_hand}"
    return f"Submitted before it, and cancelled again: {listed}."


def cancel(ids: Iterable[str]) -> None:
    if wanted := list(ids):
        ask(["scancel", *wanted])


def release(ids: Iterable[str]) -> None:
    if wanted := list(ids):
        ask(["scontrol", "release", ",".join(wanted)])
