"""JSONL, parquet and `datasets` folders, in and out of a stage."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

from data.errors import DataError
from data.feedback.exchange import Imported, export_rows, import_rows
from data.feedback.results import Judgements
from data.feedback.store import Store
from data.folders import files_of
from data.formats import read_file
from data.jsonl import decode, missing, replacing, write_jsonl_atomic
from data.records import Placed

LONGEST_LINE = 16 * 2**20


def import_jsonl(store: Store, stage_id: int, path: Path, *, longest_line: int = LONGEST_LINE) -> Imported:
    """Items (or rows of prompt, chosen, rejected), one a line; all or none."""
    if path.is_dir():
        raise DataError("a folder, not a file", where=str(path), way_out="--from dataset reads folders")
    return import_rows(store, stage_id, hostile_lines(path, longest_line))


def import_dataset(store: Store, stage_id: int, path: Path, split: str = "train") -> Imported:
    """A parquet file, or a folder that `datasets` could load, of items or of prompt, chosen, rejected."""
    files = files_of(str(path), Path(), split, "auto") or []
    rows = (placed for file in files for placed in read_file(file, "auto"))
    return import_rows(store, stage_id, (_without_nulls(one) for one in rows))


def export_jsonl(of: Judgements, path: Path) -> int:
    """The stage's items and votes, as `import_jsonl` takes them; returns how many items."""
    return write_jsonl_atomic(path, export_rows(of))


def export_dataset(rows: Iterable[Mapping[str, Any]], folder: Path, split: str = "train") -> int:
    """Rows as `folder/data/SPLIT-00000-of-00001.parquet`, where `datasets.load_dataset(folder)` finds them."""
    return export_parquet(rows, folder / "data" / f"{split}-00000-of-00001.parquet")


def export_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Rows as one parquet file; returns how many. The file appears when it is complete."""
    pa: Any = import_module("pyarrow")  # slow to import, and untyped
    pq: Any = import_module("pyarrow.parquet")
    listed = [dict(row) for row in rows]
    if not listed:
        raise DataError(
            "there is no row to write", where=str(path), way_out="wait for votes that decide something"
        )
    names = list(dict.fromkeys(name for row in listed for name in row))
    try:
        table = pa.table({name: [row.get(name) for row in listed] for name in names})
        with replacing(path) as file:
            pq.write_table(table, file)
    except pa.ArrowException as fault:
        raise DataError(
            f"a column cannot be written as parquet: {fault}",
            where=str(path),
            way_out="write JSONL, or give the column one type in all rows (all prompts text, or all messages)",
        ) from fault
    return len(listed)


def hostile_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[Placed]:
    """Objects of a JSONL file that nobody vouches for; a line is never read further than `longest` bytes."""
    if not path.is_file():
        raise missing(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from _lines(cast("IO[bytes]", file), path, longest)
    except (OSError, EOFError) as fault:
        raise DataError(
            f"cannot be read: {fault}", where=str(path), way_out="check the file and its permissions"
        ) from fault


def _lines(file: IO[bytes], path: Path, longest: int) -> Iterator[Placed]:
    number = 0
    while raw := file.readline(longest + 1):
        number += 1
        where = f"{path}:{number}"
        if len(raw) > longest:
            raise DataError(
                f"the line is longer than {longest} bytes",
                where=where,
                way_out="one item is one line: shorten its texts, or split the file by items",
            )
        if raw.strip():
            yield Placed(where, _object(decode(raw, where).removeprefix("\ufeff"), where))


def _object(text: str, where: str) -> dict[str, Any]:
    way_out = "every line must be one complete JSON object"
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except json.JSONDecodeError as fault:
        raise DataError(
            f"not JSON at column {fault.colno}: {fault.msg}", where=where, way_out=way_out
        ) from fault
    except RecursionError as fault:
        raise DataError("nested too deeply", where=where, way_out="flatten the object") from fault
    except ValueError as fault:  # NaN, a name twice, a number of too many digits
        raise DataError(str(fault), where=where, way_out="write plain JSON") from fault
    if not isinstance(value, dict):
        raise DataError(f"a JSON {type(value).__name__}, not an object", where=where, way_out=way_out)
    return cast("dict[str, Any]", value)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number that JSON knows")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _without_nulls(one: Placed) -> Placed:
    """Parquet has every column in every row: what is null was not given."""
    return Placed(one.where, {name: value for name, value in one.row.items() if value is not None})
