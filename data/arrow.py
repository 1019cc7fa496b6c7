"""One arrow stream file of rows, written whole or not at all, that `datasets` maps into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from data.errors import DataError
from data.jsonl import replacing

# What one batch may hold in memory. Python lists of ids take up to 36 bytes an id.
BATCH_ROWS = 1000
BATCH_IDS = 1 << 19


def write_arrow(path: Path, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write all rows to `path` and return how many; the file appears only when it is complete.

    Lists of integers become int32 lists. The first batch settles the columns and their types.
    """
    pa: Any = import_module("pyarrow")  # slow to import, and untyped
    count = 0
    batches = _batches(rows)
    first = next(batches, None)
    if first is None:
        raise DataError(
            "no row is left to write",
            where=str(path),
            way_out="see the ledger: it counts what was dropped, and why",
        )
    try:
        schema = _narrow(pa.RecordBatch.from_pylist(first).schema)
        with replacing(path) as file, pa.ipc.new_stream(file, schema) as writer:
            batch: list[dict[str, Any]] | None = first
            while batch is not None:
                if any(row.keys() != first[0].keys() for row in batch):
                    raise DataError(
                        "rows with different columns",
                        where=str(path),
                        way_out=f"every row needs exactly {', '.join(first[0])}",
                    )
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                count += len(batch)
                batch = next(batches, None)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as fault:
        raise DataError(
            f"a row after row {count} does not fit the columns of the first rows: {fault}",
            where=str(path),
            way_out="give the column one type in all rows",
        ) from fault
    return count


def _batches(rows: Iterator[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    ids = 0
    for row in rows:
        batch.append(dict(row))
        ids += sum(len(cast("list[Any]", value)) for value in row.values() if isinstance(value, list))
        if len(batch) == BATCH_ROWS or ids >= BATCH_IDS:
            yield batch
            batch, ids = [], 0
    if batch:
        yield batch


def _narrow(schema: Any) -> Any:
    """The schema with int32 for lists of integers: half of what pyarrow infers, wide enough for any id."""
    pa: Any = import_module("pyarrow")
    fields: list[Any] = []
    for field in schema:
        is_ids = pa.types.is_list(field.type) and (
            pa.types.is_integer(field.type.value_type) or pa.types.is_null(field.type.value_type)
        )
        fields.append(pa.field(field.name, pa.list_(pa.int32())) if is_ids else field)
    return pa.schema(fields)
