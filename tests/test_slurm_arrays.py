"""A sampling stage as an array of four jobs on a real SLURM: joined, one task killed and retried alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import state
from pipelines.cluster import records as job_records
from tests.handmade import heliograph, until
from tests.slurm_cluster import SITE, Cluster, row, running, status, submitted
from tests.training import write_rows

pytestmark = pytest.mark.slurm

RECIPE = """\
recipe: split
stages:
  - {name: answers, kind: sample, model: tiny, prompts: prompts.jsonl, num_return_sequences: 2, batch_size: 4,
     max_new_tokens: 8, resources: {shards: 4}}
"""
ONE_DIES = """
import os, signal, sys
if "pipelines.worker" in sys.orig_argv and sys.orig_argv[-1] == "answers.2":
    try:
        os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGSEGV)
    except FileExistsError:
        pass
"""
ONE_WAITS = """
import os, sys, time
if "pipelines.worker" in sys.orig_argv and sys.orig_argv[-1] == "answers.1":
    open({mark!r}, "w").close()
    while not os.path.exists({mark!r} + ".go"):
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The rows of one process that makes them all."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = written(folder, RECIPE.replace(", resources: {shards: 4}", ""))
    done = heliograph("run", recipe, cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "runs" / "split" / "answers" / "rows.jsonl").read_bytes()


def written(folder: Path, text: str = RECIPE) -> Path:
    write_rows(
        folder / "prompts.jsonl", [{"prompt": "The lamp" + " and the sun" * (i % 5)} for i in range(9)]
    )
    recipe = folder / "split.yaml"
    recipe.write_text(text)
    return recipe


def hooked(folder: Path, code: str, mark: Path) -> Path:
    """A cluster file by which workers start with that code."""
    place = folder / "hook"
    place.mkdir()
    (place / "sitecustomize.py").write_text(code.replace("{mark!r}", repr(str(mark))))
    site = folder / "site.yaml"
    site.write_text(SITE + f"setup: export PYTHONPATH={place}:$PYTHONPATH\n")
    return site


def test_an_array_is_joined_and_a_killed_task_is_made_again_alone(
    tmp_path: Path, cluster: Cluster, whole: bytes
) -> None:
    recipe = written(tmp_path)
    site = hooked(tmp_path, ONE_DIES, tmp_path / "died")
    jobs = submitted(recipe, site, cluster)
    assert list(jobs) == ["answers.shards", "answers"]
    assert cluster.field(jobs["answers"], "Dependency").startswith(f"afterok:{jobs['answers.shards']}_")
    assert cluster.until_ended({"answers": jobs["answers"]}, 240) == {"answers": "COMPLETED"}
    run = tmp_path / "runs" / "split"
    assert (run / "answers" / "rows.jsonl").read_bytes() == whole
    tries = [[a.how for a in job_records.attempts(run, f"answers.{i}")] for i in range(4)]
    assert tries == [["done"], ["done"], ["failed", "done"], ["done"]]
    shards = [state.read_json(run / "answers" / "shards" / str(i) / "shard.json") for i in range(4)]
    assert [(s["index"], s["count"]) for s in shards if isinstance(s, dict)] == [(i, 4) for i in range(4)]
    # 9 prompts, two a batch: five batches, of which the first shard has two.
    prompts = [s["metrics"]["prompts"] for s in shards if isinstance(s, dict)]
    assert sum(prompts) == 9
    assert sorted(prompts) in ([1, 2, 2, 4], [2, 2, 2, 3])
    text = status(recipe, cluster)
    for i in range(4):
        assert row(text, f"answers.{i}")[1:3] == [f"{jobs['answers.shards']}_{i}", "COMPLETED"]
    assert row(text, "answers.2")[4] == "1"  # restarts
    log = heliograph("logs", "split", "answers.2", cwd=tmp_path, env=cluster.env)
    assert log.returncode == 0
    assert "sampler: prefill once" in log.stdout


def test_a_cancelled_task_is_submitted_again_alone(tmp_path: Path, cluster: Cluster, whole: bytes) -> None:
    recipe = written(tmp_path)
    mark = tmp_path / "waiting"
    site = hooked(tmp_path, ONE_WAITS, mark)
    jobs = submitted(recipe, site, cluster)
    array = jobs["answers.shards"]
    others = {str(i): f"{array}_{i}" for i in (0, 2, 3)}
    assert set(cluster.until_ended(others, 240).values()) == {"COMPLETED"}
    until(mark.exists, 60)
    seen = json.loads(heliograph("status", recipe, "--json", cwd=tmp_path, env=cluster.env).stdout)
    assert seen["stages"][0]["state"] == "running"
    assert seen["stages"][0]["reasons"] == ["3/4 shards"]
    cluster.ask("scancel", f"{array}_1")
    ended = cluster.until_ended({"1": f"{array}_1", "answers": jobs["answers"]}, 60)
    assert ended == {"1": "CANCELLED", "answers": "CANCELLED"}
    Path(f"{mark}.go").touch()
    done = heliograph("submit", recipe, "--cluster", site, "--json", cwd=tmp_path, env=cluster.env)
    assert done.returncode == 0, done.stderr
    again = {job["stage"]: job for job in json.loads(done.stdout)["jobs"]}
    assert again["answers.shards"]["array"] == [1]
    assert cluster.until_ended({"answers": again["answers"]["job"]}, 240) == {"answers": "COMPLETED"}
    rows = tmp_path / "runs" / "split" / "answers" / "rows.jsonl"
    assert rows.read_bytes() == whole
