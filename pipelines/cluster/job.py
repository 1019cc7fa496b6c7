"""A stage or a shard as a job on a cluster: works under its lock, heeds the stop file, says how the job shall end.

`python -m pipelines.cluster.job RUN_DIR STAGE`, started by slurm/node.sh on every node of the job. Node 0 keeps the
records.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from data.errors import RunError, UserError
from pipelines import lock, machine, progress, shards, state
from pipelines.cluster import records as job_records
from pipelines.cluster.launcher import Group, config_file, words
from pipelines.cluster.records import Attempt, Attempts, Outcome, bad_in_a_row
from pipelines.launch import Ended, Way, environment, launch
from pipelines.plan import plan
from pipelines.recipe import Recipe, from_json
from pipelines.stage import Stage
from trainers.training.interruption import STOP_FILE

EXITS: dict[Outcome, int] = {"done": 0, "again": 3, "waiting": 75, "failed": 1}
LOST_PEER = re.compile(r"(closed|reset) by peer|Broken pipe|NCCL|heartbeat", re.IGNORECASE)
"""What the processes of a group say when another one has gone: the one that went says nothing any more."""
LATE_SECONDS = 10.0
"""A node's own word that its processes have ended may come after their peers have noticed."""
PATIENCE = 86400.0
"""A worker that was told to stop is left to save: SLURM ends it when its time is over."""


def main(arguments: list[str]) -> int:
    given = _arguments(arguments)
    # A signal that SLURM sends to every process of the job is the worker's to heed.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    run_dir = Path(given.run_dir).absolute()
    os.environ[STOP_FILE] = str(job_records.stop_file(run_dir, given.stage))
    if given.processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, machine.usable_cores() // given.processes)))
    if given.node_rank:
        launcher = _launcher(given, run_dir)
        command = [sys.executable, *launcher, "-m", "pipelines.worker", str(run_dir), given.stage]
        return subprocess.run(command, env=environment(), check=False).returncode
    try:
        outcome = attempt(run_dir, given.stage, _launcher(given, run_dir))
    except UserError as error:
        print(error, file=sys.stderr)
        outcome = "failed"
    _say_outcome(run_dir, given.stage, outcome)
    if outcome != "again" and shards.parsed(given.stage)[1] is None:
        # In a process of its own: a page that cannot be made must not make a finished stage's job a failed one.
        subprocess.run(
            [sys.executable, "-m", "pipelines.closing", str(run_dir)], env=environment(), check=False
        )
    return EXITS[outcome]


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pipelines.cluster.job", description="Run one stage as a job of a cluster."
    )
    parser.add_argument("run_dir")
    parser.add_argument("stage")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="on this node")
    parser.add_argument("--master", default="", help="HOST:PORT of the first node")
    return parser.parse_args(arguments)


def _launcher(given: argparse.Namespace, run_dir: Path) -> tuple[str, ...]:
    recipe = _recipe(run_dir)
    group = Group(given.nodes, given.node_rank, given.processes, given.master)
    total = given.nodes * given.processes
    return words(group, config_file(_stage(recipe, given.stage), recipe.base, total))


def _recipe(run_dir: Path) -> Recipe:
    return from_json(state.read_json(run_dir / state.RECIPE))


def attempt(run_dir: Path, name: str, launcher: tuple[str, ...] = ()) -> Outcome:
    """Work on the stage once, and judge what shall become of its job."""
    job = job_records.this_job()
    held = lock.acquire_stage(run_dir, name, f"job {job} on {socket.gethostname()}")
    try:
        if held.notice:
            print(held.notice, file=sys.stderr)
        recipe = _recipe(run_dir)
        stage = _stage(recipe, name)
        earlier = _close_lost(run_dir, name)
        if _finished(recipe, run_dir, stage, name):
            print(f"{name}: done already")
            return "done"
        limit = _limit(run_dir, name)
        mine = [item for item in earlier if item.job == job]
        if bad_in_a_row(mine) >= limit:
            return _given_up(run_dir, name, mine)
        now = Attempt(job=job, host=socket.gethostname(), began=state.now())
        _write(run_dir, name, [*earlier, now])
        way = Way(
            launcher=launcher,
            log=f"{job_records.FOLDER}/{name}.worker.log",
            grace=PATIENCE,
            stop=job_records.stop_file(run_dir, name),
            patient=True,
            shard=shards.parsed(name)[1],
        )
        ended = launch(run_dir, [stage], held, progress.watch(lambda line: print(line, flush=True)), way)
        now = _ended(run_dir, name, now, ended)
        _write(run_dir, name, [*earlier, now])
        return _judged(run_dir, name, [*mine, now], limit, ended)
    finally:
        held.release()


def _stage(recipe: Recipe, name: str) -> Stage:
    whole, index = shards.parsed(name)
    found = next((stage for stage in recipe.stages if stage.name == whole), None)
    if found is None:
        raise RunError(
            f"the run's recipe has no stage `{name}`", way_out="Submit it again: heliograph submit RECIPE."
        )
    if index is not None and index >= found.shards:
        raise RunError(
            f"it has {found.shards} shards by now",
            where=f"stages.{name}",
            way_out="Submit it again: heliograph submit RECIPE.",
        )
    return found


def _finished(recipe: Recipe, run_dir: Path, stage: Stage, name: str) -> bool:
    found = next(item for item in plan(recipe, run_dir) if item.name == stage.name)
    if found.state == "stale":
        raise RunError(
            "\n  ".join(["what is there was made with something else:", *found.reasons]),
            where=f"stages.{stage.name}",
            way_out=f"Submit it with --from {stage.name}, or change the value back.",
        )
    index = shards.parsed(name)[1]
    if found.state == "done" or index is None:
        return found.state == "done"
    return shards.done(run_dir, stage, index) is not None


def _limit(run_dir: Path, name: str) -> int:
    found = job_records.submitted(run_dir, name)
    return found.attempts if found else 1


def _close_lost(run_dir: Path, name: str) -> list[Attempt]:
    """Earlier attempts; one that was killed with its job is told apart by what the job script wrote."""
    found = list(job_records.attempts(run_dir, name))
    stop = job_records.last_stop_file(run_dir, name)
    if found and found[-1].ended is None:
        found[-1] = found[-1].model_copy(
            update={"ended": state.now(), "told": _told(stop), "reached": _reached(run_dir, name)}
        )
    for left in (run_dir / job_records.FOLDER).glob(f"{name}.broken.*"):
        if left != job_records.broken_file(run_dir, name):
            state.remove(left)
    state.remove(stop)
    return found


def _told(stop: Path) -> str:
    """Empty too where only this process wrote the file, for its processes."""
    with suppress(FileNotFoundError):
        text = stop.read_text()
        return "USR1" if "USR1" in text else "TERM" if "TERM" in text else ""
    return ""


def _reached(run_dir: Path, name: str) -> dict[str, float]:
    mark = state.read(shards.folder(run_dir, name) / state.PROGRESS, state.ProgressMark)
    return {mark.unit: mark.done} if mark and mark.unit else {}


def _ended(run_dir: Path, name: str, now: Attempt, ended: Ended) -> Attempt:
    how = {0: "done", 75: "waiting"}.get(ended.code, "failed")
    told = told_by_script = _told(job_records.stop_file(run_dir, name))
    if ended.stopped is not None:
        # It may have come to its end before it heard.
        folder = shards.folder(run_dir, name)
        finished = (folder / state.DONE).exists() or (folder / shards.SHARD).exists()
        how, told = ("done", "") if finished else ("stopped", told or "TERM")
        if not finished and not told_by_script and _broke_down(run_dir, name):
            how, told = "failed", ""
    elif how == "failed" and ended.failed is not None and LOST_PEER.search(ended.failed.what):
        _name_the_node(run_dir, name, ended.failed)
    return now.model_copy(
        update={"ended": state.now(), "how": how, "told": told, "reached": _reached(run_dir, name)}
    )


def _name_the_node(run_dir: Path, name: str, failed: state.Failed) -> None:
    """Add to the record which node's processes ended, once that node has told."""
    file = job_records.broken_file(run_dir, name)
    deadline = time.monotonic() + LATE_SECONDS
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    if file.exists() and (told := file.read_text().strip()):
        amended = failed.model_copy(update={"what": f"{told}; seen from another node: {failed.what}"})
        state.write(shards.folder(run_dir, name) / state.FAILED, amended)


def _broke_down(run_dir: Path, name: str) -> bool:
    """Whether a node other than this one ended badly. Recorded, unless its processes said themselves why."""
    file = job_records.broken_file(run_dir, name)
    if not file.exists():
        return False
    folder = shards.folder(run_dir, name)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / state.FAILED).exists():
        record = state.Failed(
            what=file.read_text().strip() or "a node ended badly",
            where=f"stages.{name}",
            way_out=f"What the nodes printed is in {run_dir / job_records.FOLDER}, {name}-….out and {name}.rank….log.",
            time=state.now(),
            exit=1,
        )
        state.write(folder / state.FAILED, record)
    return True


def _judged(run_dir: Path, name: str, mine: list[Attempt], limit: int, ended: Ended) -> Outcome:
    last, folder = mine[-1], shards.folder(run_dir, name)
    if last.how == "done":
        return "done"
    if last.how == "waiting":
        return "waiting"
    failed = state.read(folder / state.FAILED, state.Failed) or ended.failed
    if last.how == "failed" and failed is not None and failed.exit != 1:
        return "failed"  # A person has to mend it; trying again would end the same way.
    if ended.failed is not None and not (folder / state.FAILED).exists():
        # The worker died before it named its stage.
        folder.mkdir(parents=True, exist_ok=True)
        state.write(folder / state.FAILED, ended.failed)
    if last.told == "TERM":
        return "again"
    bad = bad_in_a_row(mine)
    if bad < limit:
        print(
            f"{name}: goes back into the queue" + (f" ({bad} of {limit} attempts)" if bad else ""),
            flush=True,
        )
        return "again"
    return _given_up(run_dir, name, mine)


def _given_up(run_dir: Path, name: str, mine: list[Attempt]) -> Outcome:
    """Say in the stage's folder why nobody tries again."""
    folder = shards.folder(run_dir, name)
    found = state.read(folder / state.FAILED, state.Failed)
    bad = bad_in_a_row(mine)
    if mine[-1].told == "USR1":
        what = f"its time was over {bad} times before it got any further"
        way_out = "Give it more time (`resources: {hours: …}`), or raise warning_seconds in the cluster file."
    else:
        what = f"{bad} attempts in a row ended badly"
        if found is not None:
            what = f"{what}; the last: {found.what}"
        elif mine[-1].how == "":
            what = f"{what}; the last was killed with its job on {mine[-1].host}"
        way_out = "Mend the cause, then submit again: it goes on from where it was."
    folder.mkdir(parents=True, exist_ok=True)
    record = state.Failed(
        what=what, where=f"stages.{name}", way_out=way_out, trace=found.trace if found else None,
        time=state.now(), exit=1,
    )  # fmt: skip
    state.write(folder / state.FAILED, record)
    print(f"{name}: {what}", file=sys.stderr)
    return "failed"


def _write(run_dir: Path, name: str, attempts: list[Attempt]) -> None:
    state.write(job_records.attempts_file(run_dir, name), Attempts(attempts=tuple(attempts)))


def _say_outcome(run_dir: Path, name: str, outcome: Outcome) -> None:
    file = job_records.outcome_file(run_dir, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{outcome}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
