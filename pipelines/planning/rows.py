"""The lengths of a stage's rows: read as the stage will read them, from all rows or from a sample of a large file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from data.chat import TokeniseOptions, tokenise
from data.errors import DataError
from data.folders import files_of
from data.formats import format_of
from data.jsonl import raw_lines
from data.ledger import Ledger
from data.preference_rows import grouped, mismatched
from data.records import Placed, Shape, check_row, shape_of, unpair
from data.sources import Mixture, Source, read, shares
from pipelines.planning.layouts import Row
from pipelines.planning.tokens import Counted, Own

SAMPLE, LONGEST = 192, 48
"""Rows of a source that are looked at, and how many of them are its longest."""


@dataclass(frozen=True)
class Lengths:
    """What the rows come to, of those that were looked at."""

    rows: tuple[Row, ...] = ()
    weights: tuple[float, ...] = ()
    """How many rows of the data each stands for."""
    ledger: Ledger = field(default_factory=lambda: Ledger(name="rows"))
    looked_at: int = 0
    of: int = 0
    """Rows there are."""
    repeated: int = 0
    """Rows that stand there before."""
    counted_with: str = ""
    problem: str | None = None
    """Why the stage would refuse the rows, or why they cannot be counted."""
    upper: bool = False
    """Not counted, but the most there can be."""

    @property
    def exact(self) -> bool:
        return self.looked_at == self.of and not self.upper

    @property
    def count(self) -> float:
        """Rows that are trained on."""
        return sum(self.weights)

    @property
    def tokens(self) -> float:
        return sum(row.tokens * weight for row, weight in zip(self.rows, self.weights, strict=True))

    def histogram(self) -> dict[int, int]:
        """Rows by the power of two that their longest sequence stays within, as in a ledger."""
        found: Counter[int] = Counter()
        parts: dict[int, float] = {}
        for row, weight in zip(self.rows, self.weights, strict=True):
            bound = 1 << max(row.longest - 1, 0).bit_length()
            parts[bound] = parts.get(bound, 0.0) + weight
        found.update({bound: round(count) for bound, count in parts.items()})
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Asked:
    """How a kind of stage reads its rows."""

    among: tuple[Shape, ...]
    options: TokeniseOptions
    judged: bool = False
    mismatched: int = 0
    """KTO's batch, in which every answer is measured behind another prompt too."""
    grouped: bool = False
    answers_only: bool = False
    """Prompt and completion as an answer to score, whatever a `label` says."""


def lengths(mixture: Mixture, base: Path, asked: Asked, tokenizer: Counted) -> Lengths:
    """Of the rows that a stage would train on; what is wrong with them is told, not raised."""
    how = "the model's tokenizer" if isinstance(tokenizer, Own) else "a guess from words"
    try:
        placed, of = _sample(mixture, base)
        return replace(_lengths(placed, asked, tokenizer), of=of, counted_with=how)
    except DataError as fault:
        return Lengths(problem=" ".join(str(fault).split()), counted_with=how)


def _lengths(placed: Sequence[tuple[Placed, float]], asked: Asked, tokenizer: Counted) -> Lengths:
    if not placed:
        raise DataError("the dataset has no rows")
    shape = shape_of(placed[0][0].row.keys(), asked.among)
    ledger = Ledger(name="rows")
    made: list[tuple[dict[str, Any], float]] = []
    for place, weight in placed:
        ledger.count_read("rows")
        for one in _as_asked(place, shape, asked, ledger):
            kind: Shape = "unpaired" if asked.judged or asked.answers_only else shape
            made += [(ids, weight) for ids in tokenise([one], kind, tokenizer, asked.options, ledger)]
    seen: Counter[bytes] = Counter(_key(row) for row, _ in made)
    repeated = sum(count - 1 for count in seen.values())
    weights = [weight for _, weight in made]
    rows = [row for row, _ in made]
    if asked.mismatched:
        rows = list(mismatched(rows, asked.mismatched, asked.options.max_length))
    elif asked.grouped:
        rows = list(grouped(rows, ledger))
        weights = [sum(weights) / len(rows)] * len(rows) if rows else []
    found = tuple(_row(row) for row in rows)
    return Lengths(found, tuple(weights), ledger, looked_at=len(placed), repeated=repeated)


def _as_asked(place: Placed, shape: Shape, asked: Asked, ledger: Ledger) -> Iterator[Placed]:
    if asked.judged and shape == "preference":
        ledger.count_read("second answers of pairs")
        yield from unpair([Placed(place.where, check_row(place.row, "preference", place.where))])
    elif asked.answers_only:
        yield Placed(place.where, {**place.row, "label": True})
    else:
        yield place


def _row(row: dict[str, Any]) -> Row:
    """The lengths of a tokenised row of any kind."""
    if "labels" in row:
        masked = _leading(row["labels"])
        return Row(masked, (len(row["labels"]) - masked,))
    prompt = len(row["prompt_ids"])
    if "completions" in row:
        return Row(prompt, tuple(len(ids) for ids in row["completions"]))
    names = ("chosen_ids", "rejected_ids", "completion_ids", "mismatched_ids")
    return Row(prompt, tuple(len(row[name]) for name in names if name in row))


def _leading(labels: Sequence[int]) -> int:
    """Labels without loss before the first that has one."""
    return next((i for i, label in enumerate(labels) if label != -100), len(labels))


def _key(row: dict[str, Any]) -> bytes:
    return json.dumps([ids for ids in row.values() if isinstance(ids, list)]).encode()


def _sample(mixture: Mixture, base: Path) -> tuple[list[tuple[Placed, float]], int]:
    """Rows with the number that each stands for, and how many there are."""
    found = [_source(source, base) for source in mixture.sources]
    counts = [count for _, count in found]
    takes = counts
    if len(found) > 1 and mixture.sources[0].weight is not None:
        takes = shares(counts, [source.weight or 0.0 for source in mixture.sources])
    placed = [
        (place, weight * take / count)
        for (rows, count), take in zip(found, takes, strict=True)
        for place, weight in rows
    ]
    return placed, sum(takes)


def _source(source: Source, base: Path) -> tuple[list[tuple[Placed, float]], int]:
    files = files_of(source.path, base, source.split, source.format)
    if files is None:
        raise DataError(
            "a dataset of the hub, which a plan does not fetch",
            where=source.path,
            way_out="give a local file or folder to have its rows counted",
        )
    if not all(source.format == "jsonl" or format_of(file) == "jsonl" for file in files):
        every = list(read(source, base, Ledger(name="rows")))
        return _thinned([(len(json.dumps(place.row, default=str)), place) for place in every])
    lines = [(number, file, raw) for file in files for number, raw in raw_lines(file) if raw.strip()]
    chosen = _chosen([len(raw) for _, _, raw in lines[: source.limit]])
    rows = [(_parsed(lines[i][2], f"{lines[i][1]}:{lines[i][0]}", source), weight) for i, weight in chosen]
    return rows, len(lines[: source.limit])


def _thinned(every: Sequence[tuple[int, Placed]]) -> tuple[list[tuple[Placed, float]], int]:
    chosen = _chosen([size for size, _ in every])
    return [(every[i][1], weight) for i, weight in chosen], len(every)


def _chosen(sizes: Sequence[int]) -> list[tuple[int, float]]:
    """Places of the rows to look at, with the number each stands for: all; or the longest, and some of the others."""
    count = len(sizes)
    if count <= SAMPLE:
        return [(i, 1.0) for i in range(count)]
    by_size = sorted(range(count), key=lambda i: -sizes[i])
    others = sorted(by_size[LONGEST:])
    step = len(others) / (SAMPLE - LONGEST)
    spread = [others[int(i * step)] for i in range(SAMPLE - LONGEST)]
    return sorted([(i, 1.0) for i in by_size[:LONGEST]] + [(i, step) for i in spread])


def _parsed(raw: bytes, where: str, source: Source) -> Placed:
    try:
        found: object = json.loads(raw)
    except ValueError as broken:
        raise DataError(f"not JSON: {broken}", where=where) from broken
    if not isinstance(found, dict):
        raise DataError("not an object", where=where)
    row = cast("dict[str, Any]", found)
    for ours, theirs in source.columns.items():
        if theirs not in row:
            raise DataError(
                f"columns: names '{theirs}' for '{ours}', and there is no such column", where=where
            )
    rest = {key: value for key, value in row.items() if key not in source.columns.values()}
    return Placed(where, {**rest, **{ours: row[theirs] for ours, theirs in source.columns.items()}})
