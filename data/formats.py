"""One data file, or one hub dataset, as rows with their places."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from data.errors import DataError
from data.jsonl import decode, iterate_jsonl, missing, raw_lines
from data.records import Placed, Row

Format = Literal["auto", "jsonl", "json", "csv", "parquet", "hub"]
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}


def format_of(path: Path) -> Format | None:
    """The format that the file's name tells, `.gz` aside; None when it tells none."""
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    found = SUFFIXES.get(stem.suffix.lower())
    return None if found == "parquet" and stem != path else found


def read_file(path: Path, format: Format) -> Iterator[Placed]:
    """Rows of one local file, each placed as `file:line` or `file:row n`."""
    if not path.exists():
        raise missing(path)
    if format == "auto":
        told = format_of(path)
        if told is None:
            raise DataError(
                f"the name does not tell the format ('{path.suffix}')",
                where=str(path),
                way_out=f"rename it ({', '.join(SUFFIXES)}, or .gz of one), or give format: jsonl, json, …",
            )
        format = told
    return _READERS[format](path)


def _jsonl(path: Path) -> Iterator[Placed]:
    for number, row in iterate_jsonl(path):
        yield Placed(f"{path}:{number}", row)


def _json(path: Path) -> Iterator[Placed]:
    text = "".join(decode(raw, f"{path}:{number}") for number, raw in raw_lines(path))
    if not text.strip():
        return
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as fault:
        lines = fault.msg == "Extra data" and fault.lineno > 1
        raise DataError(
            f"not JSON at column {fault.colno}: {fault.msg}",
            where=f"{path}:{fault.lineno}",
            way_out="it looks like JSON lines: give format: jsonl, or rename it to .jsonl"
            if lines
            else "the file must be one list of objects, or {'data': [...]}",
        ) from fault
    if isinstance(value, dict) and isinstance(value.get("data"), list):  # pyright: ignore[reportUnknownMemberType]
        value = cast("dict[str, object]", value)["data"]
    if not isinstance(value, list):
        raise DataError(
            "one JSON value, not a list of rows",
            where=str(path),
            way_out='write [{…}, …] or {"data": [{…}, …]}',
        )
    for number, row in enumerate(cast("list[object]", value), start=1):
        where = f"{path}:row {number}"
        if not isinstance(row, dict):
            raise DataError(
                f"a {type(row).__name__}, not an object", where=where, way_out='write {"column": value, …}'
            )
        yield Placed(where, cast("Row", row))


def _csv(path: Path) -> Iterator[Placed]:
    # Python's limit of 131,072 characters a cell is below one long document.
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((decode(raw, f"{path}:{number}") for number, raw in raw_lines(path)), strict=True)
    header: list[str] | None = None
    first = 1
    while True:
        where = f"{path}:{first}"
        try:
            cells = next(reader, None)
        except csv.Error as fault:
            raise DataError(
                f"broken CSV: {fault}",
                where=where,
                way_out='a quote opened on this line may never close; a quote inside a cell is written ""',
            ) from fault
        if cells is None:
            return
        first = reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = cells
            _check_header(header, where)
        elif len(cells) != len(header):
            raise DataError(
                f"{len(cells)} cells under a header of {len(header)}",
                where=where,
                way_out='put cells that hold a comma or a line break in "quotes"',
            )
        else:
            yield Placed(where, dict(zip(header, cells, strict=True)))


def _check_header(header: list[str], where: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header:
        fault = f"the header names {', '.join(twice)} twice" if twice else "the header has an empty name"
        raise DataError(fault, where=where, way_out="give every column its own name")


def _parquet(path: Path) -> Iterator[Placed]:
    pa: Any = import_module("pyarrow")  # slow to import, and untyped
    pq: Any = import_module("pyarrow.parquet")
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in cast("list[Row]", batch.to_pylist()):
                    number += 1
                    yield Placed(f"{path}:row {number}", row)
    except (pa.ArrowException, OSError) as fault:
        raise DataError(
            f"not a readable parquet file after row {number}: {fault}",
            where=str(path),
            way_out="fetch or write the file again",
        ) from fault


_READERS: dict[Format, Callable[[Path], Iterator[Placed]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}


def read_hub(path: str, name: str | None, split: str, revision: str | None) -> Iterator[Placed]:
    """Rows of a hub dataset, through the cache of `datasets`."""
    datasets: Any = import_module("datasets")
    where = f"{path}[{split}]"
    try:
        found: Any = datasets.load_dataset(path, name=name, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, ImportError) as fault:
        reason = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        raise DataError(
            f"the hub dataset cannot be loaded: {reason}",
            where=where,
            way_out=f"there is no local file or folder '{path}' either. On a machine with the hub: "
            "heliograph fetch RECIPE, and copy the cache; or "
            f"hf download --repo-type dataset {path} --local-dir DIR, then copy DIR here and give path: DIR; "
            "or copy its cache and set HF_HOME and HF_HUB_OFFLINE=1. Private or gated data: hf auth login",
        ) from fault
    for number, row in enumerate(found, start=1):
        yield Placed(f"{where}:row {number}", cast("Row", dict(row)))
