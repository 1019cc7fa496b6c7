"""One command at a time on a run folder: a lock that ends with the processes that hold it, however they end."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from data.errors import RunError
from pipelines.state import now

FILE = ".lock"
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

    def release(self) -> None:
        """This process's share; a worker that is still alive keeps its own."""
        os.close(self.fd)


def acquire(run_dir: Path, command: str) -> RunLock:
    """Make the run folder and lock it, or say who holds it."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        fd = os.open(run_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as fault:
        raise _unwritable(run_dir, fault) from fault
    try:
        return _lock(run_dir, fd, command)
    except BaseException:
        os.close(fd)
        raise


def _lock(run_dir: Path, fd: int, command: str) -> RunLock:
    notice = None
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as fault:
            if fault.errno in UNSUPPORTED:
                notice = f"{run_dir}: this file system has no locks; start no second command on this run"
                break
            if fault.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _unwritable(run_dir, fault) from fault
        if time.monotonic() > deadline:
            raise _refused(run_dir, _read(run_dir))
        time.sleep(0.05)
    holder = Holder(os.getpid(), socket.gethostname(), command, now(), secrets.token_hex(6))
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(asdict(holder)).encode(), 0)
    except OSError as fault:
        raise _unwritable(run_dir, fault) from fault
    return RunLock(fd, holder, notice)


def holder(run_dir: Path) -> Holder | None:
    """Who is at work in the run folder now; None when nobody is."""
    try:
        fd = os.open(run_dir / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as fault:
        return None if fault.errno in UNSUPPORTED else _read(run_dir)
    else:
        return None
    finally:
        os.close(fd)


def _read(run_dir: Path) -> Holder | None:
    """What the holder wrote. It is only for the message: the lock is the kernel's."""
    try:
        found = cast("dict[str, Any]", json.loads((run_dir / FILE).read_bytes()))
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
