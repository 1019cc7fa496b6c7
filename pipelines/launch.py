"""Starts the worker process, shows what it tells, and turns its end, however it came, into state."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

from data.errors import RunError
from pipelines import machine, shards, state
from pipelines.failures import relief
from pipelines.lock import RunLock
from pipelines.progress import Watch
from pipelines.stage import Stage

WORKER_LOG = "worker.log"
"""What the worker printed before its first stage; from then on it prints into the stage's log."""
GRACE = 30.0
"""Seconds a stopped worker has to save what it wants to save."""
EXIT_CRASH, EXIT_USER = 1, 2


@dataclass(frozen=True)
class Way:
    """How a worker is started and stopped; as it stands, the way of a command on this machine."""

    launcher: tuple[str, ...] = ()
    """Python's arguments that start several processes of what follows."""
    log: str = WORKER_LOG
    grace: float = GRACE
    stop: Path | None = None
    """Once this file is there, the worker is to stop. A launcher's processes watch for it themselves, and agree."""
    patient: bool = False
    """Whether a second signal leaves the worker its time too."""
    shard: int | None = None
    """Of the stage, that one alone."""


@dataclass(frozen=True)
class Ended:
    """How the worker ended, in terms of the command's exit code."""

    code: int
    stage: str | None = None
    failed: state.Failed | None = None
    waiting: state.WaitingFor | None = None
    stopped: int | None = None
    """The signal that stopped the command: 2 is Ctrl-C."""


class Stopped(BaseException):
    """The command was told to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The worker's environment. What the user has set stays."""
    given = os.environ if given is None else given
    wanted = {
        "OMP_NUM_THREADS": str(machine.usable_cores()),
        # On cores that are shared, threads that spin while they wait cost more than they save.
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "PYTHONFAULTHANDLER": "1",
        # Big blocks kept instead of handed back to the kernel after every operation: a third less time in page faults.
        "MALLOC_MMAP_THRESHOLD_": "8589934592",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        # Else crumbs left by aligned blocks keep freed ones apart, and none is used again: a third more memory.
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "warning",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }
    found = {**wanted, **given, "PYTHONSAFEPATH": "1"}
    root = str(Path(__file__).parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # Run from a source tree: with a safe path the worker would not find it.
        found["PYTHONPATH"] = os.pathsep.join(p for p in (root, given.get("PYTHONPATH", "")) if p)
    return found


def launch(
    run_dir: Path, stages: Sequence[Stage], lock: RunLock, watch: Watch, way: Way | None = None
) -> Ended:
    """Run the stages in one worker, until all are done or one of them stops it."""
    way = way or Way()
    kills = machine.oom_kills()
    current: str | None = None
    last: dict[str, Any] = {}
    try:
        names = [shards.name(stage.name, way.shard) for stage in stages]
        with _signals(), _worker(run_dir, names, lock, way) as (process, events):
            try:
                for event in _events(process, events, None if way.launcher else way.stop):
                    last, current = event, str(event["stage"])
                    _show(event, watch)
                code = process.wait()
            except (Stopped, KeyboardInterrupt):
                _end(process, way)
                raise
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        return Ended(128 + number, current, stopped=number)
    finally:
        watch.close()
    if last.get("event") == "failed":
        failed = state.Failed.model_validate({k: v for k, v in last.items() if k not in ("event", "stage")})
        return Ended(failed.exit, current, failed=failed)
    if last.get("event") == "waiting":
        waiting = state.WaitingFor.model_validate(
            {k: v for k, v in last.items() if k not in ("event", "stage")}
        )
        return Ended(75, current, waiting=waiting)
    if last.get("event") == "interrupted":  # A signal reached it, and not this process.
        return Ended(128 + signal.SIGTERM, current, stopped=signal.SIGTERM)
    if code == 0:
        return Ended(0)
    if (
        way.launcher
        and current
        and (failed := state.read(shards.folder(run_dir, current) / state.FAILED, state.Failed))
    ):
        return Ended(failed.exit, current, failed=failed)  # By a process other than the one that tells.
    # The last stage may have been finished when it came.
    if last.get("event") == "done":
        current = None
    stage = next((item for item in stages if shards.name(item.name, way.shard) == current), None)
    return _died(run_dir, stage, code, kills, way)


def _show(event: Mapping[str, Any], watch: Watch) -> None:
    name = str(event["stage"])
    if event["event"] == "start":
        watch.start(name)
    elif event["event"] == "say":
        watch.say(name, event["line"])
    elif event["event"] == "progress":
        watch.progress(name, event["done"], event["total"], event["unit"], event["figures"])
    elif event["event"] == "done":
        watch.done(name, event["seconds"])


def _died(run_dir: Path, stage: Stage | None, code: int, kills: int | None, way: Way) -> Ended:
    """The worker ended without a word: say what is known, and record it in its stead."""
    folder = shards.folder(run_dir, shards.name(stage.name, way.shard)) if stage else run_dir
    log = folder / state.LOG if stage else run_dir / way.log
    way_out = f"What it printed is in {log}. The same command goes on from where it was."
    exit_code = EXIT_CRASH
    if code == -signal.SIGKILL:
        exit_code = EXIT_USER
        seen = kills is not None and (machine.oom_kills() or 0) > kills
        who = (
            "by the kernel, which was out of memory"
            if seen
            else "by the kernel for want of memory, or by hand"
        )
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
        total = machine.memory_limit() / 1e9
        what = f"the worker was killed {who} (signal 9; it used {used:.1f} of {total:.1f} GB)"
        way_out = relief(stage) if stage else way_out
    elif code < 0:
        what = f"the worker was ended by {_signal_name(-code)}{_last_words(log)}"
    else:
        what = f"the worker ended with exit code {code} before it said why{_last_words(log)}"
    where = f"stages.{stage.name}" if stage else str(run_dir)
    failed = state.Failed(
        what=what, where=where, way_out=way_out, trace=str(log), time=state.now(), exit=exit_code
    )
    if stage is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            state.write(folder / state.FAILED, failed)
        except (OSError, RunError) as unwritten:
            failed = failed.model_copy(update={"what": f"{failed.what} (not recorded: {unwritten})"})
    return Ended(exit_code, shards.name(stage.name, way.shard) if stage else None, failed=failed)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f"; its last line: {lines[-1][:200]}" if lines else ""


@contextmanager
def _worker(
    run_dir: Path, names: list[str], lock: RunLock, way: Way
) -> Generator[tuple[subprocess.Popen[bytes], IO[bytes]], None, None]:
    """The process, and what it tells. However the block is left, the process is ended and the pipes closed."""
    life_read, life_write = os.pipe()
    tell_read, tell_write = os.pipe()
    inherited = {"LOCK": lock.fd, "LIFELINE": life_read, "EVENTS": tell_write}
    env = environment() | {f"HELIOGRAPH_{key}": str(fd) for key, fd in inherited.items()}
    if way.launcher:
        # torchrun hands no open files down. Its processes end with their job, or when it does.
        inherited = {"EVENTS": tell_write}
        env = environment() | {"HELIOGRAPH_EVENTS": f"/proc/{os.getpid()}/fd/{tell_write}"}
    env["HELIOGRAPH_COMMAND"] = lock.holder.id
    process: subprocess.Popen[bytes] | None = None
    try:
        with (run_dir / way.log).open("wb") as log, os.fdopen(tell_read, "rb", buffering=0) as events:
            process = subprocess.Popen(
                [sys.executable, *way.launcher, "-m", "pipelines.worker", str(run_dir), *names],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=tuple(inherited.values()),
            )
            if not way.launcher:
                os.close(tell_write)
                tell_write = -1
            yield process, events
    except OSError as fault:
        if process is not None:
            raise
        raise RunError(
            f"the worker cannot be started: {fault.strerror or fault}",
            where=str(run_dir),
            way_out="Free memory or disk space, or mend the folder's permissions.",
        ) from fault
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for fd in (life_read, life_write, tell_write):
            if fd >= 0:
                os.close(fd)


def _events(
    process: subprocess.Popen[bytes], events: IO[bytes], stop: Path | None
) -> Iterator[dict[str, Any]]:
    """What the worker tells, until it has ended; a process that it left behind may keep the pipe open."""
    rest = b""
    while True:
        if stop is not None and stop.exists():
            raise Stopped(signal.SIGTERM)
        ready, _, _ = select.select([events], [], [], 0.5)
        if not ready:
            if process.poll() is not None:
                return
            continue
        block = os.read(events.fileno(), 65536)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield cast("dict[str, Any]", json.loads(line))


def _end(process: subprocess.Popen[bytes], way: Way) -> None:
    """Ask it to end, so that a trainer may still save; a second Ctrl-C does not wait."""
    if way.launcher and way.stop is not None:
        way.stop.touch()  # torchrun, told by a signal, leaves its processes half a minute.
    else:
        process.terminate()
    deadline = time.monotonic() + way.grace
    while process.poll() is None and time.monotonic() < deadline:
        try:
            time.sleep(0.05)
        except (Stopped, KeyboardInterrupt):
            if not way.patient:
                break
    if process.poll() is None:
        process.kill()
    process.wait()


@contextmanager
def _signals() -> Generator[None, None, None]:
    """A scheduler's SIGTERM and a closed terminal stop the command as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    caught = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop) for number in caught}  # nohup's ignoring stays.
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
