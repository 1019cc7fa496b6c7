"""What this machine has, asked without torch: cores, memory, GPUs, disks. Each question may go unanswered."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import psutil

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Physical cores this process may use: by affinity, by the container's quota, two threads of a core as one."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores: set[tuple[str, str]] = set()
    for cpu in allowed:
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            package, core = (
                (folder / name).read_text().strip() for name in ("physical_package_id", "core_id")
            )
        except OSError:
            package, core = "cpu", str(cpu)
        cores.add((package, core))
    count = len(cores)
    quota = cpu_quota()
    if quota is not None:
        count = min(count, max(1, round(quota)))
    return max(1, count)


def cpu_quota() -> float | None:
    """Cores a container may use on average; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        old = CGROUP / "cpu"
        quota = int((old / "cpu.cfs_quota_us").read_text())
        return quota / int((old / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None


def memory_limit() -> int:
    """Bytes of memory, of the machine or of the container it runs in."""
    total = psutil.virtual_memory().total
    for file in (CGROUP / "memory.max", CGROUP / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(file.read_text()))
    return total


def memory_available() -> int:
    return min(psutil.virtual_memory().available, memory_limit())


def oom_kills() -> int | None:
    """How often the kernel has killed for memory here; to compare before and after."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", (CGROUP / "memory.events").read_text(), re.M)
        if found:
            return int(found[1])
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.M)
        if found:
            return int(found[1])
    return None


def cpu_flags() -> list[str]:
    """The instruction sets that decide whether bfloat16 is fast here."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        match = re.search(r"^flags\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        found = set(match[1].split()) if match else set()
    return [flag for flag in CPU_FLAGS if flag in found]


def ask(command: list[str], seconds: float = 10, env: dict[str, str] | None = None) -> str:
    """What a command prints; OSError when it is absent, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=env)
    except subprocess.TimeoutExpired as slow:
        raise OSError(f"{command[0]} gave no answer in {seconds:g} s") from slow
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(f"{command[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.stdout.strip()


def gpus() -> list[dict[str, object]]:
    """Name and memory of each GPU, from the driver's own tool."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,driver_version"
    found: list[dict[str, object]] = []
    for line in ask(["nvidia-smi", query, "--format=csv,noheader,nounits"]).splitlines():
        name, total, free, driver = (part.strip() for part in line.split(","))
        found.append(
            {"name": name, "memory_mib": _number(total), "free_mib": _number(free), "driver": driver}
        )
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None  # "[N/A]" under MIG.


def disk_free(folder: Path) -> int:
    """Bytes free where the folder is, or would be."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free
