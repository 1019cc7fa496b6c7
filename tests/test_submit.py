"""From a recipe and a cluster file to sbatch's words, without a SLURM: needs, flags, the graph, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.errors import RecipeError, RunError
from pipelines import lock, shards, state
from pipelines.cluster import records as job_records
from pipelines.cluster.records import Attempt, bad_in_a_row
from pipelines.cluster.site import load_cluster
from pipelines.cluster.submit import Request, need, submit
from pipelines.plan import plan
from pipelines.recipe import load, resolved
from slurm import jobs
from slurm.jobs import Job, Need, Shape, clock
from slurm.site import Site
from tests.handmade import BUILD, ROOT, cpu_seconds_of_children, give_answers, heliograph, write_recipe

SITE = """\
partition: gpu
cpu_partition: cpu
account: p1
gpus_per_node: 4
gpu_type: a100
cpus_per_gpu: 8
mem_per_gpu: 60
cpus: 2
mem: 10
max_hours: 24
warning_seconds: 120
sbatch: [--constraint=ib]
"""
BRANCHES = """\
recipe: branches
defaults: {model: tiny}
stages:
  - {name: sft, kind: sft, data: rows.jsonl, resources: {gpus: 8, hours: 6}}
  - {name: other, kind: sft, data: rows.jsonl, resources: {gpus: 0, nodes: 2}}
  - {name: answers, kind: sample, model: sft, prompts: rows.jsonl}
  - {name: pick, kind: judge, candidates: answers, critic: {checks: [{check: regex, pattern: a}]}}
  - {name: dpo, kind: prefer, model: sft, pairs: pick, use_peft: true, resources: {gpus: 2, nodes: 2, hours: 100}}
  - {name: merged, kind: merge, model: dpo}
"""


def site(text: str, folder: Path) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "branches.yaml").write_text(BRANCHES)
    return tmp_path / "branches.yaml"


def dry(recipe: Path, **more: Any) -> tuple[dict[str, Any], list[str]]:
    shown: list[str] = []
    cluster = more.pop("cluster", None) or site(SITE, recipe.parent)
    request = Request(recipe, cluster, runs_dir=recipe.parent / "runs", dry_run=True, **more)
    return submit(request, shown.append, shown.append), shown


def test_every_flag_of_every_job(recipe: Path) -> None:
    told, _ = dry(recipe)
    run = recipe.parent / "runs" / "branches"
    settings = next(iter(told["jobs"]))["command"][-1]
    always = ["--signal=B:USR1@120", "--requeue", "--open-mode=append"]

    def words(stage: str, place: list[str], size: list[str], hours: str, after: list[str]) -> list[str]:
        return [
            "sbatch", "--parsable", f"--job-name=branches/{stage}", *place, "--account=p1", *size,
            f"--time={hours}", *always, f"--output={run}/.slurm/{stage}-%j.out", *after, "--constraint=ib",
            str(ROOT / "slurm" / "stage.sbatch"), str(run), stage, settings,
        ]  # fmt: skip

    def waits(*ids: str) -> list[str]:
        return [f"--dependency=afterok:{':'.join(ids)}", "--kill-on-invalid-dep=yes"]

    def nodes(count: int, cpus: int) -> list[str]:
        return [f"--nodes={count}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"]

    gpu, cpu = ["--partition=gpu"], ["--partition=cpu"]
    four, one = ["--gres=gpu:a100:4", "--mem=240G"], ["--gres=gpu:a100:1", "--mem=60G"]
    assert [job["command"] for job in told["jobs"]] == [
        words("sft", gpu, [*nodes(2, 32), *four], "0-06:00:00", []),
        words("other", cpu, [*nodes(2, 2), "--mem=10G"], "1-00:00:00", []),
        words("answers", gpu, [*nodes(1, 8), *one], "1-00:00:00", waits("sft")),
        words("pick", cpu, [*nodes(1, 2), "--mem=10G"], "1-00:00:00", waits("answers")),
        words("dpo", gpu, [*nodes(2, 8), *one], "1-00:00:00", waits("sft", "pick")),
        words("merged", cpu, [*nodes(1, 2), "--mem=10G"], "1-00:00:00", waits("dpo")),
    ]


def test_the_commands_of_a_dry_run_can_be_pasted(recipe: Path, tmp_path: Path) -> None:
    """With an sbatch that counts, bash fills in the numbers of the jobs before."""
    _, shown = dry(recipe)
    tool = tmp_path / "bin" / "sbatch"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" >>"$LOG"\nwc -l <"$LOG"\n')
    tool.chmod(0o755)
    log = tmp_path / "log"
    env = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "LOG": str(log)}
    pasted = "\n".join(line for line in shown if line.startswith("job_"))
    subprocess.run(["bash", "-euc", pasted], env=env, check=True)
    found = [line.partition("--dependency=")[2].split(" ")[0] for line in log.read_text().splitlines()]
    assert found == ["", "", "afterok:1", "afterok:3", "afterok:1:4", "afterok:5"]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_the_scripts_and_makes_nothing(recipe: Path) -> None:
    _, shown = dry(recipe)
    for script in ("stage.sbatch", "node.sh"):
        text = (ROOT / "slurm" / script).read_text().splitlines()
        start = shown.index(f"# {ROOT / 'slurm' / script}") + 1
        assert shown[start : start + len(text)] == text
    assert not (recipe.parent / "runs").exists()


def test_until_takes_a_stage_and_what_it_needs(recipe: Path) -> None:
    assert [job["stage"] for job in dry(recipe, until="pick")[0]["jobs"]] == ["sft", "answers", "pick"]
    assert [job["stage"] for job in dry(recipe, until="other")[0]["jobs"]] == ["other"]
    with pytest.raises(RunError, match="no stage `pik`"):
        dry(recipe, until="pik")


def test_finished_stages_are_skipped_and_waited_for_no_more(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    give_answers(recipe, tmp_path / "runs")
    told, shown = dry(recipe)
    assert told["done"] == ["answers"]
    assert [(job["stage"], job["after"]) for job in told["jobs"]] == [("pick", [])]
    assert "# answers: done" in shown
    again, _ = dry(recipe, from_stage="answers")
    assert [(job["stage"], job["after"]) for job in again["jobs"]] == [("answers", []), ("pick", ["answers"])]


def test_what_a_stage_needs_when_it_does_not_say(recipe: Path) -> None:
    stages = {stage.name: stage for stage in load(recipe).stages}
    with_gpus, without = Site(partition="p", gpus_per_node=4), Site(partition="p")
    found = {name: (need(stage, with_gpus).gpus, need(stage, without).gpus) for name, stage in stages.items()}
    assert found == {
        "sft": (8, 8), "other": (0, 0), "answers": (1, 0), "pick": (0, 0), "dpo": (2, 2), "merged": (0, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Need(), Shape(1, 0)),
        (Need(nodes=3), Shape(3, 0)),
        (Need(1), Shape(1, 1)),
        (Need(8), Shape(1, 8)),
        (Need(16), Shape(2, 8)),
        (Need(64), Shape(8, 8)),
        (Need(8, nodes=2), Shape(2, 4)),
        (Need(12), Shape(2, 6)),
    ],
)
def test_gpus_over_nodes(asked: Need, expected: Shape) -> None:
    assert jobs.shape(asked, Site(partition="p", gpus_per_node=8), "stages.a") == expected


@pytest.mark.parametrize(
    ("asked", "gpus", "told"),
    [
        (Need(9), 8, "9 GPUs do not spread evenly over 2 nodes\n  Ask for 10 GPUs"),
        (Need(7, nodes=2), 8, "7 GPUs do not spread evenly over 2 nodes\n  Ask for 8 GPUs"),
        (
            Need(32, nodes=2),
            8,
            "32 GPUs do not fit on 2 of the cluster's nodes, which have 8 each\n  Leave `nodes:`",
        ),
        (Need(1), 0, "asks for GPUs, and the cluster has none\n  Set `gpus_per_node:`"),
    ],
)
def test_gpus_that_do_not_fit(asked: Need, gpus: int, told: str) -> None:
    with pytest.raises(RunError) as caught:
        jobs.shape(asked, Site(partition="p", gpus_per_node=gpus), "stages.a")
    assert str(caught.value).startswith(f"stages.a: {told}")


def test_clock_is_in_whole_minutes_rounded_up() -> None:
    assert [clock(h) for h in (0.001, 1, 1.5, 24, 49.99)] == [
        "0-00:01:00", "0-01:00:00", "0-01:30:00", "1-00:00:00", "2-02:00:00",
    ]  # fmt: skip


def test_a_kind_that_works_in_one_process_gets_no_more(recipe: Path) -> None:
    recipe.write_text(BRANCHES.replace("prompts: rows.jsonl}", "prompts: rows.jsonl, resources: {gpus: 2}}"))
    with pytest.raises(RunError, match="asks for 2 processes, and kind sample works in one"):
        dry(recipe)


def test_settings_are_read_by_bash_as_they_were_meant(tmp_path: Path) -> None:
    """Variables are filled in on the node; quotes, blanks and backticks are only characters."""
    home = tmp_path / "a folder"
    given = Site(
        partition="p",
        container=("run", "--bind=$HOME/x y", 'q"`uname`$(uname)', "end\\"),
        python="/opt/a b/python",
        scratch="$HOME/tmp",
        setup='export LOADED="cuda"\nexport TWICE="$LOADED$LOADED"\n',
        warning_seconds=100,
    )
    text = jobs.settings(given, "unused", "site.yaml")
    show = 'printf "%s\\n" "$python" "${container[@]}" "$TMPDIR" "$TWICE" "$save_seconds" "$PYTHONSAFEPATH"'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{text}{show}"],
        env={"HOME": str(home), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "/opt/a b/python", "run", f"--bind={home}/x y", 'q"`uname`$(uname)', "end\\", f"{home}/tmp", "cudacuda",
        "85", "1",
    ]  # fmt: skip
    assert (home / "tmp").is_dir()


def test_a_percent_sign_in_a_path_is_no_pattern() -> None:
    job = Job("a", "r/a", Need(), (), Path("/runs/50%/a"), ())
    assert "--output=/runs/50%%/a-%j.out" in jobs.flags(job, Site(partition="p"))


def test_faults_of_a_cluster_file_have_a_line_and_a_column(tmp_path: Path) -> None:
    text = "partition: gpu\ncpu_partion: cpu\ngpus_per_node: '8'\nmax_hours: 0\nsbatch: [--a, b]\naccount: my team\n"
    path = site(text, tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_cluster(path)
    assert str(caught.value).splitlines() == [
        f"{path}:2:1: cpu_partion: unknown key; did you mean cpu_partition?",
        f'{path}:3:16: gpus_per_node: found "8"; must be a whole number of at least 0 and at most 1024',
        f"{path}:4:12: max_hours: found 0; must be a number above 0 or null",
        f'{path}:5:15: sbatch.1: found "b"; must be a flag, as in `--constraint=a100`',
        f'{path}:6:10: account: found "my team"; must be one word, without blanks',
    ]


def test_a_cluster_file_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    site(SITE, tmp_path)
    with pytest.raises(RecipeError, match="there is no such cluster file") as caught:
        load_cluster(tmp_path / "sit.yaml")
    assert caught.value.way_out == f"There are: {tmp_path / 'site.yaml'}."


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.yaml")), ids=lambda p: p.name)
def test_the_cluster_files_that_stand_here_are_right(path: Path) -> None:
    assert load_cluster(path).gpus_per_node > 0


def test_resources_are_no_reason_to_build_again(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    give_answers(recipe, tmp_path / "runs")
    recipe.write_text(
        recipe.read_text().replace("batch_size: 4", "batch_size: 4\n    resources: {gpus: 1, hours: 2}")
    )
    assert dry(recipe)[0]["done"] == ["answers"]


def test_a_record_from_before_there_were_resources_is_not_stale(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run = give_answers(recipe, tmp_path / "runs")
    done = json.loads((run / "answers" / state.DONE).read_text())
    del done["config"]["resources"]
    (run / "answers" / state.DONE).write_text(json.dumps(done))
    assert dry(recipe)[0]["done"] == ["answers"]


def tries(*ends: tuple[str, str, float]) -> list[Attempt]:
    return [
        Attempt(job="1", host="n1", began="", how=how, told=told, reached={"steps": steps} if steps else {})  # type: ignore[arg-type]
        for how, told, steps in ends
    ]


@pytest.mark.parametrize(
    ("ends", "bad"),
    [
        ([], 0),
        ([("failed", "", 0)], 1),
        ([("failed", "", 0), ("failed", "", 0)], 2),
        ([("failed", "", 5), ("failed", "", 5), ("failed", "", 5)], 3),  # the same step each time
        ([("failed", "", 5), ("failed", "", 9)], 1),  # further than before: a new fault
        ([("failed", "", 5), ("failed", "", 3)], 2),
        ([("stopped", "TERM", 0), ("stopped", "TERM", 0), ("", "TERM", 0)], 0),  # preempted is no fault
        ([("failed", "", 0), ("stopped", "TERM", 0), ("failed", "", 0)], 2),
        ([("stopped", "USR1", 10), ("stopped", "USR1", 20), ("stopped", "USR1", 30)], 0),  # a long stage
        ([("stopped", "USR1", 0), ("stopped", "USR1", 0)], 2),  # never gets to its first step
        ([("", "", 0), ("", "", 0)], 2),  # the node died
        ([("failed", "", 0), ("waiting", "", 0)], 1),
    ],
)
def test_attempts_that_ended_badly_in_a_row(ends: list[tuple[str, str, float]], bad: int) -> None:
    assert bad_in_a_row(tries(*ends)) == bad


def test_shell_scripts_are_clean() -> None:
    scripts = [*ROOT.glob("slurm/*.sh"), *ROOT.glob("slurm/*.sbatch"), *ROOT.glob("tests/cluster/*.sh")]
    scripts += [ROOT / ".ci" / "run", ROOT / ".ci" / "debian"]
    assert len(scripts) == 7
    tool = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run([tool, *scripts], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_status_of_a_run_that_was_never_submitted_asks_nobody(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    give_answers(recipe, tmp_path / "runs")
    assert heliograph("run", recipe, cwd=tmp_path).returncode == 0
    done = heliograph("status", recipe, cwd=tmp_path, env={"PATH": ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert "job" not in done.stdout


def test_where_there_is_no_slurm_a_submission_says_so(tmp_path: Path) -> None:
    from tests.slurm_cluster import without_slurm

    recipe = write_recipe(tmp_path)
    give_answers(recipe, tmp_path / "runs")
    path = site(SITE, tmp_path)
    done = heliograph("submit", recipe, "--cluster", path, cwd=tmp_path, env=without_slurm())
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "sbatch: pick was refused: SLURM's commands are not here",
        "  Run this on a login node of the cluster.",
        "  Nothing was submitted.",
    ]
    assert job_records.submitted(tmp_path / "runs" / "demo", "pick") is None


def test_jobs_share_a_run_and_a_stage_has_one(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    first = lock.acquire_stage(run, "a", "job 1 on n1")
    second = lock.acquire_stage(run, "b", "job 2 on n2")
    assert lock.holder(run, "a") == first.holder
    assert lock.holder(run, "b") == second.holder
    with pytest.raises(RunError, match="job 1 on n1"):
        lock.acquire_stage(run, "a", "job 3 on n1")
    with pytest.raises(RunError, match=r"the run is in use .*: job 1 on n1"):
        lock.acquire(run, "heliograph run")
    first.release()
    lock.acquire_stage(run, "a", "job 3 on n1").release()
    second.release()
    assert lock.holder(run, "a") is None
    alone = lock.acquire(run, "heliograph run")
    with pytest.raises(RunError, match="heliograph run"):
        lock.acquire_stage(run, "a", "job 4 on n1")
    alone.release()


def test_only_the_stage_of_a_living_job_is_running(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run = give_answers(recipe, tmp_path / "runs")
    loaded = load(recipe)
    stage = loaded.stages[1]
    held = lock.acquire_stage(run, "pick", "job 1 on n1")
    folder = run / "pick"
    folder.mkdir()
    begun = state.Started(
        name="pick", kind="judge", build="b", config=state.plain(resolved(stage)),
        inputs={"answers": BUILD}, started=state.now(),
    )  # fmt: skip
    state.write(folder / state.STARTED, begun)
    state.write(folder / state.PROGRESS, state.ProgressMark(command=held.holder.id, time=state.now()))
    assert [item.state for item in plan(loaded, run)] == ["done", "running"]
    held.release()
    assert [item.state for item in plan(loaded, run)] == ["done", "pending"]


SPLIT = """\
recipe: split
stages:
  - {name: sft, kind: sft, model: tiny, data: rows.jsonl}
  - {name: answers, kind: sample, model: sft, prompts: rows.jsonl, resources: {gpus: 1, hours: 2, shards: 4}}
  - {name: pick, kind: judge, candidates: answers, critic: {checks: [{check: regex, pattern: a}]}}
"""


def test_a_split_stage_is_an_array_and_a_small_job_that_joins_it(recipe: Path) -> None:
    recipe.write_text(SPLIT)
    told, _ = dry(recipe)
    found = {job["stage"]: job for job in told["jobs"]}
    assert list(found) == ["sft", "answers.shards", "answers", "pick"]
    array, join = found["answers.shards"], found["answers"]
    run = recipe.parent / "runs" / "split"
    assert array["array"] == [0, 1, 2, 3]
    assert array["after"] == ["sft"]
    assert {"--array=0,1,2,3", "--gres=gpu:a100:1", "--time=0-02:00:00"} <= set(array["command"])
    assert f"--output={run}/.slurm/answers.%a-%A_%a.out" in array["command"]
    assert join["after"] == ["answers.shards"]
    assert "--partition=cpu" in join["command"]
    assert not [word for word in join["command"] if word.startswith(("--gres", "--array"))]
    # Both get the stage's name: the job script makes `answers.2` of it where it is task 2.
    assert array["command"][-2] == join["command"][-2] == "answers"
    assert found["pick"]["after"] == ["answers"]


def test_shards_that_are_done_are_not_submitted_again(recipe: Path) -> None:
    recipe.write_text(SPLIT.replace("model: sft, prompts", "model: tiny, prompts"))
    for index in (0, 1, 3):
        done = shards.ShardDone(index=index, count=4, seconds=1, host="n1", finished=state.now())
        folder = recipe.parent / "runs" / "split" / "answers" / "shards" / str(index)
        folder.mkdir(parents=True)
        state.write(folder / shards.SHARD, done)
    found = {job["stage"]: job for job in dry(recipe, until="answers")[0]["jobs"]}
    assert found["answers.shards"]["array"] == [2]
    # Another number of shards is another division: none of the old ones counts.
    recipe.write_text(recipe.read_text().replace("shards: 4", "shards: 3"))
    found = {job["stage"]: job for job in dry(recipe, until="answers")[0]["jobs"]}
    assert found["answers.shards"]["array"] == [0, 1, 2]


def test_submitting_a_hundred_stages_takes_about_a_second_of_ours(recipe: Path, tmp_path: Path) -> None:
    stages = ["  - {name: s0, kind: sft, model: tiny, data: rows.jsonl}"]
    stages += [f"  - {{name: s{i}, kind: sft, model: s{i - 1}, data: rows.jsonl}}" for i in range(1, 100)]
    recipe.write_text("\n".join(["recipe: hundred", "stages:", *stages, ""]))
    tool = tmp_path / "bin" / "sbatch"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho $$\n")
    tool.chmod(0o755)
    cluster = site("partition: p\n", tmp_path)
    spent: list[float] = []
    for run in ("first", "second", "third"):
        before = cpu_seconds_of_children()
        env = {"PATH": f"{tool.parent}:{os.environ['PATH']}"}
        done = heliograph("submit", recipe, "--cluster", cluster, "--name", run, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert "100 jobs submitted" in done.stdout
        spent.append(cpu_seconds_of_children() - before)
    # A hundred shells that pretend to be sbatch are in it too, and neighbours on the same cores cost a half more.
    assert min(spent) < 1.8
