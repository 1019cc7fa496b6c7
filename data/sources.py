"""Where rows come from: files, folders and hub datasets, alone or mixed by weight."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from data.errors import DataError
from data.folders import files_of
from data.formats import Format, read_file, read_hub
from data.ledger import Ledger
from data.records import Placed


class Source(BaseModel):
    """One file, folder or hub dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1)
    """A file or folder (relative to the recipe), or a hub id."""
    name: str | None = None
    """The configuration of a hub dataset."""
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] = Field(default_factory=dict[str, str])
    """Our name for a column: the name it has in the data."""
    weight: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] | None = None
    """The share of the mixture that comes from here, relative to the other weights."""
    limit: Annotated[int, Field(gt=0, strict=True)] | None = None
    """Read only so many rows, from the start."""
    format: Format = "auto"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value


class Mixture(BaseModel):
    """One or more sources: a path, one source, a list of these, or `{sources, seed}`.

    Without weights the sources follow one another. With weights w1 … wk the mixture is the largest one that
    has exactly these shares and uses no row twice: with share_i = w_i / sum(w) and n_i rows in source i,
    N = min over i of n_i / share_i, and source i gives floor(share_i * N) rows. At least one is used whole.
    Which rows a source gives is drawn from `seed`; they keep their order, and the sources interleave so that
    every beginning of the mixture has the same shares to within a row or so per source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Source, ...] = Field(min_length=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        if isinstance(value, (str, Source)):
            return {"sources": [value]}
        if isinstance(value, (list, tuple)):
            return {"sources": cast("list[object]", value)}
        if isinstance(value, dict) and "path" in value and "sources" not in value:
            return {"sources": [cast("object", value)]}
        return cast("object", value)

    @model_validator(mode="after")
    def _all_or_no_weights(self) -> Mixture:
        without = [source.path for source in self.sources if source.weight is None]
        if without and len(without) < len(self.sources):
            raise ValueError(f"give every source a weight or none: {', '.join(without)} has none")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # Editors must complete the short forms too.
        source = handler(Source.__pydantic_core_schema__)
        item = {"anyOf": [{"type": "string"}, source]}
        return {
            "anyOf": [*item["anyOf"], {"type": "array", "items": item, "minItems": 1}, handler(core_schema)]
        }


def files(mixture: Mixture | Source, base: Path) -> list[Path]:
    """The local files that `read` would read, in its order and unread. Hub datasets have none."""
    found: list[Path] = []
    for source in _sources(mixture):
        found.extend(files_of(source.path, base, source.split, source.format) or [])
    return found


def read(mixture: Mixture | Source, base: Path, ledger: Ledger) -> Iterator[Placed]:
    """All rows, columns renamed, each counted. Relative paths start at `base`, the recipe's folder.

    Sources are streamed; a weighted mixture reads them twice, once to count.
    """
    sources = _sources(mixture)
    seed = mixture.seed if isinstance(mixture, Mixture) else 0
    if len(sources) > 1 and sources[0].weight is not None:
        return _weighted(sources, seed, base, ledger)
    return (placed for source in sources for placed in _counted(source, base, ledger))


def shares(rows: list[int], weights: list[float]) -> list[int]:
    """How many rows each source gives, by the rule that `Mixture` states."""
    total = sum(weights)
    whole = min(count * total / weight for count, weight in zip(rows, weights, strict=True))
    # The small term keeps 0.3 * 10 from becoming 2 through rounding.
    return [
        min(count, int(weight / total * whole + 1e-6)) for count, weight in zip(rows, weights, strict=True)
    ]


def _sources(mixture: Mixture | Source) -> tuple[Source, ...]:
    return mixture.sources if isinstance(mixture, Mixture) else (mixture,)


def _weighted(sources: tuple[Source, ...], seed: int, base: Path, ledger: Ledger) -> Iterator[Placed]:
    counts = [sum(1 for _ in _rows(source, base)) for source in sources]
    takes = shares(counts, [source.weight or 0.0 for source in sources])
    starved = [source.path for source, take in zip(sources, takes, strict=True) if take == 0]
    if starved:
        raise DataError(
            f"at these weights not one row of {', '.join(starved)} would be used",
            way_out=f"the sources hold {', '.join(map(str, counts))} rows: raise its weight, or leave it out",
        )
    streams = [
        _drawn(_counted(source, base, ledger), count, take, random.Random(f"{seed}/{index}"), source, ledger)
        for index, (source, count, take) in enumerate(zip(sources, counts, takes, strict=True))
    ]
    total = sum(takes)
    given = [0] * len(takes)
    for step in range(1, total + 1):
        # The source that is furthest behind its share; the first of equals.
        behind = [take * step / total - done for take, done in zip(takes, given, strict=True)]
        index = max(range(len(takes)), key=behind.__getitem__)
        given[index] += 1
        row = next(streams[index], None)
        if row is None:
            raise DataError("lost rows while it was read", where=sources[index].path, way_out="run again")
        yield row
    for stream in streams:
        yield from stream  # gives nothing more, but counts the rows after the last one drawn


def _drawn(
    rows: Iterator[Placed], count: int, take: int, dice: random.Random, source: Source, ledger: Ledger
) -> Iterator[Placed]:
    """`take` of `count` rows, every subset equally likely, in their order.

    One random() a row (selection sampling, Knuth's algorithm S): Python promises that random() never changes,
    which it does not promise for sample() and shuffle().
    """
    for seen, row in enumerate(rows):
        if dice.random() * (count - seen) < take:
            take -= 1
            yield row
        else:
            ledger.leave_out(source.path)


def _counted(source: Source, base: Path, ledger: Ledger) -> Iterator[Placed]:
    for placed in _rows(source, base):
        ledger.count_read(source.path)
        yield placed


def _rows(source: Source, base: Path) -> Iterator[Placed]:
    found = files_of(source.path, base, source.split, source.format)
    if found is None:
        rows = read_hub(source.path, source.name, source.split, source.revision)
    else:
        shown = [_shown(path) for path in found]
        rows = (row for path in shown for row in read_file(path, source.format))
    empty = True
    for where, row in islice(rows, source.limit):
        empty = False
        yield Placed(where, _renamed(row, source.columns, where))
    if empty:
        raise DataError(
            "the dataset is empty: not one row", where=source.path, way_out="check what writes it"
        )


def _renamed(row: dict[str, Any], columns: dict[str, str], where: str) -> dict[str, Any]:
    if not columns:
        return row
    for ours, theirs in columns.items():
        if theirs not in row:
            near = difflib.get_close_matches(theirs, list(row), n=1)
            raise DataError(
                f"columns: names '{theirs}' for '{ours}', and there is no such column",
                where=where,
                way_out=f"did you mean '{near[0]}'?" if near else f"there are {', '.join(row)}",
            )
    rest = {key: value for key, value in row.items() if key not in columns.values()}
    return {**rest, **{ours: row[theirs] for ours, theirs in columns.items()}}


def _shown(path: Path) -> Path:
    """The path as a person would type it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
