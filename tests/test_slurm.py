"""Recipes on a real SLURM of two virtual nodes: chains, failures, people, preemption, and a controller that is gone."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data.jsonl import read_jsonl
from pipelines import state
from pipelines.cluster import records as job_records
from tests.handmade import (
    RECIPE,
    ROOT,
    VOTES_RECIPE,
    candidates,
    environment,
    give_answers,
    heliograph,
    until,
    write_recipe,
)
from tests.slurm_cluster import SITE, Cluster, hook, row, running, status, submitted
from tests.training import pair_rows, sft_rows, weights, write_rows

pytestmark = pytest.mark.slurm

AFTER = """\
  - name: dpo
    kind: prefer
    model: tiny
    pairs: pick
    max_steps: 2
    max_length: 64
    per_device_train_batch_size: 2
    resources: {gpus: 0}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as found:
        yield found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


def test_a_chain_runs_in_order_and_is_not_run_again(tmp_path: Path, cluster: Cluster, site: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE + AFTER)
    run = give_answers(recipe, tmp_path / "runs")
    jobs = submitted(recipe, site, cluster)
    assert list(jobs) == ["pick", "dpo"]
    assert cluster.until_ended(jobs, 240) == {"pick": "COMPLETED", "dpo": "COMPLETED"}
    pick, dpo = (state.read(run / name / state.DONE, state.Done) for name in ("pick", "dpo"))
    assert pick is not None
    assert dpo is not None
    assert dpo.inputs == {"pick": pick.build}
    assert dpo.metrics["steps"] == 2
    assert pick.finished < dpo.started
    text = status(recipe, cluster)
    assert row(text, "dpo")[:4] == ["dpo", jobs["dpo"], "COMPLETED", "n1"]
    page = (run / "report.html").read_text()
    assert dpo.build[:12] in page
    assert (run / "dpo" / "card.md").is_file()
    (command,) = read_jsonl(run / state.COMMANDS)
    assert command["command"].startswith("heliograph submit ")
    assert command["command"] in html.unescape(page)
    again = heliograph("submit", recipe, "--cluster", site, cwd=tmp_path, env=cluster.env)
    assert "nothing to submit" in again.stdout


def test_branches_run_side_by_side_and_a_command_keeps_out(
    tmp_path: Path, cluster: Cluster, site: Path
) -> None:
    """Two jobs of one run are at work at once; `heliograph run` is told which."""
    twin = RECIPE[RECIPE.index("  - name: pick") :].replace("pick", "twin")
    recipe = write_recipe(tmp_path, RECIPE + twin)
    give_answers(recipe, tmp_path / "runs")
    # Each waits, under its lock's eyes, until the test lets it go on.
    site.write_text(SITE + "sbatch: [--hold]\n")
    jobs = submitted(recipe, site, cluster)
    gate = tmp_path / "gate"
    run = tmp_path / "runs" / "demo"
    for settings in (run / ".slurm").glob("site-*.sh"):
        settings.write_text(
            settings.read_text() + "export PYTHONPATH=" + str(hook(tmp_path, gate)) + ":$PYTHONPATH\n"
        )
    assert "released 2 jobs" in heliograph("release", "demo", cwd=tmp_path, env=cluster.env).stdout
    until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2, 60)
    assert {cluster.state(job) for job in jobs.values()} == {"RUNNING"}
    refused = heliograph("run", recipe, cwd=tmp_path)
    assert refused.returncode == 2
    assert "the run is in use (process" in refused.stderr
    assert f": job {jobs['pick']} on n" in refused.stderr
    gate.touch()
    assert set(cluster.until_ended(jobs).values()) == {"COMPLETED"}


def test_a_failure_stops_what_follows_and_says_why(tmp_path: Path, cluster: Cluster, site: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE + AFTER)
    run = give_answers(recipe, tmp_path / "runs", [{"id": "p0", "prompt": "Say.", "candidates": 3}])
    jobs = submitted(recipe, site, cluster)
    assert cluster.until_ended(jobs) == {"pick": "FAILED", "dpo": "CANCELLED"}
    failed = state.read(run / "pick" / state.FAILED, state.Failed)
    assert failed is not None
    assert failed.exit == 2
    assert not (run / "dpo").exists()
    attempts = job_records.attempts(run, "pick")
    assert [(a.job, a.how) for a in attempts] == [
        (jobs["pick"], "failed")
    ]  # An error of the data is not tried twice.
    text = status(recipe, cluster)
    assert failed.what in text
    assert row(text, "dpo")[2] == "CANCELLED"
    assert "  pick: the end of runs/demo/pick/log.txt:" in text
    log = heliograph("logs", "demo", "pick", cwd=tmp_path, env=cluster.env)
    assert failed.what in log.stdout

    # Mended, the same command goes on with what is missing.
    give_answers(recipe, tmp_path / "runs", candidates())
    again = submitted(recipe, site, cluster, "--until", "pick")
    assert cluster.until_ended(again) == {"pick": "COMPLETED"}


def test_people_hold_the_chain_until_they_are_done(tmp_path: Path, cluster: Cluster, site: Path) -> None:
    recipe = write_recipe(tmp_path, VOTES_RECIPE + AFTER)
    run = give_answers(recipe, tmp_path / "runs")
    jobs = submitted(recipe, site, cluster)
    until(lambda: cluster.field(jobs["pick"], "Reason") == "job_requeued_in_held_state", 60)
    assert cluster.state(jobs["dpo"]) == "PENDING"
    text = status(recipe, cluster)
    assert "waiting" in text
    assert "held until people are done; then `heliograph release` frees it" in text

    write_rows(tmp_path / "votes.jsonl", [{"id": f"p{i}", "chosen": 0, "rejected": 1} for i in range(3)])
    released = heliograph("release", "demo", cwd=tmp_path, env=cluster.env)
    assert released.stdout == f"released 1 job: pick ({jobs['pick']})\n"
    assert cluster.until_ended({"pick": jobs["pick"]}) == {"pick": "COMPLETED"}
    assert [a.how for a in job_records.attempts(run, "pick")] == ["waiting", "done"]
    assert heliograph("cancel", "demo", cwd=tmp_path, env=cluster.env).returncode == 0
    cluster.until_ended(jobs)


def test_a_partition_that_is_not_there_leaves_nothing_behind(
    tmp_path: Path, cluster: Cluster, site: Path
) -> None:
    recipe = write_recipe(tmp_path, RECIPE + AFTER.replace("    resources: {gpus: 0}\n", ""))
    give_answers(recipe, tmp_path / "runs")
    site.write_text("partition: nowhere\ncpu_partition: main\ngpus_per_node: 2\ncpus: 1\nsbatch: [--hold]\n")
    done = heliograph("submit", recipe, "--cluster", site, cwd=tmp_path, env=cluster.env)
    assert done.returncode == 2
    first = job_records.submitted(tmp_path / "runs" / "demo", "pick")
    assert first is not None
    assert done.stderr.splitlines() == [
        "sbatch: dpo was refused: invalid partition specified: nowhere; "
        "Batch job submission failed: Invalid partition name specified",
        "  `sinfo` lists the partitions; name one in the cluster file.",
        f"  Submitted before it, and cancelled again: pick (job {first.job}).",
    ]
    assert cluster.until_ended({"pick": first.job}) == {"pick": "CANCELLED"}


def test_a_queue_that_stands_is_kept_and_may_not_be_changed(
    tmp_path: Path, cluster: Cluster, site: Path
) -> None:
    recipe = write_recipe(tmp_path, RECIPE + AFTER)
    give_answers(recipe, tmp_path / "runs")
    site.write_text(SITE + "sbatch: [--hold]\n")
    first = submitted(recipe, site, cluster, "--until", "pick")
    rest = submitted(recipe, site, cluster)
    assert list(first), list(rest) == (["pick"], ["dpo"])
    assert cluster.field(rest["dpo"], "Dependency").startswith(f"afterok:{first['pick']}")
    changed = heliograph(
        "submit", recipe, "stages.pick.min_margin=0.5", "--cluster", site, cwd=tmp_path, env=cluster.env
    )
    assert changed.returncode == 2
    assert (
        f"stages.pick: job {first['pick']} is in the queue for it, submitted with other settings"
        in changed.stderr
    )
    cancelled = heliograph("cancel", recipe, cwd=tmp_path, env=cluster.env)
    assert cancelled.stdout.startswith(f"cancelled 2 jobs: pick ({first['pick']}), dpo ({rest['dpo']})\n")
    assert set(cluster.until_ended(first | rest).values()) == {"CANCELLED"}


def test_a_controller_that_does_not_answer_is_told(tmp_path: Path, cluster: Cluster, site: Path) -> None:
    recipe = write_recipe(tmp_path)
    give_answers(recipe, tmp_path / "runs")
    site.write_text(SITE + "sbatch: [--hold]\n")
    jobs = submitted(recipe, site, cluster)
    text = cluster.conf.read_text()
    gone = tmp_path / "slurm.conf"
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort="))
    gone.write_text(text.replace(port, "SlurmctldPort=9").replace("MessageTimeout=10", "MessageTimeout=2"))
    (tmp_path / "plugstack.conf").touch()
    env = {"SLURM_CONF": str(gone)}
    seen = heliograph("status", recipe, cwd=tmp_path, env=env)
    assert seen.returncode == 0
    assert "SLURM cannot be asked (squeue: " in seen.stdout
    assert row(seen.stdout, "pick")[:3] == ["pick", jobs["pick"], "?"]
    cancelled = heliograph("cancel", recipe, cwd=tmp_path, env=env)
    assert cancelled.returncode == 2
    assert f"Try again, or by hand: {jobs['pick']} are its jobs." in cancelled.stderr
    assert heliograph("cancel", recipe, cwd=tmp_path, env=cluster.env).returncode == 0


def test_a_job_that_cannot_go_back_into_the_queue_says_so(
    tmp_path: Path, cluster: Cluster, site: Path
) -> None:
    """`scontrol` fails inside the job; the stage waits for people, so it would have to be asked."""
    recipe = write_recipe(tmp_path, VOTES_RECIPE)
    run = give_answers(recipe, tmp_path / "runs")
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    fake.chmod(0o755)
    # Without the pauses between its tries, which are for controllers that come back.
    site.write_text(SITE + f"setup: |\n  PATH={fake.parent}:$PATH\n  sleep() {{ :; }}\n")
    jobs = submitted(recipe, site, cluster)
    assert cluster.until_ended(jobs) == {"pick": "FAILED"}
    output = (run / ".slurm" / f"pick-{jobs['pick']}.out").read_text()
    assert output.count("Unable to contact slurm controller") == 4
    assert (
        "scontrol requeuehold failed: the controller cannot be reached. Submit the recipe again: pick goes"
        in output
    )
    assert "scontrol requeuehold failed" in status(recipe, cluster)


def test_a_crash_is_tried_again_and_then_given_up(tmp_path: Path, cluster: Cluster, site: Path) -> None:
    recipe = write_recipe(tmp_path)
    run = give_answers(recipe, tmp_path / "runs")
    place = tmp_path / "hook"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'pipelines.worker' in sys.orig_argv:\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    site.write_text(SITE + f"attempts: 2\nsetup: export PYTHONPATH={place}:$PYTHONPATH\n")
    jobs = submitted(recipe, site, cluster)
    assert cluster.until_ended(jobs) == {"pick": "FAILED"}
    assert [a.how for a in job_records.attempts(run, "pick")] == ["failed", "failed"]
    assert cluster.field(jobs["pick"], "Restarts") == "1"
    text = status(recipe, cluster)
    assert "2 attempts in a row ended badly" in text
    assert "SIGSEGV" in text


def test_out_of_time_a_stage_that_does_not_train_is_stopped_and_goes_on(
    tmp_path: Path, cluster: Cluster, site: Path
) -> None:
    recipe = write_recipe(tmp_path)
    run = give_answers(recipe, tmp_path / "runs")
    gate = tmp_path / "gate"
    site.write_text(SITE + f"setup: export PYTHONPATH={hook(tmp_path, gate)}:$PYTHONPATH\n")
    jobs = submitted(recipe, site, cluster)
    until(lambda: list(tmp_path.glob("waiting-*")), 60)
    cluster.ask("scancel", "--batch", "--signal=USR1", jobs["pick"])
    until(lambda: cluster.field(jobs["pick"], "Restarts") == "1", 60)
    gate.touch()
    assert cluster.until_ended(jobs) == {"pick": "COMPLETED"}
    found = [(a.how, a.told) for a in job_records.attempts(run, "pick")]
    assert found == [("stopped", "USR1"), ("done", "")]


def test_a_job_that_is_cancelled_at_work_does_not_come_back(
    tmp_path: Path, cluster: Cluster, site: Path
) -> None:
    recipe = write_recipe(tmp_path, RECIPE + AFTER)
    run = give_answers(recipe, tmp_path / "runs")
    site.write_text(SITE + f"setup: export PYTHONPATH={hook(tmp_path, tmp_path / 'never')}:$PYTHONPATH\n")
    jobs = submitted(recipe, site, cluster)
    until(lambda: list(tmp_path.glob("waiting-*")), 60)
    assert "cancelled 2 jobs" in heliograph("cancel", "demo", cwd=tmp_path, env=cluster.env).stdout
    assert cluster.until_ended(jobs) == {"pick": "CANCELLED", "dpo": "CANCELLED"}
    until(lambda: cluster.ask("squeue", "--noheader", "--states=completing,running") == "", 60)
    time.sleep(3)
    assert cluster.state(jobs["pick"]) == "CANCELLED"
    assert cluster.field(jobs["pick"], "Restarts") == "0"
    assert [a.how for a in job_records.attempts(run, "pick")] in (["stopped"], [""])


def test_a_second_node_that_breaks_down_is_a_failure_and_no_preemption(
    tmp_path: Path, cluster: Cluster
) -> None:
    """srun ends the first node with the signal that preemption sends; the job must not start for ever."""
    write_rows(tmp_path / "sft.jsonl", sft_rows())
    recipe = tmp_path / "long.yaml"
    recipe.write_text(LONG.replace("{gpus: 0}", "{nodes: 2}"))
    site = tmp_path / "site.yaml"
    site.write_text(
        "partition: main\ncpus: 1\nattempts: 2\nsetup: |\n"
        '  if [ "${SLURM_NODEID:-0}" = 1 ]; then getent() { return 1; }; fi\n'
    )
    job = submitted(recipe, site, cluster)["sft"]
    assert cluster.until_ended({"sft": job}, 120) == {"sft": "FAILED"}
    run = tmp_path / "runs" / "long"
    # Where the first node's Python was up in time, it has counted them.
    assert {a.how for a in job_records.attempts(run, "sft")} <= {"failed"}
    told = "cannot start on n2: the name of the job's first node, n1, does not resolve here"
    assert told in status(recipe, cluster)


def test_a_process_that_is_killed_on_another_node_is_told_with_that_node(
    tmp_path: Path, cluster: Cluster
) -> None:
    """What the first node sees is a peer that is gone; which one, only the other node can say."""
    write_rows(tmp_path / "sft.jsonl", sft_rows())
    recipe = tmp_path / "long.yaml"
    recipe.write_text(LONG.replace("{gpus: 0}", "{nodes: 2}").replace("max_steps: 60", "max_steps: 5000"))
    place, gate = tmp_path / "hook", tmp_path / "gate"
    place.mkdir()
    (place / "sitecustomize.py").write_text(KILLED_ON_N2.replace("GATE", str(gate)))
    site = tmp_path / "site.yaml"
    site.write_text(f"partition: main\ncpus: 1\nattempts: 1\nsetup: export PYTHONPATH={place}:$PYTHONPATH\n")
    job = submitted(recipe, site, cluster)["sft"]
    run = tmp_path / "runs" / "long"
    until(lambda: steps(run), 240)
    gate.touch()
    assert cluster.until_ended({"sft": job}, 120) == {"sft": "FAILED"}
    assert "the processes on n2 ended with " in status(recipe, cluster)


KILLED_ON_N2 = """
import os, signal, socket, sys, threading, time
if "pipelines.worker" in sys.orig_argv and os.environ.get("RANK") == "1" and socket.gethostname() == "n2":
    def wait():
        while not os.path.exists("GATE"):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=wait, daemon=True).start()
"""

LONG = """\
recipe: long
defaults: {seed: 3, max_length: 64, per_device_train_batch_size: 4, save_steps: 1000, logging_steps: 1}
stages:
  - {name: sft, kind: sft, model: tiny, data: sft.jsonl, learning_rate: 1e-3, max_steps: 60, use_peft: true,
     lora_r: 4, lora_dropout: 0.2, resources: {gpus: 0}}
"""


def steps(run: Path) -> list[int]:
    lines = (
        (run / "sft" / state.METRICS).read_text().splitlines()
        if (run / "sft" / state.METRICS).is_file()
        else []
    )
    return [json.loads(line)["step"] for line in lines if '"step"' in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_rows(folder / "sft.jsonl", sft_rows())
    (folder / "long.yaml").write_text(LONG)
    done = heliograph("run", folder / "long.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "long"


@pytest.mark.parametrize("how", ["preempted", "out of time"])
def test_stopped_and_requeued_it_ends_in_the_same_weights(
    how: str, tmp_path: Path, cluster: Cluster, undisturbed: Path
) -> None:
    write_rows(tmp_path / "sft.jsonl", sft_rows())
    recipe = tmp_path / "long.yaml"
    recipe.write_text(LONG)
    site = tmp_path / "site.yaml"
    site.write_text(SITE.replace("partition: main", "partition: scavenge"))
    job = submitted(recipe, site, cluster)["sft"]
    run = tmp_path / "runs" / "long"
    until(lambda: steps(run), 120)
    if how == "preempted":
        cluster.ask("sbatch", "-pmain", "-N2", "--exclusive", "-o/dev/null", "--wrap=sleep 1")
    else:
        cluster.ask("scancel", "--batch", "--signal=USR1", job)
    assert cluster.until_ended({"sft": job}, 240) == {"sft": "COMPLETED"}
    first, second = job_records.attempts(run, "sft")
    told = "TERM" if how == "preempted" else "USR1"
    assert (first.how, first.told, second.how) == ("stopped", told, "done")
    assert 0 < first.reached["steps"] < 60  # Marked twice a second: it may lag behind.
    log = (run / "sft" / state.LOG).read_text()
    saved = re.search(r"stopped as it was told to: saved after step (\d+) of 60", log)
    assert saved is not None
    step = int(saved[1])
    assert f"going on from checkpoint-{step}" in log
    assert steps(run)[-1] == 60
    found, expected = weights(run / "sft" / "model"), weights(undisturbed / "sft" / "model")
    assert expected
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


TWO = """\
recipe: two
defaults: {seed: 3, max_length: 64, save_steps: 3, logging_steps: 1, max_steps: 5, learning_rate: 1e-3}
stages:
  - {name: sft, kind: sft, model: tiny, data: sft.jsonl, per_device_train_batch_size: BATCH, RESOURCES}
  - {name: dpo, kind: prefer, model: sft, pairs: pairs.jsonl, per_device_train_batch_size: BATCH, RESOURCES,
     use_peft: true, lora_r: 4}
"""


@pytest.mark.slow
def test_two_nodes_train_what_one_trains_with_twice_the_batch(tmp_path: Path, cluster: Cluster) -> None:
    """Two nodes of four rows each, and one process of eight, see the same rows in a step."""
    write_rows(tmp_path / "sft.jsonl", sft_rows())
    write_rows(tmp_path / "pairs.jsonl", pair_rows())
    two, one, site = tmp_path / "two.yaml", tmp_path / "one.yaml", tmp_path / "site.yaml"
    two.write_text(TWO.replace("BATCH", "4").replace("RESOURCES", "resources: {nodes: 2}"))
    one.write_text(TWO.replace("BATCH", "8").replace(", RESOURCES", "").replace("recipe: two", "recipe: one"))
    site.write_text("partition: main\ncpus: 1\n")
    jobs = submitted(two, site, cluster)
    assert set(cluster.until_ended(jobs, 500).values()) == {"COMPLETED"}
    assert cluster.field(jobs["dpo"], "NumNodes") == "2"
    alone = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", one],
        cwd=tmp_path,
        env=environment(),
        timeout=500,
        check=False,
    )
    assert alone.returncode == 0
    runs = tmp_path / "runs"
    for stage in ("sft", "dpo"):
        found, expected = weights(runs / "two" / stage / "model"), weights(runs / "one" / stage / "model")
        assert expected
        assert found.keys() == expected.keys()
        # Adam's steps are as long as the learning rate, 1e-3: what one process alone makes is off by hundreds of this.
        assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5
        started = [a.how for a in job_records.attempts(runs / "two", stage)]
        assert started == ["done"]


def test_a_hundred_stages_are_submitted_in_seconds(tmp_path: Path, cluster: Cluster, site: Path) -> None:
    write_rows(tmp_path / "sft.jsonl", sft_rows())
    stages = ["  - {name: s0, kind: sft, model: tiny, data: sft.jsonl}"]
    stages += [f"  - {{name: s{i}, kind: sft, model: s{i - 1}, data: sft.jsonl}}" for i in range(1, 100)]
    recipe = tmp_path / "hundred.yaml"
    recipe.write_text("\n".join(["recipe: hundred", "stages:", *stages, ""]))
    site.write_text(SITE + "sbatch: [--hold]\n")
    clock = time.monotonic()
    jobs = submitted(recipe, site, cluster)
    seconds = time.monotonic() - clock
    assert len(jobs) == 100
    assert seconds < 15
    assert cluster.field(jobs["s99"], "Dependency").startswith(f"afterok:{jobs['s98']}")
    assert heliograph("cancel", recipe, cwd=tmp_path, env=cluster.env).returncode == 0


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            "echo no-such-host.invalid",
            "the name of the job's first node, no-such-host.invalid, does not resolve here",
        ),
        ("exit 1", "scontrol, which knows the names of the job's nodes, is not in PATH"),
    ],
)
def test_a_node_that_cannot_find_the_first_one_starts_nothing(answer: str, told: str, tmp_path: Path) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text(f"#!/bin/sh\n{answer}\n")
    tool.chmod(0o755)
    settings = tmp_path / "site.sh"
    settings.write_text(f"container=()\npython={tmp_path}/must-not-run\n")
    env = environment() | {
        "PATH": f"{tmp_path}:{environment()['PATH']}", "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", ROOT / "slurm" / "node.sh", tmp_path, "sft", settings],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "heliograph: sft cannot start on " in done.stderr
    assert told in done.stderr


def test_the_worker_of_a_job_is_the_python_that_submitted(
    tmp_path: Path, cluster: Cluster, site: Path
) -> None:
    recipe = write_recipe(tmp_path)
    give_answers(recipe, tmp_path / "runs")
    done = heliograph("submit", recipe, "--cluster", site, "--dry-run", cwd=tmp_path, env=cluster.env)
    assert f"python={sys.executable}" in done.stdout.splitlines()
