"""Question sets in the layout of TOFU, from a folder or the hub: the splits by name, each row checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from data.errors import DataError
from data.folders import files_of
from data.formats import format_of, read_file, read_hub
from data.jsonl import raw_lines
from data.records import Placed, Row

_SPLIT = re.compile(r"(forget|retain|holdout)(\d\d)")


@dataclass(frozen=True)
class Question:
    """A question, its answer and, in perturbed splits, the same answer in other words and wrong ones."""

    where: str
    question: str
    answer: str
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()

    @property
    def right(self) -> str:
        """What wrong answers are compared with: the paraphrase; the answer where there is none, as on world facts."""
        return self.answer if self.paraphrased_answer is None else self.paraphrased_answer


def retain_of(forget: str) -> str:
    """`retain90` for `forget10`."""
    found = _SPLIT.fullmatch(forget)
    if found is None or found[1] != "forget":
        raise DataError(
            f"`{forget}` is no forget split", way_out="they are called forget01, forget05, forget10, …"
        )
    return f"retain{100 - int(found[2]):02d}"


def perturbed_of(split: str) -> str:
    """Where a split's wrong answers are: `forget10_perturbed`; `retain_perturbed` for every retain split."""
    if split.endswith("_perturbed"):
        return split
    return "retain_perturbed" if split.startswith("retain") else f"{split}_perturbed"


def conversation(question: str, answer: str) -> Row:
    """The row to train on: one user turn and one assistant turn, for the model's own chat template."""
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def read_split(path: str, split: str, base: Path, *, revision: str | None = None) -> list[Question]:
    """All questions of one split. `path` is a folder (starting at `base`) or a hub id such as `locuslab/TOFU`."""
    folder = Path(base, Path(path).expanduser())
    if folder.is_dir():
        rows = _local(folder, split)
    elif folder.is_file():
        raise DataError(
            "a TOFU set is a folder with a file for each split, not one file",
            where=path,
            way_out="give the folder that the file lies in",
        )
    else:
        # Its error for what is neither here nor a hub id.
        files_of(path, base, "train", "auto")
        rows = read_hub(path, split, "train", revision)
    found = questions(rows, perturbed=split.endswith("_perturbed"))
    if not found:
        raise DataError(f"the split `{split}` has no rows", where=path, way_out="check what writes it")
    return found


def questions(rows: Iterable[Placed], *, perturbed: bool) -> list[Question]:
    """The rows as questions; `perturbed`: each must have wrong answers."""
    return [_question(row, where, perturbed=perturbed) for where, row in rows]


def _local(folder: Path, split: str) -> Iterator[Placed]:
    there = {
        entry.name.removesuffix(".gz").rsplit(".", 1)[0]: entry
        for entry in sorted(folder.iterdir())
        if entry.is_file() and format_of(entry) is not None
    }
    # As the hub converts a set: a folder for each split, with parquet parts in it.
    there |= {entry.name: entry for entry in sorted(folder.iterdir()) if entry.is_dir() and _parts(entry)}
    if split not in there:
        near = difflib.get_close_matches(split, there, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(
            f"there is no split `{split}`",
            where=str(folder),
            way_out=f"{hint}it has {', '.join(sorted(there)) or 'no data files'}",
        )
    place = there[split]
    for file in _parts(place) if place.is_dir() else [place]:
        yield from read_file(file, "jsonl" if _json_lines(file) else "auto")


def _parts(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and format_of(file) is not None)


def _json_lines(file: Path) -> bool:
    """TOFU's files are JSON lines and called `.json`: their first line is an object of its own."""
    if file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        return True
    if format_of(file) != "json":
        return False
    first = next((line.strip() for _, line in raw_lines(file) if line.strip()), b"")
    return first.startswith(b"{") and first.endswith(b"}")


def _question(row: Row, where: str, *, perturbed: bool) -> Question:
    right: object = row.get("paraphrased_answer")
    return Question(
        where=where,
        question=_text(row, "question", where),
        answer=_text(row, "answer", where),
        paraphrased_answer=None if right is None else _text(row, "paraphrased_answer", where),
        perturbed_answers=_texts(row, where) if perturbed else (),
    )


def _text(row: Row, column: str, where: str) -> str:
    value: object = row.get(column)
    if isinstance(value, str) and value.strip():
        return value
    if column not in row:
        raise DataError(
            f"the column '{column}' is missing", where=where, way_out=f"the row has {', '.join(row)}"
        )
    raise DataError(f"'{column}' is not a text, or an empty one", where=where, way_out="fill it in")


def _texts(row: Row, where: str) -> tuple[str, ...]:
    value: object = row.get("perturbed_answer")
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    found = tuple(item for item in items if isinstance(item, str) and item.strip())
    if not found or len(found) != len(items):
        raise DataError(
            "'perturbed_answer' is not a list of wrong answers",
            where=where,
            way_out="a perturbed split has one or more for each question",
        )
    return found
