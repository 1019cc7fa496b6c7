"""A stop that was asked for: by a signal, or through a file, which reaches every process wherever it runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP_FILE = "HELIOGRAPH_STOP"
"""Environment variable with the path of a file: once it is there, the work shall stop."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):  # noqa: N818 - it is a state, not an error
    """The work was told to stop; what it has is saved, and the same command goes on from there."""


@contextmanager
def heeding() -> Generator[Callable[[], bool], None, None]:
    """While this lasts, SIGTERM and SIGUSR1 do not end the process; what is yielded says whether to stop."""
    asked = threading.Event()
    file = os.environ.get(STOP_FILE)

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()

    def stop() -> bool:
        return asked.is_set() or (file is not None and Path(file).exists())

    if threading.current_thread() is not threading.main_thread():
        yield stop  # Only the main thread may take signals.
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
