"""Real text for `recipes/radio-text.yaml`: passages about the chemical elements and questions about their discovery.

    python -m data.radio.element_questions recipes/data/elements

The texts are those of the Python package mendeleev (MIT licence), which must be installed: description, origin of the
name, sources and uses of each element. One passage more says when, where and by whom it was discovered, put together
from the package's columns. Questions and answers are made from the same columns; the elements of the training and of
the test questions are different ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonl import write_jsonl_atomic

TEXTS = ("description", "name_origin", "sources", "uses")
NOBODY = "Known to the ancients"


def elements() -> list[dict[str, Any]]:
    """The package's rows; it is found, never imported: only the database in it is read."""
    spec = importlib.util.find_spec("mendeleev")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the package mendeleev is not installed", way_out="pip install --no-deps mendeleev")
    file = Path(next(iter(spec.submodule_search_locations))) / "elements.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as found:
        found.row_factory = sqlite3.Row
        return [dict(row) for row in found.execute("select * from elements order by atomic_number")]


def passages(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        texts = [(column, row[column]) for column in TEXTS]
        if _discovered(row):
            told = f"{row['discovery_year']} in {row['discovery_location']}, by {row['discoverers']}"
            texts.append(("discovery", f"First identified or made: {told}."))
        for column, text in texts:
            if text and text.strip():
                yield {
                    "id": f"{row['symbol']}/{column}",
                    "title": row["name"],
                    "text": " ".join(text.split()),
                }


def questions(rows: list[dict[str, Any]], *, test: bool) -> Iterator[dict[str, Any]]:
    """Three for each element whose discovery is told; every third element is for testing."""
    told = [row for row in rows if _discovered(row)]
    for number, row in enumerate(told):
        if (number % 3 == 2) != test:
            continue
        name = row["name"].lower()
        for column, text, golds in (
            ("who", f"Who discovered {name}?", _people(row["discoverers"])),
            ("when", f"In which year was {name} discovered?", [str(row["discovery_year"])]),
            ("where", f"In which country was {name} discovered?", row["discovery_location"].split("/")),
        ):
            yield {"id": f"{row['symbol']}/{column}", "question": text, "golden_answers": golds}


def _discovered(row: Mapping[str, Any]) -> bool:
    known = all(row[column] for column in ("discoverers", "discovery_year", "discovery_location"))
    return known and not str(row["discoverers"]).startswith(NOBODY)


def _people(told: str) -> list[str]:
    """As told, each of them, and each by the last name."""
    each = [name.strip() for name in re.split(r"[,;/]| and ", told) if name.strip()]
    last = [re.split(r"[ .]", name)[-1] for name in each]
    return list(dict.fromkeys(name for name in (told, *each, *last) if len(name) > 2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="data.radio.element_questions", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = elements()
    write_jsonl_atomic(folder / "corpus.jsonl", passages(rows))
    write_jsonl_atomic(folder / "train.jsonl", questions(rows, test=False))
    write_jsonl_atomic(folder / "test.jsonl", questions(rows, test=True))


if __name__ == "__main__":
    main()
