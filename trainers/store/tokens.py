"""Log-probabilities of tokens, kept on disk by what they are of: appended to, read by any number of processes.

What all values share (the weights, the arithmetic) is the identity and names a folder; the tokens of a prompt and a
completion make the key of one record in it. Every writing process appends to a file of its own, so nothing is locked,
which also holds on network file systems. A record that was torn or damaged does not count: it is measured again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.errors import ModelError, TrainingError
from trainers.store.folders import IDENTITY, settle, sync_folder
from trainers.store.records import Region, decode, encode, read_at, scan

FORMAT = 1
SUFFIX = ".tokens"
TOUCH_EVERY = 600.0
MAX_OPEN = 64
"""Files kept open for reading; a store that grew over years may hold more than a process may open."""
EXAMPLES = 5


def key(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> bytes:
    """SHA-256 of the tokens; with their counts, so that no other cut between prompt and completion has the same."""
    digest = hashlib.sha256()
    for ids in (prompt_ids, completion_ids):
        digest.update(struct.pack(f"<q{len(ids)}q", len(ids), *ids))
    return digest.digest()


class _Place(NamedTuple):
    segment: str
    start: int
    size: int


@dataclass
class _Segment:
    """What was seen of one file."""

    seen: int = 0
    lost: list[Region] = field(default_factory=list[Region])
    unreadable: str | None = None

    @property
    def resume(self) -> int:
        """From here on it is read again: what was torn may since have been finished by its writer."""
        return min(self.seen, self.lost[0].start) if self.lost else self.seen


@dataclass
class _Writer:
    """The file of this process; `end` is behind its last whole record, `synced` behind the last that is on disk."""

    segment: str
    file: int
    process: int
    end: int = 0
    synced: int = 0


class TokenStore:
    """Arrays of numbers by key. One thread at a time; forked and unpickled copies are stores of their own."""

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self.folder = settle(folder, {"format": FORMAT, "identity": dict(identity)})
        self._index: dict[bytes, _Place] = {}
        self._segments: dict[str, _Segment] = {}
        self._start()
        self._touch()
        self.refresh()

    def _start(self) -> None:
        self._writer: _Writer | None = None
        self._files: dict[str, int] = {}
        self._touched = -TOUCH_EVERY
        weakref.finalize(self, _close, self._files)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_index": self._index, "_segments": self._segments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def missing(self, keys: Iterable[bytes]) -> list[int]:
        """Where the keys stand that have no values; each key once, at its first place."""
        first: dict[bytes, int] = {}
        for place, one in enumerate(keys):
            if one not in self._index:
                first.setdefault(one, place)
        return list(first.values())

    def read(self, key: bytes) -> np.ndarray:
        """The values, not writeable; checked against what was written at every reading."""
        place = self._index.get(key)
        if place is None:
            raise ModelError(
                f"no values are stored for {_short(key)}",
                where=str(self.folder),
                way_out="With several machines, this folder must be one that all of them share; "
                "else run the same command again: what is missing is measured.",
            )
        try:
            values = decode(key, read_at(self._file(place.segment), place.start, place.size))
        except OSError as fault:
            raise ModelError(
                f"cannot be read: {fault.strerror or fault}",
                where=str(self.folder / place.segment),
                way_out="Was the folder removed while it was used? Run the same command again.",
            ) from fault
        if values is None:
            raise ModelError(
                f"the values of {_short(key)} were damaged after the store was opened",
                where=f"{self.folder / place.segment}, byte {place.start}",
                way_out="Look after the disk, and run the same command again: they are measured again.",
            )
        self._touch()
        return values

    def add(self, key: bytes, values: np.ndarray) -> None:
        """Append the values; those of a key that is there stay. On disk for certain after `flush`."""
        record = encode(key, values)
        if not np.isfinite(values).all():
            raise ModelError(
                f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} values for {_short(key)} are not finite",
                where=str(self.folder),
                way_out="Look at the weights and at dtype; float16 overflows where bfloat16 does not.",
            )
        if key in self._index:
            return
        writer = None
        try:
            writer = self._own()
            _write(writer.file, record, writer.end)
        except OSError as fault:
            if writer is not None:
                # The next record is written over what is left of this one, so that nothing depends on this.
                with contextlib.suppress(OSError):
                    os.ftruncate(writer.file, writer.end)
            raise self._unwritable(fault, "what was added before stays") from fault
        self._index[key] = _Place(writer.segment, writer.end, len(record))
        writer.end += len(record)
        self._segments[writer.segment].seen = writer.end

    def flush(self) -> None:
        """Wait until the disk has what was added. Where it cannot take it, that part counts as missing again."""
        writer = self._writer
        if writer is None or writer.process != os.getpid():
            return
        try:
            os.fsync(writer.file)
            removed = os.fstat(writer.file).st_nlink == 0
        except OSError as fault:
            # The system forgets what it could not write after telling so once: a second fsync would lie.
            self._drop(writer.segment, writer.synced)
            with contextlib.suppress(OSError):
                os.ftruncate(writer.file, writer.synced)
            self._leave()
            raise self._unwritable(fault, "what was added since the last flush is missing again") from fault
        if removed:
            raise ModelError(
                "was removed while values were added to it",
                where=str(self.folder / writer.segment),
                way_out="Run the same command again: the values are measured again.",
            )
        writer.synced = writer.end
        self._touch()

    def refresh(self) -> None:
        """See what other processes have added; where both have a key, the values already known stay."""
        try:
            names = sorted(name for name in os.listdir(self.folder) if name.endswith(SUFFIX))
        except OSError as fault:
            raise ModelError(
                f"cannot be read: {fault.strerror or fault}",
                where=str(self.folder),
                way_out="Was the folder removed while it was used? Run the same command again.",
            ) from fault
        for gone in set(self._segments) - set(names):
            self._drop(gone, 0)
            del self._segments[gone]
            if self._writer is not None and self._writer.segment == gone:
                self._leave()
        for name in names:
            self._look(name, self._segments.setdefault(name, _Segment()))

    @property
    def damaged(self) -> int:
        """Stretches of files that hold no whole record: torn by a crash, or altered on the disk."""
        return sum(len(one.lost) for one in self._segments.values())

    def faults(self) -> list[str]:
        """A line for each of the first of them."""
        told = [
            f"{self.folder / name}: {one.unreadable or _what(region, one.seen)}"
            for name, one in self._segments.items()
            for region in one.lost
        ]
        more = [f"and {len(told) - EXAMPLES} more places like these"] if len(told) > EXAMPLES else []
        return [*told[:EXAMPLES], *more]

    def close(self) -> None:
        """Flush, and let the files go; the store stays usable."""
        self.flush()
        self._leave()
        _close(self._files)

    def _look(self, name: str, segment: _Segment) -> None:
        """Take in what a file holds beyond what was seen of it."""
        start = segment.resume
        try:
            with open(self.folder / name, "rb", buffering=0) as file:
                end = os.fstat(file.fileno()).st_size
                if end < start:  # Its writer took back what the disk would not hold.
                    self._drop(name, 0)
                    start = 0
                entries, lost = scan(file.fileno(), start, end)
        except OSError as fault:
            if fault.errno in (errno.ENOENT, errno.ESTALE):
                self._drop(name, 0)
                segment.seen, segment.lost, segment.unreadable = 0, [], None
                return
            segment.unreadable = (
                f"cannot be read ({fault.strerror or fault}); what it holds is measured again"
            )
            segment.lost = [Region(start, max(start, segment.seen))]
            return
        for one in entries:
            self._index.setdefault(one.key, _Place(name, one.start, one.size))
        segment.seen, segment.lost, segment.unreadable = end, lost, None

    def _drop(self, segment: str, behind: int) -> None:
        """Forget the records of a file from there on."""
        kept = {
            key: place
            for key, place in self._index.items()
            if place.segment != segment or place.start < behind
        }
        self._index = kept
        if segment in self._segments:
            self._segments[segment].seen = min(self._segments[segment].seen, behind)

    def _own(self) -> _Writer:
        """This process's file; a forked child must not go on with its parent's."""
        if self._writer is not None and self._writer.process == os.getpid():
            return self._writer
        self._leave()
        # Names sort by age: of a key that two processes measured, every later opening takes the same one.
        name = f"{time.time_ns():016x}-{uuid.uuid4().hex}{SUFFIX}"
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            sync_folder(self.folder)
        except OSError:
            os.close(file)
            raise
        self._segments[name] = _Segment()
        self._writer = _Writer(name, file, os.getpid())
        return self._writer

    def _leave(self) -> None:
        """Go on in another file with the next record."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            # What closing can fail with, fsync has told.
            with contextlib.suppress(OSError):
                os.close(writer.file)

    def _file(self, segment: str) -> int:
        found = self._files.get(segment)
        if found is None:
            if len(self._files) >= MAX_OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            found = self._files[segment] = os.open(self.folder / segment, os.O_RDONLY | os.O_CLOEXEC)
        return found

    def _touch(self) -> None:
        """Say that the folder is used, for `prune`."""
        if time.monotonic() - self._touched < TOUCH_EVERY:
            return
        self._touched = time.monotonic()
        # A store that may only be read serves as well; at worst it looks older than it is.
        with contextlib.suppress(OSError):
            os.utime(self.folder / IDENTITY)

    def _unwritable(self, fault: OSError, rest: str) -> TrainingError:
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        return TrainingError(
            f"reference values cannot be written: {fault.strerror or fault}; {rest}",
            where=str(self.folder),
            way_out=f"{'Free some space' if full else 'Mend what hinders writing'} there (df -h {self.folder}); "
            "the same command then goes on.",
        )


def _write(file: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written


def _close(files: dict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def _short(key: bytes) -> str:
    return f"key {key.hex()[:12]}…"


def _what(region: Region, end: int) -> str:
    size = f"{region.end - region.start:,} bytes"
    if region.end == end:
        return f"ends within a record ({size}): its writer was stopped, or is still at it; measured again if wanted"
    return f"{size} from byte {region.start:,} on are damaged; what stood there is measured again"
