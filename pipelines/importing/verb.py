"""`heliograph import`: read, judge, write, and tell what became of every key."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import RecipeError
from pipelines.importing.engine import convert
from pipelines.importing.rules import VERDICTS, Told
from pipelines.importing.writing import Written, write
from pipelines.reading.faults import one_line, show
from pipelines.state import plain
from pipelines.summary import table


def import_file(
    file: Path, source: str | None, method: str | None, to: Path | None, as_json: bool
) -> Iterator[str]:
    """Lines for standard output. Without `to` nothing is written, and the recipe is printed before the account."""
    if to is not None and to.exists():
        raise RecipeError(
            "there is a file here already, and an import never writes over one",
            where=str(to),
            way_out="Give another name.",
        )
    found = convert(file, source, method)
    name = _recipe_name((to or file).stem)
    base = (to.absolute().parent if to is not None else Path.cwd()).resolve()
    if not base.is_dir():
        raise RecipeError("there is no such folder", where=str(base), way_out="Make it first.")
    made = write(found, name, base)
    if to is not None:
        to.write_text(made.text, encoding="utf-8")
    if as_json:
        yield json.dumps(plain(told_as_json(made, to)), indent=2, ensure_ascii=False)
        return
    if to is None:
        yield from made.text.splitlines()
        yield ""
        yield from (f"# {line}".rstrip() for line in told_as_lines(made))
        return
    yield from told_as_lines(made)
    yield f"written: {to}; heliograph plan {to}   shows what it would do"


def _recipe_name(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64] or "imported"


def told_as_json(made: Written, to: Path | None) -> dict[str, Any]:
    return {
        "from": made.imported.source.name,
        "method": made.imported.method,
        "told_by": made.imported.how,
        "file": str(made.imported.file),
        "to": None if to is None else str(to),
        "recipe": made.text,
        "stage": made.imported.stage,
        "keys": [
            {"key": one.key, "verdict": one.verdict, "value": one.value, "to": one.to, "why": one.why}
            for one in made.told
        ],
        "empty": list(made.imported.empty),
    }


def told_as_lines(made: Written) -> Iterator[str]:
    """What was only renamed or kept is counted; the rest is told key by key, worst first."""
    found = made.imported
    yield f"{found.file}: a file of {found.source.title}, for {found.method} (told by {found.how})"
    counts = Counter(one.verdict for one in made.told)
    yield ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    yield ""
    rows = [("what", "key", "value", "here", "why")]
    rows += [_row(one) for one in made.told if one.verdict not in ("kept", "renamed")]
    yield from table(rows)
    quiet = [one.key for one in made.told if one.verdict in ("kept", "renamed")]
    if quiet:
        yield ""
        yield f"the same here, or under another name: {', '.join(quiet)}"
    if found.empty:
        yield f"without a value in the file: {', '.join(found.empty)}"


def _row(one: Told) -> tuple[str, str, str, str, str]:
    value = "" if one.value is None else one_line(show(one.value))
    return one.verdict, one_line(one.key), value, one.to or "", one.why
