"""Files of JSON lines: read with the place of every fault, written whole, appended line by line."""

from __future__ import annotations

import contextlib
import difflib
import gzip
import json
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

from data.errors import DataError

Torn = Literal["error", "skip"]
BOM = b"\xef\xbb\xbf"


def missing(path: Path) -> DataError:
    """The error for a path that is not there, with the nearest name that is."""
    place = path
    while not place.parent.is_dir() and place.parent != place:
        place = place.parent
    names = sorted(entry.name for entry in place.parent.iterdir()) if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, names, n=1)
    if near:
        way_out = f"did you mean {place.parent / near[0]}?"
    else:
        way_out = f"{place.parent} holds {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}"
    what = "no such file or folder" if place == path else f"no such file or folder: {place} does not exist"
    return DataError(what, where=str(path), way_out=way_out)


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a plain or gzipped file with their numbers, newline included, byte-order mark removed."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(cast("IO[bytes]", file), start=1):
                yield number, line.removeprefix(BOM) if number == 1 else line
    except FileNotFoundError as fault:
        raise missing(path) from fault
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise DataError(
            f"the gzip file is corrupt or cut off: {fault}",
            where=str(path),
            way_out="fetch or write the file again",
        ) from fault
    except OSError as fault:
        raise DataError(
            f"cannot be read: {fault.strerror or fault}",
            where=str(path),
            way_out="check the path and its permissions",
        ) from fault


def decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise DataError(
            f"not UTF-8: byte 0x{raw[fault.start]:02x} at byte {fault.start + 1} of the line",
            where=where,
            way_out="save the file as UTF-8, for example: iconv -f latin1 -t utf-8 OLD > NEW",
        ) from fault


def iterate_jsonl(path: Path, torn: Torn = "error") -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    A last line that has no newline and does not parse was being written when its writer died; `torn="skip"`
    leaves it out, which is right for files that are appended to and wrong for files that somebody hands in.
    """
    for number, raw in raw_lines(path):
        if not raw.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield number, _parse(raw, where)
        except DataError as fault:
            if raw.endswith(b"\n"):
                raise
            if torn == "skip":
                return
            raise DataError(
                f"the last line is cut off: it ends in {_ending(raw)}",
                where=where,
                way_out="its writer was stopped half-way: delete the line, or fetch the file again",
            ) from fault


def read_jsonl(path: Path, torn: Torn = "error") -> list[dict[str, Any]]:
    return [row for _, row in iterate_jsonl(path, torn)]


def _ending(raw: bytes) -> str:
    return repr(raw[-30:].decode("utf-8", errors="replace"))


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    text = decode(raw, where)
    start = text.strip()[:60]
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as fault:
        raise DataError(
            f"not JSON at column {fault.colno}: {fault.msg}; the line starts {start!r}",
            where=where,
            way_out="every line must be one complete JSON object",
        ) from fault
    except RecursionError as fault:
        raise DataError("nested too deeply", where=where, way_out="flatten the object") from fault
    if not isinstance(value, dict):
        raise DataError(
            f"a JSON {type(value).__name__}, not an object; the line starts {start!r}",
            where=where,
            way_out='write each row as {"column": value, …}',
        )
    return cast("dict[str, Any]", value)


@contextlib.contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and else leaves no trace."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as fault:
        raise _unwritable(path, fault) from fault
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in it are on disk: without this a power cut brings an old file back, or takes a new one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, fault: OSError) -> DataError:
    return DataError(
        f"cannot be written: {fault.strerror or fault}",
        where=str(path),
        way_out="check the folder's permissions and the free space (df -h); the earlier file is untouched",
    )


def _line(row: dict[str, Any], where: str) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except (TypeError, ValueError) as fault:
        raise DataError(
            f"a row cannot be written as JSON: {fault}",
            where=where,
            way_out="use text, finite numbers, lists, objects",
        ) from fault


def write_jsonl_atomic(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write all rows or none; returns how many."""
    count = 0
    with replacing(path) as file:
        for row in rows:
            file.write(_line(row, str(path)))
            count += 1
    return count


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Append whole lines and sync them to disk; returns how many. One writer at a time.

    A tail that an earlier writer left torn is removed first: a line appended to it would be lost with it.
    A write that fails part-way is taken back.
    """
    lines = [_line(row, str(path)) for row in rows]
    block = b"".join(lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            size = _mend_tail(file, path)
            try:
                written = 0
                while written < len(block):
                    written += file.write(block[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as fault:
        raise _unwritable(path, fault) from fault
    return len(lines)


def _mend_tail(file: IO[bytes], path: Path) -> int:
    """Leave the file ending in a newline (or empty), and return its size."""
    size = file.seek(0, os.SEEK_END)
    tail = b""
    position = size
    while position and b"\n" not in tail:
        step = min(65536, position)
        position -= step
        file.seek(position)
        tail = file.read(step) + tail
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return size
    try:
        _parse(torn, str(path))
    except DataError:
        return file.truncate(size - len(torn))
    file.write(b"\n")
    return size + 1
