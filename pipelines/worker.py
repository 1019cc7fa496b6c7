"""The process that does the work: every pending stage, one after another, so that heavy imports are paid once.

`python -m pipelines.worker RUN_DIR STAGE...`, started by `pipelines.launch`, which hands down three open files: the
run's lock, a pipe to tell what happens, and a pipe whose end means that the command is gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from data.errors import RunError
from pipelines import shards, state
from pipelines.attempt import Setting, Tell, run_shard, run_stage, take_part
from pipelines.failures import told
from pipelines.recipe import from_json
from pipelines.stage import Stage, Waiting
from trainers.training import ranks
from trainers.training.interruption import Interrupted

EXIT_CRASH, EXIT_USER, EXIT_WAITING = 1, 2, 75
RANK_LOG = ".slurm/{stage}.rank{rank}.log"
EXIT_SAVED = 76
"""It was told to stop, and has saved where it was."""


def main(arguments: list[str]) -> int:
    # Absolute: what a stage wrote is read as a source by the next, and relative sources start at the recipe.
    run_dir, names = Path(arguments[0]).absolute(), arguments[1:]
    # Ctrl-C reaches the whole terminal group; the command decides, and ends this process with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch_lifeline(os.environ.pop("HELIOGRAPH_LIFELINE", ""))
    _keep_from_children(os.environ.pop("HELIOGRAPH_LOCK", ""))
    tell = _teller(os.environ.pop("HELIOGRAPH_EVENTS", ""))
    recipe = from_json(state.read_json(run_dir / state.RECIPE))
    setting = Setting(run_dir, recipe.base, os.environ.pop("HELIOGRAPH_COMMAND", ""), tell)
    for position, stage in enumerate(recipe.stages):
        for name in names:
            wanted, shard = shards.parsed(name)
            if wanted == stage.name:
                code = work(stage, {earlier.name for earlier in recipe.stages[:position]}, setting, shard)
                if code:
                    return code
    return 0


def work(stage: Stage, earlier: set[str], setting: Setting, shard: int | None = None) -> int:
    """One stage, or a shard of it, and how it ended as an exit code: recorded in its folder, and told."""
    name = shards.name(stage.name, shard)
    folder = shards.folder(setting.run_dir, name)
    setting.tell({"event": "start", "stage": name})
    try:
        _log_into(_log(name, setting))
        try:
            if ranks.rank():
                take_part(stage, earlier, setting)
                return 0
            if shard is None:
                seconds = run_stage(stage, earlier, setting).seconds
            else:
                seconds = run_shard(stage, shard, earlier, setting)
        except Waiting as waiting:
            note = state.WaitingFor(what=waiting.what, how=waiting.how, time=state.now())
            state.write(folder / state.WAITING, note)
            setting.tell({"event": "waiting", "stage": name, **note.model_dump()})
            return EXIT_WAITING
        except Interrupted as stop:
            print(f"{state.now()} stopped as it was told to: {stop}", flush=True)
            setting.tell({"event": "interrupted", "stage": name})
            # Of several processes, one that gives a code of its own has the others killed.
            return EXIT_SAVED if ranks.world_size() == 1 else 0
    # The one place that takes every error: behind it the process ends, and what is not recorded here is lost.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        failed = record_failure(error, stage, folder)
        setting.tell({"event": "failed", "stage": name, **failed.model_dump()})
        return failed.exit
    setting.tell({"event": "done", "stage": name, "seconds": seconds})
    return 0


def record_failure(error: BaseException, stage: Stage, folder: Path) -> state.Failed:
    """Write failed.json and, for a crash, the traceback; on a disk that takes neither, return it all the same."""
    known = told(error, stage, folder)
    trace = None if known is not None else folder / state.TRACE
    if known is not None:
        failed = state.Failed(
            what=known.what, where=known.where, way_out=known.way_out, time=state.now(), exit=EXIT_USER
        )
    else:
        text = " ".join(str(error).split())
        failed = state.Failed(
            what=f"{type(error).__name__}: {text}"[:500],
            where=f"stages.{stage.name}",
            way_out="This is a fault of the program. The traceback is in the file; the same command tries again.",
            trace=str(trace),
            time=state.now(),
            exit=EXIT_CRASH,
        )
    if ranks.world_size() > 1:
        at = f"process {ranks.rank()} on {socket.gethostname()}"
        failed = failed.model_copy(update={"what": f"{failed.what} ({at})"})
    lines = "".join(traceback.format_exception(error))
    print(lines, file=sys.stderr, flush=True)  # Into the stage's log, for an error with a way out too.
    if ranks.world_size() > 1 and (folder / state.FAILED).exists():
        return failed  # The process that failed first knows why; those beside it only lost their peer.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if trace is not None:
            trace.write_text(lines, encoding="utf-8")
        state.write(folder / state.FAILED, failed)
    except (OSError, RunError) as unwritten:
        return failed.model_copy(update={"trace": None, "what": f"{failed.what} (not recorded: {unwritten})"})
    return failed


def _log(name: str, setting: Setting) -> Path:
    """Each process has its own: appends from several nodes to one file may be lost."""
    return (
        setting.run_dir / RANK_LOG.format(stage=name, rank=ranks.rank())
        if ranks.rank()
        else shards.folder(setting.run_dir, name) / state.LOG
    )


def _log_into(path: Path) -> None:
    """From here on what libraries print goes to the stage's log, C code's words included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _watch_lifeline(fd: str) -> None:
    if not fd:
        return

    def wait() -> None:
        os.read(int(fd), 1)  # Nobody writes: it returns when the command's end is closed, however that came.
        os._exit(EXIT_CRASH)

    os.set_inheritable(int(fd), False)
    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _keep_from_children(fd: str) -> None:
    if fd:
        os.set_inheritable(int(fd), False)


def _open(given: str) -> int:
    return os.open(given, os.O_WRONLY | os.O_CLOEXEC) if given else os.dup(1)


def _teller(given: str) -> Tell:
    """Into the open file of that number, or the pipe of that name; by hand, to what was standard output."""
    if ranks.rank():
        return lambda event: None
    out = int(given) if given.isdigit() else _open(given)
    os.set_inheritable(out, False)
    alone = threading.Lock()

    def tell(event: dict[str, Any]) -> None:
        line = json.dumps(state.plain(event), ensure_ascii=False).encode() + b"\n"
        try:
            with alone:
                while line:
                    line = line[os.write(out, line) :]
        except BrokenPipeError:
            os._exit(EXIT_CRASH)  # The command is gone, and the lifeline only slower to tell.

    return tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
