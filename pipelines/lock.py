"""One command at a time on a run folder, or one job on each stage: locks that end with the processes that hold them.

A command holds the folder's lock alone. Jobs of one run share it, so that no command comes between them, and each
holds its stage's lock alone: independent branches work side by side, and no stage is worked on twice.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from data.errors import RunError
from pipelines.state import now

FILE = ".lock"
STAGES = ".locks"
"""Folder of the stages' locks."""
# `status` takes the lock for an instant to see whether it is free, so one refusal proves nothing.
PATIENCE = 0.5
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder."""

    pid: int
    host: str
    command: str
    since: str
    id: str
    """Tells this command's progress from that of an earlier one."""


@dataclass(frozen=True)
class RunLock:
    """Held as long as one process has `fd` open: the command, and the worker that inherits it."""

    fd: int
    holder: Holder
    notice: str | None = None
    shared: int | None = None
    """The run's lock, which a stage's holder has with others."""

    def release(self) -> None:
        """This process's share; a worker that is still alive keeps its own."""
        os.close(self.fd)
        if self.shared is not None:
            os.close(self.shared)


def acquire(run_dir: Path, command: str) -> RunLock:
    """Make the run folder and lock it, or say who holds it."""
    fd, notice = _locked(run_dir, run_dir / FILE, fcntl.LOCK_EX)
    return RunLock(fd, _signed(run_dir, fd, command), notice)


def acquire_stage(run_dir: Path, stage: str, command: str) -> RunLock:
    """Lock one stage, beside jobs that hold others; or say who holds it or the whole run."""
    shared, notice = _locked(run_dir, run_dir / FILE, fcntl.LOCK_SH)
    try:
        fd, _ = _locked(run_dir, run_dir / STAGES / stage, fcntl.LOCK_EX)
        return RunLock(fd, _signed(run_dir, fd, command), notice, shared)
    except BaseException:
        os.close(shared)
        raise


def _locked(run_dir: Path, file: Path, how: int) -> tuple[int, str | None]:
    """The open file that holds the lock, and a word about file systems without any."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as fault:
        raise _unwritable(run_dir, fault) from fault
    try:
        return fd, _wait(run_dir, file, fd, how)
    except BaseException:
        os.close(fd)
        raise


def _wait(run_dir: Path, file: Path, fd: int, how: int) -> str | None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return None
        except OSError as fault:
            if fault.errno in UNSUPPORTED:
                return f"{run_dir}: this file system has no locks; start no second command on this run"
            if fault.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _unwritable(run_dir, fault) from fault
        if time.monotonic() > deadline:
            # The run's file names its last command, and not the jobs that share the lock.
            raise _refused(run_dir, next(iter(_at_work(run_dir)), None) or _read(file))
        time.sleep(0.05)


def _signed(run_dir: Path, fd: int, command: str) -> Holder:
    holder = Holder(os.getpid(), socket.gethostname(), command, now(), secrets.token_hex(6))
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(asdict(holder)).encode(), 0)
    except OSError as fault:
        os.close(fd)
        raise _unwritable(run_dir, fault) from fault
    return holder


def holder(run_dir: Path, stage: str | None = None) -> Holder | None:
    """Who is at work in the run folder, or on that stage of it, now; None when nobody is."""
    return _holder(run_dir / FILE if stage is None else run_dir / STAGES / stage)


def _at_work(run_dir: Path) -> Iterator[Holder]:
    """The jobs that hold a stage."""
    for file in sorted((run_dir / STAGES).glob("*")):
        if found := _holder(file):
            yield found


def _holder(file: Path) -> Holder | None:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as fault:
        return None if fault.errno in UNSUPPORTED else _read(file)
    else:
        return None
    finally:
        os.close(fd)


def _read(file: Path) -> Holder | None:
    """What the holder wrote. It is only for the message: the lock is the kernel's."""
    try:
        found = cast("dict[str, Any]", json.loads(file.read_bytes()))
        return Holder(**found)
    except (OSError, ValueError, TypeError):
        return Holder(0, "?", "?", "?", "")


def _refused(run_dir: Path, holder: Holder | None) -> RunError:
    who = "another command"
    if holder is not None and holder.pid:
        who = f"process {holder.pid} on {holder.host} since {holder.since}: {holder.command}"
    return RunError(
        f"the run is in use ({who})",
        where=str(run_dir),
        way_out="Wait for it or stop it, or keep both with another run: --name NEW.",
    )


def _unwritable(run_dir: Path, fault: OSError) -> RunError:
    return RunError(
        f"the run folder cannot be written: {fault.strerror or fault}",
        where=str(run_dir),
        way_out="Mend the permissions or free some space (df -h), or choose another place: --runs-dir DIR.",
    )
