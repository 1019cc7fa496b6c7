"""The folders of stored log-probabilities: one for each identity that values share, and those nobody uses removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from data.errors import ModelError, TrainingError
from data.jsonl import sync_folder

IDENTITY = "identity.json"
DIGITS = 32
REMOVED = ".removed"
_STORE = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
_CUT_OFF = re.compile(rf"[0-9a-f]{{{DIGITS}}}\.[0-9a-f]{{32}}{re.escape(REMOVED)}")
IN_USE = 3600.0
"""Seconds after its last use for which a folder is not removed."""


def settle(folder: Path, identity: Mapping[str, object]) -> Path:
    """The folder of this identity, made or checked.

    What JSON cannot hold is refused: its text could be another at every start.
    """
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    own = folder / hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
    path = own / IDENTITY
    try:
        own.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, json.loads(text))
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ModelError(
            f"cannot be written or read: {fault.strerror or fault}",
            where=str(path),
            way_out="Mend the permissions, or free some space (df -h).",
        ) from fault
    except ValueError as fault:
        raise _foreign(path, f"cannot be read as JSON: {fault}") from fault
    if found != json.loads(text):
        raise _foreign(path, "tells of other weights or another arithmetic than its folder is named for")
    return own


def _write(path: Path, value: object) -> None:
    # A name that no process on another machine takes either: all write the same, and any of them may be the last.
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _foreign(path: Path, what: str) -> ModelError:
    return ModelError(
        what,
        where=str(path),
        way_out=f"Remove {path.parent}: what it holds is measured again.",
    )


def size_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile is nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def prune(folder: Path, keep_bytes: int) -> list[Path]:
    """Remove the identities that were not used for longest, until the rest fits; what was used lately stays."""
    for half in _named(folder, _CUT_OFF):
        _remove(half)
    stores = sorted((_used(one), one, size_on_disk(one)) for one in _named(folder, _STORE))
    total = sum(size for *_, size in stores)
    removed: list[Path] = []
    for used, one, size in stores:
        if total <= keep_bytes or time.time() - used < IN_USE:
            break
        # Renamed first: whoever opens the store meanwhile sees all of it or none.
        aside = one.with_name(f"{one.name}.{uuid.uuid4().hex}{REMOVED}")
        with contextlib.suppress(FileNotFoundError):  # Somebody else removes it.
            os.rename(one, aside)
            _remove(aside)
            removed.append(one)
        total -= size
    return removed


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass  # Somebody else removes it.
    except OSError as fault:
        raise TrainingError(
            f"cannot be removed: {fault.strerror or fault}",
            where=str(folder),
            way_out="Mend the permissions of the folder, or remove it by hand.",
        ) from fault


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Folders named as an identity is, and nothing else that a person may keep there."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [one for one in inside if pattern.fullmatch(one.name) and one.is_dir() and not one.is_symlink()]


def _used(store: Path) -> float:
    """When it was last opened, read from or written to."""
    times = [store.lstat().st_mtime]
    for file in store.iterdir():
        with contextlib.suppress(FileNotFoundError):
            times.append(file.lstat().st_mtime)
    return max(times)
