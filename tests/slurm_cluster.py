"""Two virtual nodes of a real SLURM for the tests that ask for them; they go when the tests are over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.handmade import ROOT, environment, heliograph, until

SCRIPTS = ROOT / "tests" / "cluster"
SITE = """\
# A cluster file for it.
partition: main
gpus_per_node: 2
cpus_per_gpu: 1
cpus: 1
warning_seconds: 20
"""
CANNOT = 3


@dataclass(frozen=True)
class Cluster:
    """How to reach it."""

    conf: Path

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.conf)}

    def ask(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            words, env=environment() | self.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def field(self, job: str, name: str) -> str:
        """One of `scontrol show job`'s fields."""
        told = self.ask("scontrol", "--oneliner", "show", "job", job)
        return next(word.partition("=")[2] for word in told.split() if word.startswith(f"{name}="))

    def state(self, job: str) -> str:
        return self.field(job, "JobState")

    def until_ended(self, jobs: Mapping[str, str], seconds: float = 60) -> dict[str, str]:
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
        until(lambda: {self.state(job) for job in jobs.values()} <= ended, seconds)
        return {stage: self.state(job) for stage, job in jobs.items()}


@contextmanager
def running() -> Generator[Cluster, None, None]:
    """Up in a second where the packages are installed; skips the test, with the reason, where it cannot be."""
    # Short: unix sockets lie in it. And every user's jobs must be able to enter it.
    folder = Path(tempfile.mkdtemp(prefix="hg", dir="/tmp")) / "c"
    folder.parent.chmod(0o755)
    try:
        up = subprocess.run(
            ["bash", SCRIPTS / "up.sh", folder, "2", "2"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if up.returncode == CANNOT:
            pytest.skip(up.stderr.strip().splitlines()[-1])
        assert up.returncode == 0, up.stderr
        yield Cluster(folder / "etc" / "slurm.conf")
    finally:
        subprocess.run(["bash", SCRIPTS / "down.sh", folder], timeout=120, check=True)
        shutil.rmtree(folder.parent)


def without_slurm() -> dict[str, str]:
    """An environment in which none of SLURM's commands is found."""
    folders = [f for f in os.environ["PATH"].split(os.pathsep) if not (Path(f) / "sbatch").exists()]
    return {"PATH": os.pathsep.join(folders)}


def submitted(recipe: Path, site: Path, cluster: Cluster, *more: str) -> dict[str, str]:
    """Numbers of the jobs, by stage."""
    done = heliograph(
        "submit", recipe, "--cluster", site, "--json", *more, cwd=recipe.parent, env=cluster.env
    )
    assert done.returncode == 0, done.stderr
    return {job["stage"]: job["job"] for job in json.loads(done.stdout)["jobs"]}


def status(recipe: Path, cluster: Cluster) -> str:
    done = heliograph("status", recipe, cwd=recipe.parent, env=cluster.env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def row(text: str, stage: str) -> list[str]:
    """The stage's line in the table of jobs."""
    return [line for line in text.splitlines() if line.startswith(stage)][-1].split()


def hook(folder: Path, gate: Path) -> Path:
    """A sitecustomize by which workers wait for a file."""
    code = f"""
import os, sys, time
if "pipelines.worker" in sys.orig_argv:
    open({str(folder)!r} + f"/waiting-{{os.getpid()}}", "w").close()
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.05)
"""
    place = folder / "hook"
    place.mkdir()
    (place / "sitecustomize.py").write_text(code)
    return place
