"""One command on a run folder, whatever becomes of the processes that hold it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import RunError
from pipelines import lock
from tests.handmade import environment, until

HOLD = """
import sys, time
from pathlib import Path
from pipelines import lock
held = lock.acquire(Path(sys.argv[1]), "heliograph run other.yaml")
print("held", flush=True)
time.sleep(60)
"""


def other(run_dir: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_free_folder_has_no_holder(tmp_path: Path) -> None:
    assert lock.holder(tmp_path / "runs" / "demo") is None
    held = lock.acquire(tmp_path / "runs" / "demo", "heliograph run demo.yaml")
    assert lock.holder(tmp_path / "runs" / "demo") == held.holder
    assert held.holder.pid == os.getpid()
    held.release()
    assert lock.holder(tmp_path / "runs" / "demo") is None
    lock.acquire(tmp_path / "runs" / "demo", "heliograph run demo.yaml").release()


def test_the_second_command_is_told_who_holds_the_first(tmp_path: Path) -> None:
    process = other(tmp_path)
    since = json.loads((tmp_path / ".lock").read_text())["since"]
    with pytest.raises(RunError) as caught:
        lock.acquire(tmp_path, "heliograph run demo.yaml")
    assert caught.value.where == str(tmp_path)
    assert f"process {process.pid} on " in caught.value.what
    assert f"since {since}: heliograph run other.yaml" in caught.value.what
    assert "--name NEW" in (caught.value.way_out or "")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lock.acquire(tmp_path, "heliograph run demo.yaml").release()


def test_a_worker_that_outlives_its_command_keeps_the_lock(tmp_path: Path) -> None:
    held = lock.acquire(tmp_path, "heliograph run demo.yaml")
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(held.fd,))
    held.release()
    try:
        assert lock.holder(tmp_path) == held.holder
        with pytest.raises(RunError, match="the run is in use"):
            lock.acquire(tmp_path, "heliograph run demo.yaml")
    finally:
        worker.kill()
        worker.communicate()
    assert lock.holder(tmp_path) is None


def test_looking_does_not_get_in_the_way(tmp_path: Path) -> None:
    """`status` holds a shared lock for an instant; a command that comes then is not refused."""
    (tmp_path / ".lock").write_text("{}")
    looking = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    until(lambda: child.poll() is not None or os.path.exists(f"/proc/{child.pid}/fd/3"))
    os.close(looking)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    child.kill()
    child.communicate()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_garbled_lock_file_changes_only_the_words(tmp_path: Path, content: str) -> None:
    held = lock.acquire(tmp_path, "one")
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(RunError, match=r"the run is in use \(another command\)"):
        lock.acquire(tmp_path, "two")
    held.release()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(RunError, match="the run folder cannot be written") as caught:
        lock.acquire(tmp_path / "runs" / "demo", "heliograph run demo.yaml")
    assert "--runs-dir DIR" in (caught.value.way_out or "")


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    held = lock.acquire(tmp_path, "heliograph run demo.yaml")
    assert held.notice == f"{tmp_path}: this file system has no locks; start no second command on this run"
    assert lock.holder(tmp_path) is None
    held.release()
