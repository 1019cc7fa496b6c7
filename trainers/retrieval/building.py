"""What several processes want built is built once: the others wait, and nothing half-written gets its name."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from data.errors import RunError
from data.jsonl import sync_folder


@contextlib.contextmanager
def turn(folder: Path, say: Callable[[str], None]) -> Generator[None]:
    """One process at a time; whoever comes second is told and waits. The lock ends with its holder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        if _locked(file.fileno(), folder, say):
            # Nobody else is at it, so these are of builders that were killed; an index may be of gigabytes.
            for left in folder.parent.glob(f".{folder.name}.tmp-*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def _locked(handle: int, folder: Path, say: Callable[[str], None]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another process builds {folder.name}: waiting for it")
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        # Both would build into folders of their own, and the first to be done gives the name.
        say(f"no locks in {folder.parent}: should another process build {folder.name} too, it is built twice")
        return False
    return True


@contextlib.contextmanager
def writing(folder: Path) -> Generator[Path]:
    """A folder to write into, which becomes `folder` when the block ends well and its files are on disk."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
        try:
            yield aside
            _sync(aside)
            aside.chmod(0o755)
            try:
                aside.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process, which no lock held back, was done first
                    raise
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as fault:
        raise RunError(
            f"cannot be written: {fault.strerror or fault}",
            where=str(folder),
            way_out="check the folder's permissions and the free space (df -h); nothing half-written is left",
        ) from fault


def _sync(folder: Path) -> None:
    """Wait until the files are on disk: else a power cut could leave the name with empty files behind it."""
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)
