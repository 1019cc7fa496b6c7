"""Embeddings on disk under the hash of what they were made from: appended, never rewritten, and mapped into memory.

Two files grow side by side: `keys.bin` with 16 bytes a text, `vectors.bin` with its numbers. Vectors are written and
synced first. Whatever a killed writer left beyond the last whole pair is cut off by the next one, so that a torn tail
costs the texts in it and nothing else. Any number of processes read and append at the same time: an append holds the
lock, and takes in first what others appended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import RunError
from data.jsonl import replacing

KEY = np.dtype("S16")
"""Compared over all 16 bytes; only taking one out as a Python value would lose zeros at its end."""

Run = tuple[NDArray[np.bytes_], NDArray[np.int64]]
"""Keys in order, and the row of each."""


class EmbeddingStore:
    """Vectors of one encoder, found by text."""

    def __init__(self, folder: Path, identity: str, dimension: int, dtype: str = "float32") -> None:
        self.folder = folder / hashlib.sha256(f"{identity}\0{dimension}\0{dtype}".encode()).hexdigest()[:16]
        self.identity = identity
        self.dimension = dimension
        self.dtype = np.dtype(dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = self.folder / "encoder.json"
        if not facts.is_file():
            with replacing(facts) as file:
                told = {"identity": identity, "dimension": dimension, "dtype": dtype}
                file.write(json.dumps(told, indent=2).encode() + b"\n")
        self._lock = (self.folder / "lock").open("w")
        self._keys = (self.folder / "keys.bin").open("ab+", buffering=0)
        self._vectors = (self.folder / "vectors.bin").open("ab+", buffering=0)
        self.count = 0
        # Sorted keys and a search take 24 bytes a text; a dictionary would take 150.
        self._runs: list[Run] = []
        with self._alone():
            self.mended = self._mend()
        self.refresh()

    def __len__(self) -> int:
        return self.count

    def key(self, text: str) -> bytes:
        """Of the text as the encoder sees it; the identity holds everything else that decides the vector."""
        return hashlib.sha256(f"{self.identity}\0{text}".encode()).digest()[:16]

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The row of each text, -1 where it has none yet."""
        self.refresh()
        return self._rows([self.key(text) for text in texts])

    def append(self, texts: Sequence[str], vectors: NDArray[np.floating]) -> int:
        """Add texts with their vectors, each once; returns how many were not there already."""
        made = np.ascontiguousarray(vectors, dtype=self.dtype)
        if made.shape != (len(texts), self.dimension) or not np.isfinite(made).all():
            raise RunError(
                f"vectors of shape {made.shape} for {len(texts)} texts of dimension {self.dimension}, or not finite",
                where=self.identity,
                way_out="the encoder gave NaN, infinity or another size than it has: use float32 or bfloat16",
            )
        keys = [self.key(text) for text in texts]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        with self._alone():
            self._mend()
            self.refresh()
            known = self._rows(keys) >= 0
            picked = [place for place, key in enumerate(keys) if not known[place] and first[key] == place]
            if picked:
                self._add(made[picked], b"".join(keys[place] for place in picked))
        return len(picked)

    def vectors(self) -> NDArray[np.floating]:
        """All vectors, mapped: pages are read when they are touched."""
        if not self.count:
            return np.empty((0, self.dimension), dtype=self.dtype)
        shape = (self.count, self.dimension)
        return np.memmap(self.folder / "vectors.bin", dtype=self.dtype, mode="r", shape=shape)

    def identity_of(self, rows: NDArray[np.int64]) -> str:
        """What tells the vectors of these rows, in this order, from all others."""
        made = hashlib.sha256(f"{self.identity}\0{self.dimension}\0{self.dtype}".encode())
        keys = (
            np.memmap(self.folder / "keys.bin", KEY, mode="r", shape=self.count)
            if len(rows)
            else np.empty(0, KEY)
        )
        for start in range(0, len(rows), 1 << 20):
            made.update(keys[rows[start : start + (1 << 20)]].tobytes())
        return made.hexdigest()

    def refresh(self) -> None:
        """Take in what was appended since the last look, by whichever process."""
        whole = self._whole()
        if whole < self.count:
            raise RunError(
                f"{self.count - whole:,} vectors are gone that were there before",
                where=str(self.folder),
                way_out="something cut or removed the files while they were in use: start again",
            )
        if whole > self.count:
            start = self.count * KEY.itemsize
            raw = np.fromfile(self.folder / "keys.bin", KEY, whole - self.count, offset=start)
            self._runs.append(_sorted(raw, np.arange(self.count, whole)))
            self.count = whole
        # Runs of like size become one, so that there are few of them and each key is sorted a few times at most.
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            (one, first), (other, second) = self._runs[-2:]
            self._runs[-2:] = [_sorted(np.concatenate([one, other]), np.concatenate([first, second]))]

    def close(self) -> None:
        self._keys.close()
        self._vectors.close()
        self._lock.close()

    def _rows(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        wanted = np.frombuffer(b"".join(keys), dtype=KEY)
        found = np.full(len(keys), -1, dtype=np.int64)
        for known, rows in self._runs if keys else ():
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            hit = (known[place] == wanted) & (found < 0)
            found[hit] = rows[place[hit]]
        return found

    def _add(self, vectors: NDArray[np.floating], keys: bytes) -> None:
        try:
            for file, block in ((self._vectors, vectors.tobytes()), (self._keys, keys)):
                _write(file.fileno(), block)
                os.fsync(file.fileno())
        except OSError as fault:
            self._mend()
            raise RunError(
                f"embeddings cannot be written: {fault.strerror or fault}",
                where=str(self.folder),
                way_out="check the free space (df -h); what was written before is whole, and the same command goes on",
            ) from fault
        expected = self.count + len(vectors)
        sizes = self._sizes()
        if sizes != (expected * KEY.itemsize, expected * self._wide()):
            raise RunError(
                "another process wrote into these embeddings at the same time: this file system has no locks",
                where=str(self.folder),
                way_out="remove the folder, and give each run a cache folder of its own (HELIOGRAPH_CACHE)",
            )
        self.refresh()

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """For as long as a block is written; others wait for so long."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock; sizes are looked at after each write
            yield
            return
        with contextlib.suppress(OSError):  # so for some network file systems
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _wide(self) -> int:
        return self.dimension * self.dtype.itemsize

    def _sizes(self) -> tuple[int, int]:
        return self._keys.seek(0, os.SEEK_END), self._vectors.seek(0, os.SEEK_END)

    def _whole(self) -> int:
        keys, vectors = self._sizes()
        return min(keys // KEY.itemsize, vectors // self._wide())

    def _mend(self) -> int:
        """Cut both files to the pairs that are whole; returns how many bytes that cost. Only under the lock."""
        before, whole = sum(self._sizes()), self._whole()
        self._keys.truncate(whole * KEY.itemsize)
        self._vectors.truncate(whole * self._wide())
        return before - whole * (KEY.itemsize + self._wide())


def _sorted(keys: NDArray[np.bytes_], rows: NDArray[np.int64]) -> Run:
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order]


def _write(handle: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(handle, view) :]
