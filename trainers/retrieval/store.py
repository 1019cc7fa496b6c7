"""Embeddings on disk under the hash of what they were made from: appended, never rewritten, and mapped into memory.

Two files grow side by side: `keys.bin` with 16 bytes a text, `vectors.bin` with its numbers. Vectors are written and
synced first. Whatever a killed writer left beyond the last whole pair is cut off by the next one, so that a torn tail
costs the texts in it and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from data.errors import RunError
from data.jsonl import replacing

KEY = np.dtype("S16")
"""Compared over all 16 bytes; only taking one out as a Python value would lose zeros at its end."""


class EmbeddingStore:
    """Vectors of one encoder, found by text. One writer at a time; its lock ends with its process."""

    def __init__(self, folder: Path, identity: str, dimension: int, dtype: str = "float32") -> None:
        self.folder = folder / hashlib.sha256(f"{identity}\0{dimension}\0{dtype}".encode()).hexdigest()[:16]
        self.identity = identity
        self.dimension = dimension
        self.dtype = np.dtype(dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(self.folder / "lock", "these embeddings")
        facts = self.folder / "encoder.json"
        if not facts.is_file():
            with replacing(facts) as file:
                told = {"identity": identity, "dimension": dimension, "dtype": dtype}
                file.write(json.dumps(told, indent=2).encode() + b"\n")
        self._keys = (self.folder / "keys.bin").open("ab+", buffering=0)
        self._vectors = (self.folder / "vectors.bin").open("ab+", buffering=0)
        self.mended = self._mend()
        raw = np.fromfile(self.folder / "keys.bin", dtype=KEY)
        # Sorted keys and a search take 24 bytes a text; a dictionary would take 150.
        self._order = np.argsort(raw, kind="stable")
        self._sorted = raw[self._order]
        self._fresh: dict[bytes, int] = {}
        self.count = len(raw)

    def __len__(self) -> int:
        return self.count

    def key(self, text: str) -> bytes:
        """Of the text as the encoder sees it; the identity holds everything else that decides the vector."""
        return hashlib.sha256(f"{self.identity}\0{text}".encode()).digest()[:16]

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The row of each text, -1 where it has none yet."""
        keys = [self.key(text) for text in texts]
        wanted = np.frombuffer(b"".join(keys), dtype=KEY)
        found = np.full(len(keys), -1, dtype=np.int64)
        if len(self._sorted) and keys:
            place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
            hit = self._sorted[place] == wanted
            found[hit] = self._order[place[hit]]
        for index, key in enumerate(keys):
            if found[index] < 0:
                found[index] = self._fresh.get(key, -1)
        return found

    def append(self, texts: Sequence[str], vectors: NDArray[np.floating]) -> None:
        """Add texts that are not there yet, each once, with their vectors."""
        made = np.ascontiguousarray(vectors, dtype=self.dtype)
        if made.shape != (len(texts), self.dimension) or not np.isfinite(made).all():
            raise RunError(
                f"vectors of shape {made.shape} for {len(texts)} texts of dimension {self.dimension}, or not finite",
                where=self.identity,
                way_out="the encoder gave NaN, infinity or another size than it has: use float32 or bfloat16",
            )
        keys = [self.key(text) for text in texts]
        _write(self._vectors.fileno(), made.tobytes())
        os.fsync(self._vectors.fileno())
        _write(self._keys.fileno(), b"".join(keys))
        os.fsync(self._keys.fileno())
        for key in keys:
            self._fresh[key] = self.count
            self.count += 1

    def vectors(self) -> NDArray[np.floating]:
        """All vectors, mapped: pages are read when they are touched."""
        if not self.count:
            return np.empty((0, self.dimension), dtype=self.dtype)
        shape = (self.count, self.dimension)
        return np.memmap(self.folder / "vectors.bin", dtype=self.dtype, mode="r", shape=shape)

    def close(self) -> None:
        self._keys.close()
        self._vectors.close()
        self._lock.close()

    def _mend(self) -> int:
        """Cut both files to the pairs that are whole; returns how many bytes that cost."""
        wide = self.dimension * self.dtype.itemsize
        keys, vectors = self._keys.seek(0, os.SEEK_END), self._vectors.seek(0, os.SEEK_END)
        whole = min(keys // KEY.itemsize, vectors // wide)
        self._keys.truncate(whole * KEY.itemsize)
        self._vectors.truncate(whole * wide)
        return keys + vectors - whole * (KEY.itemsize + wide)


def _write(handle: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(handle, view) :]


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
