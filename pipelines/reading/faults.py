"""What is wrong in a recipe: the place, the path, the sentence, and the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from data.errors import RecipeError

Trail = tuple[str | int, ...]
"""The way to a value: keys of mappings, indices of lists."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong. Line and column count from 1; line 0: an override on the command line."""

    line: int
    column: int
    path: str
    """Such as `stages.dpo.beta`; empty for the file as a whole."""
    message: str

    def render(self, file: object) -> str:
        place = f"{file}:{self.line}:{self.column}" if self.line else "override"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class RecipeFaults(RecipeError):  # noqa: N818 - one error, many faults
    """All faults of one recipe, in the order of the file; those of overrides come last."""

    def __init__(self, file: object, faults: Iterable[Fault]) -> None:
        self.file = str(file)
        self.faults = in_order(faults)
        count = len(self.faults)
        super().__init__(f"{count} fault{'s' if count != 1 else ''}", where=self.file)

    def __str__(self) -> str:
        return "\n".join(fault.render(self.file) for fault in self.faults)

    def __reduce__(self) -> tuple[object, ...]:
        return RecipeFaults, (self.file, self.faults)


def in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(set(faults), key=lambda f: (f.line == 0, f)))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, or None when none is close."""
    known = list(names)
    plain = {one.casefold(): one for one in reversed(known)}
    if close := difflib.get_close_matches(name.casefold(), plain, n=1, cutoff=0.65):
        return plain[close[0]]
    # `batch_size` for per_device_train_batch_size, `epochs` for num_train_epochs: whole words of the name.
    words = name.casefold().split("_")
    if len(name) < 4:
        return None
    return next((one for one in known if _within(words, one.casefold().split("_"))), None)


def _within(words: Sequence[str], name: Sequence[str]) -> bool:
    size = len(words)
    return any(list(name[i : i + size]) == list(words) for i in range(len(name) - size + 1))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    near = nearest(name, names)
    return f"; did you mean {near}?" if near else ""


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def show(value: object) -> str:
    """A value as the recipe has it, short enough for a line."""
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    return str(value)


def dotted(trail: Trail, root: object) -> str:
    """`stages.dpo.beta` for ("stages", 1, "beta"): a stage goes by its name where it has one."""
    parts: list[str] = []
    value = root
    for depth, step in enumerate(trail):
        value = _below(value, step)
        name = _below(value, "name") if depth == 1 and trail[0] == "stages" else None
        parts.append(printable(name if isinstance(name, str) and name else str(step)))
    return ".".join(parts)


def printable(text: str) -> str:
    """A key may be anything that fits into a file."""
    return one_line(text if len(text) <= 80 else text[:77] + "...")


def one_line(text: str) -> str:
    """A line break in a key or value must not make two lines of a fault."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text
    )


def _below(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value).get(step)
    if isinstance(value, list) and isinstance(step, int):
        items = cast("list[Any]", value)
        return items[step] if 0 <= step < len(items) else None
    return None
