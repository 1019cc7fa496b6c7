"""One process at a time writes what is kept of a run: rationales, and a reader's replies."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from data.errors import RunError


def lock_file(path: Path, what: str) -> IO[str]:
    """A lock that ends with its process, or with the file's close; whoever comes second is told."""
    file = path.open("w")
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        file.close()
        raise RunError(
            f"another process writes {what}",
            where=str(path.parent),
            way_out="wait for it, or give this run a cache folder of its own",
        ) from fault
    except OSError:  # some network file systems have no locks
        return file
    return file
