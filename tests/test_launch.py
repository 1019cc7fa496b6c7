"""Real worker processes, and every way in which they end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import launch, lock, machine, state
from tests.handmade import (
    candidates,
    environment,
    give_answers,
    heliograph,
    listening,
    started,
    until,
    workers_of,
    write_recipe,
)

CELL = """
import sys
from pathlib import Path
from typing import Literal
from pipelines.attempt import Setting
from pipelines.stage import Stage, Waiting
from pipelines.worker import work

class Toy(Stage):
    kind: Literal["toy"] = "toy"
    batch_size: int = 8

    def run(self, job):
        job.say("working")
{body}

run_dir = Path(sys.argv[1])
code = work(Toy(name="toy"), set(), Setting(run_dir, run_dir, "", lambda event: None))
sys.exit(code)
"""


def work(run_dir: Path, body: str, **env: str) -> subprocess.CompletedProcess[str]:
    """One stage whose `run` has this body, at the worker's boundary."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    return subprocess.run(
        [sys.executable, "-c", CELL.replace("{body}", lines), str(run_dir)],
        env=environment() | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def failed(run_dir: Path, stage: str = "toy") -> state.Failed:
    found = state.read(run_dir / stage / state.FAILED, state.Failed)
    assert found is not None
    return found


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A recipe whose second stage reads a pipe that nobody writes: a worker that stays at work."""
    recipe = write_recipe(tmp_path)
    rows = give_answers(recipe, tmp_path / "runs") / "answers" / "rows.jsonl"
    rows.unlink()
    os.mkfifo(rows)
    return recipe


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "heliograph-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as fault:
        pytest.skip(f"a small file system needs `mount`: {fault}")
    if done.returncode:
        pytest.skip(f"a small file system needs the right to mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def at_work(run_dir: Path) -> int:
    until(lambda: (run_dir / "pick" / state.PROGRESS).exists())
    return workers_of(run_dir)[0]


def test_the_environment_is_set_where_the_user_has_not() -> None:
    found = launch.environment({"OMP_NUM_THREADS": "7", "PYTHONPATH": "/x", "PYTHONSAFEPATH": ""})
    assert found["OMP_NUM_THREADS"] == "7"
    assert found["PYTHONSAFEPATH"] == "1"
    assert found["GOMP_SPINCOUNT"] == "0"
    assert found["MALLOC_MMAP_THRESHOLD_"] == "8589934592"
    assert found["MALLOC_TRIM_THRESHOLD_"] == "17179869184"
    assert found["GLIBC_TUNABLES"] == "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
    assert found["PYTHONPATH"].endswith(":/x")
    assert launch.environment({})["OMP_NUM_THREADS"] == str(machine.usable_cores())
    assert 1 <= machine.usable_cores() <= len(os.sched_getaffinity(0))


def test_killing_the_command_ends_the_worker_and_frees_the_run(blocked: Path) -> None:
    run_dir = blocked.parent / "runs" / "demo"
    command = started("run", blocked.name, cwd=blocked.parent)
    worker = at_work(run_dir)
    assert lock.holder(run_dir) is not None
    command.kill()
    command.communicate()
    until(lambda: not Path(f"/proc/{worker}/exe").exists() and lock.holder(run_dir) is None, 10)
    shown = json.loads(heliograph("status", "demo", "--json", cwd=blocked.parent).stdout)
    assert [stage["state"] for stage in shown["stages"]] == ["done", "pending"]
    assert shown["stages"][1]["reasons"] == ["interrupted"]


def test_a_run_at_work_says_so_and_refuses_a_second_command(blocked: Path) -> None:
    run_dir = blocked.parent / "runs" / "demo"
    command = started("run", blocked.name, cwd=blocked.parent)
    at_work(run_dir)
    shown = json.loads(heliograph("status", "demo", "--json", cwd=blocked.parent).stdout)
    assert [stage["state"] for stage in shown["stages"]] == ["done", "running"]
    second = heliograph("run", blocked.name, cwd=blocked.parent)
    assert second.returncode == 2
    assert f"process {command.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    command.kill()
    command.communicate()


def test_a_killed_worker_is_told_as_memory_with_what_to_lower(blocked: Path) -> None:
    run_dir = blocked.parent / "runs" / "demo"
    command = started("run", blocked.name, cwd=blocked.parent)
    os.kill(at_work(run_dir), signal.SIGKILL)
    _, err = command.communicate(timeout=30)
    assert command.returncode == 2
    assert "by the kernel for want of memory, or by hand (signal 9" in err
    assert "the same command goes on from where the stage was" in err
    assert "Traceback" not in err
    found = failed(run_dir, "pick")
    assert found.where == "stages.pick"
    assert found.exit == 2
    shown = json.loads(heliograph("status", "demo", "--json", cwd=blocked.parent).stdout)
    assert shown["stages"][1]["state"] == "failed"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_both_and_says_that_the_same_command_goes_on(
    blocked: Path, number: signal.Signals, code: int
) -> None:
    run_dir = blocked.parent / "runs" / "demo"
    command = started("run", blocked.name, cwd=blocked.parent)
    worker = at_work(run_dir)
    os.kill(command.pid, number)
    out, err = command.communicate(timeout=30)
    assert command.returncode == code
    assert "stopped in pick; what was finished stays. The same command goes on:" in out
    assert f"run {blocked.name}" in out
    assert err == ""
    assert not Path(f"/proc/{worker}/exe").exists()
    assert not (run_dir / "pick" / state.FAILED).exists()
    (run_dir / "answers" / "rows.jsonl").unlink()
    give_answers(blocked, run_dir.parent)
    again = heliograph("run", blocked.name, cwd=blocked.parent)
    assert again.returncode == 0, again.stderr
    assert "pick: goes on (interrupted)" in again.stdout


def test_ctrl_c_at_a_terminal_reaches_the_whole_group_and_stops_once(blocked: Path) -> None:
    run_dir = blocked.parent / "runs" / "demo"
    master, slave = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run", blocked.name],
        cwd=blocked.parent,
        env=environment(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: (listening(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(slave)
    worker = at_work(run_dir)
    os.write(master, b"\x03")
    assert command.wait(timeout=30) == 130
    shown = b""
    with contextlib.suppress(OSError):  # The terminal is gone with its last process.
        while block := os.read(master, 65536):
            shown += block
    os.close(master)
    assert "answers: done, just now" in shown.decode()
    assert "stopped in pick" in shown.decode()
    assert "Traceback" not in shown.decode()
    assert not Path(f"/proc/{worker}/exe").exists()


def test_a_worker_that_crashes_in_native_code_is_a_crash(blocked: Path) -> None:
    run_dir = blocked.parent / "runs" / "demo"
    command = started("run", blocked.name, cwd=blocked.parent)
    os.kill(at_work(run_dir), signal.SIGSEGV)
    _, err = command.communicate(timeout=30)
    assert command.returncode == 1
    assert "the worker was ended by SIGSEGV" in err
    assert str(Path("runs/demo/pick/log.txt")) in err
    assert failed(run_dir, "pick").exit == 1


def test_a_worker_that_cannot_start_says_why(blocked: Path) -> None:
    (blocked.parent / "broken").mkdir()
    (blocked.parent / "broken" / "sitecustomize.py").write_text(
        "import sys\nif 'pipelines.worker' in sys.orig_argv: sys.exit('no such luck')\n"
    )
    path = os.pathsep.join([str(blocked.parent / "broken"), environment()["PYTHONPATH"]])
    done = heliograph("run", blocked.name, cwd=blocked.parent, env={"PYTHONPATH": path})
    assert done.returncode == 1
    assert "before it said why; its last line: SystemExit: no such luck" in done.stderr


def test_a_full_disk_names_the_file_and_the_way_out(small_disk: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run_dir = give_answers(recipe, small_disk / "runs", candidates(count=40, length=5000))
    done = heliograph("run", recipe.name, "--runs-dir", small_disk / "runs", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert str(run_dir / "pick" / "rows.jsonl") in done.stderr or str(run_dir / "pick") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run_dir / "pick" / state.DONE).exists()
    assert (run_dir / "answers" / state.DONE).exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = heliograph("run", recipe.name, "--runs-dir", small_disk / "runs", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len((run_dir / "pick" / "rows.jsonl").read_text().splitlines()) == 40


def test_a_stage_whose_record_does_not_fit_is_not_done(small_disk: Path) -> None:
    done = work(
        small_disk / "demo", "(job.out / 'big').write_bytes(b'x' * 900_000)\nreturn {'text': 'y' * 400_000}"
    )
    assert done.returncode == 2
    assert not (small_disk / "demo" / "toy" / state.DONE).exists()
    assert "No space left on device" in failed(small_disk / "demo").what


@pytest.mark.parametrize(
    "save",
    [
        "from safetensors.torch import save_file; save_file({'a': torch.zeros(1_000_000)}, job.out / 'a.safetensors')",
        "torch.save({'a': torch.zeros(1_000_000)}, job.out / 'a.pt')",
    ],
)
def test_a_full_disk_under_torch_is_told_as_such(small_disk: Path, save: str) -> None:
    done = work(small_disk / "demo", f"import torch\n{save}")
    assert done.returncode == 2
    log = small_disk / "demo" / "toy" / state.LOG
    # The record itself may not fit either: then it is told, and not written.
    path = small_disk / "demo" / "toy" / state.FAILED
    if path.exists():
        assert failed(small_disk / "demo").what.startswith("the disk is full")
    else:
        assert "No space" in log.read_text() or "inline_container" in log.read_text()


def test_what_a_crash_leaves(tmp_path: Path) -> None:
    done = work(tmp_path, "print('on the way')\nos_error = {}['nothing']")
    assert done.returncode == 1
    found = failed(tmp_path)
    assert found.what == "KeyError: 'nothing'"
    assert found.trace == str(tmp_path / "toy" / "trace.txt")
    trace = Path(found.trace or "").read_text()
    assert "os_error" in trace or "KeyError: 'nothing'" in trace
    log = (tmp_path / "toy" / "log.txt").read_text()
    assert "on the way" in log
    assert " working\n" in log
    assert done.stdout == ""
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("raise MemoryError", "out of memory (MemoryError)"),
        ("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory. Tried 3 GiB')",
         "out of memory (CUDA out of memory. Tried 3 GiB)"),
        ("raise RuntimeError('[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: cannot allocate')",
         "out of memory ([enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: cannot allocate)"),
        ("open(job.out, 'w')", None),
        ("raise OSError(28, 'No space left on device', 'here.bin')", "the disk is full"),
        ("raise OSError(122, 'Disk quota exceeded')", "the disk is full"),
        ("raise OSError(30, 'Read-only file system', 'there.bin')", "cannot be written or read"),
        ("raise OSError(27, 'File too large')", "cannot be written or read"),
        ("raise PermissionError(13, 'Permission denied', 'mine')", "cannot be written or read"),
        ("try:\n    raise OSError(28, 'Full')\nexcept OSError:\n    raise KeyError('a')", "the disk is full"),
        ("try:\n    raise OSError(28, 'Full')\nexcept OSError:\n    raise KeyError('a') from None", None),
        ("try:\n    raise PermissionError(13, 'x')\nexcept OSError:\n    raise KeyError('a')", None),
        ("import sys; sys.exit(3)", None),
    ],
)  # fmt: skip
def test_the_machine_s_errors_and_crashes_are_told_apart(tmp_path: Path, body: str, what: str | None) -> None:
    done = work(tmp_path, body)
    found = failed(tmp_path)
    assert done.returncode == found.exit == (1 if what is None else 2)
    assert (found.trace is None) == (what is not None)
    if what is not None:
        assert found.what.startswith(what)
        assert found.way_out
    if what is not None and "memory" in what:
        assert found.where == "stages.toy"
        assert "lower batch_size (now 8)" in found.way_out


def test_a_user_error_is_recorded_as_it_was_raised(tmp_path: Path) -> None:
    body = "from data.errors import DataError\nraise DataError('empty', where='x.jsonl', way_out='Give it rows.')"
    done = work(tmp_path, body)
    found = failed(tmp_path)
    assert done.returncode == 2
    assert (found.what, found.where, found.way_out, found.trace) == (
        "empty",
        "x.jsonl",
        "Give it rows.",
        None,
    )


def test_waiting_is_recorded_and_forgotten_when_it_is_over(tmp_path: Path) -> None:
    assert work(tmp_path, "raise Waiting('20 votes', how='heliograph ask')").returncode == 75
    waiting = state.read(tmp_path / "toy" / state.WAITING, state.WaitingFor)
    assert waiting is not None
    assert (waiting.what, waiting.how) == ("20 votes", "heliograph ask")
    first = state.read(tmp_path / "toy" / state.STARTED, state.Started)
    assert work(tmp_path, "return {'votes': 20}").returncode == 0
    assert not (tmp_path / "toy" / state.WAITING).exists()
    done = state.read(tmp_path / "toy" / state.DONE, state.Done)
    assert first is not None
    assert done is not None
    assert (done.build, done.started) == (first.build, first.started)


def test_figures_and_progress_are_kept_as_they_come(tmp_path: Path) -> None:
    body = """
job.log({"step": 1, "loss": 0.5})
job.log({"step": 2, "loss": float("nan")})
job.choose("dtype", "float32", "CPU")
for step in range(1, 1001):
    job.progress(done=step, total=1000, unit="steps", loss=1 / step)
data = bytearray(200_000_000)
return {"loss": 0.25, "text": "é"}
"""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "metrics.jsonl").write_text(
        '{"step": 0}\n{"step": '
    )  # A killed attempt's last words.
    assert work(tmp_path, body).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("loss")) for line in lines] == [(0, None), (1, 0.5), (2, None)]
    mark = state.read(tmp_path / "toy" / state.PROGRESS, state.ProgressMark)
    assert mark is not None
    assert (mark.done, mark.total, mark.unit, mark.figures) == (1000, 1000, "steps", {"loss": 0.001})
    done = state.read(tmp_path / "toy" / state.DONE, state.Done)
    assert done is not None
    assert done.metrics == {"loss": 0.25, "text": "é"}
    assert done.resolved == {"dtype": {"value": "float32", "why": "CPU"}}
    assert done.peak_memory["rss"] > 200_000_000
    assert done.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 0 < done.seconds < 60
    assert not list((tmp_path / "toy").glob(".*.tmp"))
