"""What a result was made with: versions, device, commit, memory. Imports nothing heavy to find out."""

from __future__ import annotations

import contextlib
import functools
import platform
import re
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "flash-attn",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
)


def heliograph_version() -> str:
    """Of the installed package, or of the source tree this runs from."""
    try:
        return metadata.version("heliograph")
    except metadata.PackageNotFoundError:
        file = Path(__file__).parent.parent / "pyproject.toml"
        found = re.search(r'^version = "(.+)"$', file.read_text(), re.M) if file.is_file() else None
        return f"{found[1]}+source" if found else "unknown"


@functools.cache
def versions() -> dict[str, str]:
    found = {"heliograph": heliograph_version(), "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@functools.cache
def commit(folder: Path) -> dict[str, Any] | None:
    """The git commit of the folder, and whether tracked files differ from it; None outside a checkout."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return {"id": head, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def device() -> str:
    """The GPU that this process has used, else the processor."""
    cuda = _cuda()
    return f"cuda: {cuda.get_device_name()}" if cuda is not None else f"cpu: {cpu_model()}"


def _cuda() -> Any:
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def reset_peak_memory() -> None:
    """Count from here, so that one stage's peak is not told as the next one's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Bytes at most since the last reset, of this process and on its GPU."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        if found:
            peak = int(found[1]) * 1024
    cuda = _cuda()
    return {"rss": peak} | ({"gpu": int(cuda.max_memory_allocated())} if cuda is not None else {})
