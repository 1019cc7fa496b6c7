"""The tables of docs/coming-from.md, made from the tables that the import reads.

`python -m pipelines.importing.docs docs/coming-from.md` writes them into the page, between its markers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.importing.engine import SOURCES
from pipelines.importing.rules import Rule, Source
from pipelines.importing.shared import COMMON
from pipelines.importing.trl import RULES as TRL_RULES
from pipelines.reading.old_names import NEW_NAMES, REFUSED

BEGIN, END = "<!-- begin {name} -->", "<!-- end {name} -->"


def tables() -> dict[str, str]:
    """By the name in the page's markers."""
    found = {name: "\n".join(_source(source)) for name, source in SOURCES.items()}
    found["old-names"] = "\n".join(_table(_old_names()))
    found["transformers"] = "\n".join(_table(_grouped(COMMON)))
    return found


def filled(page: str) -> str:
    """The page with every table made anew."""
    for name, text in tables().items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        made = f"{begin}\n{text}\n{end}"
        page = pattern.sub(lambda _, made=made: made, page)
    return page


def _source(source: Source) -> Iterator[str]:
    yield "Rows and where they come from:"
    yield ""
    yield from _table([*source.data_doc])
    inherited = {**COMMON, **(TRL_RULES if source.name == "alignment-handbook" else {})}
    own = {key: rule for key, rule in source.rules.items() if inherited.get(key) is not rule}
    defaults = [
        (f"`{one.to}` left out" + (f" ({', '.join(one.methods)})" if one.methods else ""),
         f"`{one.value}` is written" if one.value is not None else "", one.why)
        for one in source.defaults
    ]  # fmt: skip
    yield ""
    yield "Keys:"
    yield ""
    yield from _table(_grouped(own))
    if defaults:
        yield ""
        yield "Defaults that differ, and are written into the recipe:"
        yield ""
        yield from _table(defaults)


def _grouped(rules: dict[str, Rule]) -> list[tuple[str, str, str]]:
    """Keys that become the same share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for key, rule in rules.items():
        same = rule.to == key and not rule.why
        rows.setdefault(("the same" if same else rule.doc, rule.why), []).append(f"`{key}`")
    return [(", ".join(keys), here, why) for (here, why), keys in rows.items()]


def _old_names() -> list[tuple[str, str, str]]:
    """What any recipe may hold of TRL's names of before, or says what to write instead of."""
    rules: dict[str, Rule] = {old: Rule(".".join(new)) for old, new in NEW_NAMES.items()}
    rules |= {key: Rule(None, why) for key, why in REFUSED.items()}
    return _grouped({key: rule for key, rule in rules.items() if key not in TRL_RULES})


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    yield "| there | here | what differs |"
    yield "|---|---|---|"
    for cells in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")
