"""A corpus of passages on disk: its lines are indexed once, and any passage is read without loading the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.jsonl import decode, raw_lines, replacing
from data.radio.pools import Document

FORMAT = 1


class Passages:
    """The passages of a plain JSONL file, by their row.

    A line is `{id, text}`, with `title` put before the text on a line of its own, or `{id, contents}`. Without `id` the
    row's number is the id. The first passage of a text stands for all with that text: `copies` counts the others, which
    keep their rows out of the index. Memory: 8 bytes for a passage, and about 100 while the index is built.
    """

    def __init__(self, path: Path, index: Path) -> None:
        if path.suffix == ".gz":
            raise DataError(
                "passages are read from their places in the file, which gzip has none of",
                where=str(path),
                way_out=f"gunzip -k {path.name}",
            )
        self.path = path
        self.index = index
        found = _read_index(path, index)
        self.offsets, self.copies = found if found is not None else _build_index(path, index)
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, row: int) -> Document:
        self._file.seek(int(self.offsets[row]))
        return _document(self._file.readline(), f"{self.path}, passage {row}", row)

    def take(self, rows: Sequence[int]) -> list[Document]:
        """These passages, read in the order of the file and given in the order asked for."""
        found = {row: self[row] for row in sorted(set(rows))}
        return [found[row] for row in rows]

    def texts(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Texts of consecutive rows, streamed."""
        for row in range(start, len(self) if stop is None else min(stop, len(self))):
            yield self[row].text

    def identity(self) -> list[Any]:
        """Which file in which state: what was made from these passages is good as long as this is the same."""
        return [str(self.path.resolve()), _state(self.path), len(self)]

    def close(self) -> None:
        self._file.close()


def _build_index(path: Path, index: Path) -> tuple[NDArray[np.int64], int]:
    offsets: list[int] = []
    seen: set[bytes] = set()
    position = copies = 0
    for number, raw in raw_lines(path):
        start, position = position, position + len(raw)
        if number == 1:
            # raw_lines takes a byte-order mark away, which stands in the file all the same.
            extra = _mark(path)
            start, position = extra, position + extra
        if not raw.strip():
            continue
        text = _document(raw, f"{path}:{number}", number - 1).text
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in seen:
            copies += 1
            continue
        seen.add(digest)
        offsets.append(start)
    if not offsets:
        raise DataError(
            "the corpus is empty: not one passage", where=str(path), way_out="check what writes it"
        )
    made = np.asarray(offsets, dtype=np.int64)
    with replacing(index.with_suffix(".npy")) as file:
        np.save(file, made)
    with replacing(index.with_suffix(".json")) as file:
        file.write(json.dumps({**_state(path), "passages": len(made), "copies": copies}).encode())
    return made, copies


def _read_index(path: Path, index: Path) -> tuple[NDArray[np.int64], int] | None:
    """An index that was made from this very file."""
    told, offsets = index.with_suffix(".json"), index.with_suffix(".npy")
    if not (told.is_file() and offsets.is_file()):
        return None
    facts: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    if any(facts.get(key) != value for key, value in _state(path).items()):
        return None
    found: NDArray[np.int64] = np.load(offsets, mmap_mode="r")
    return (found, int(facts["copies"])) if len(found) == facts["passages"] else None


def _state(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"format": FORMAT, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _mark(path: Path) -> int:
    with path.open("rb") as file:
        return 3 if file.read(3) == b"\xef\xbb\xbf" else 0


def _document(raw: bytes, where: str, row: int) -> Document:
    try:
        found: object = json.loads(decode(raw.removeprefix(b"\xef\xbb\xbf"), where))
    except ValueError as fault:
        raise _no_passage(f"this line is no JSON: {fault}", where) from fault
    if not isinstance(found, dict):
        raise _no_passage("this line is no JSON object", where)
    fields = cast("dict[str, Any]", found)
    whole = "contents" in fields
    text = fields.get("contents" if whole else "text")
    if not isinstance(text, str) or not text.strip():
        raise _no_passage(
            f"a passage without text: `{'contents' if whole else 'text'}` is missing or empty", where
        )
    title = fields.get("title")
    return Document(str(fields.get("id", row)), f"{title}\n{text}" if title and not whole else text)


def _no_passage(what: str, where: str) -> DataError:
    return DataError(
        what,
        where=where,
        way_out='a passage is {"id", "text"}, with a "title" if it has one, or {"id", "contents"}; mend or remove '
        "the line, and the same command goes on",
    )
