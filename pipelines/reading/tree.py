"""A recipe's plain values while it is read: where each was written, which were moved, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from pipelines.reading.faults import Fault, Trail, dotted, in_order, one_line
from pipelines.reading.yaml_nodes import START, Mark
from pipelines.reading.yaml_places import inside
from pipelines.reading.yaml_source import Parsed


class Tree:
    """Values change as defaults and overrides are put in; a fault still points at what a person wrote."""

    def __init__(self, file: str, parsed: Parsed) -> None:
        self.file = file
        self.value: dict[str, Any] = {} if parsed.broken else parsed.value
        self.notices: list[str] = []
        self._keys, self._values = parsed.keys, parsed.values
        self._scalars, self._text = parsed.scalars, parsed.text
        self._moved: dict[Trail, Trail] = {}
        self._overrides: set[Trail] = set()
        # One fault for one place: what is wrong twice with a value is wrong once for its writer.
        self._faults: dict[tuple[int, int, str], Fault] = {}
        for trail, mark, message in parsed.problems:
            self._add(Fault(mark.line, mark.column, dotted(trail, self.value), message))

    @property
    def faults(self) -> tuple[Fault, ...]:
        return in_order(self._faults.values())

    def fault(self, trail: Trail, message: str, *, key: bool = False) -> None:
        """Something is wrong with the value there, or with its key."""
        self._add(self._at(trail, message, key=key))

    def fault_inside(self, trail: Trail, index: int, message: str) -> None:
        """Something is wrong from one character of the text there on."""
        fault, scalar = self._at(trail, message, key=False), self._scalars.get(self.written(trail))
        if fault.line and scalar is not None:
            mark = inside(self._text, scalar, index)
            fault = replace(fault, line=mark.line, column=mark.column)
        else:
            fault = replace(fault, message=f"character {index + 1}: {fault.message}")
        self._add(fault)

    def override_fault(self, path: str, message: str) -> None:
        """An override that has no place in the recipe."""
        self._add(Fault(0, 0, one_line(path), one_line(message)))

    def notice(self, trail: Trail, message: str) -> None:
        line = self._at(trail, message, key=True).render(self.file)
        if line not in self.notices:
            self.notices.append(line)

    def moved(self, new: Trail, old: Trail) -> None:
        """What stands at `new` was written at `old`."""
        self._moved[new] = old

    def overridden(self, trail: Trail) -> None:
        """What stands there, or below, came from the command line."""
        for old in [old for old in self._moved if old[: len(trail)] == trail]:
            del self._moved[old]
        self._overrides.add(trail)

    def written(self, trail: Trail) -> Trail:
        """Where the value was written."""
        for _ in range(8):  # A default may itself have been renamed, and so on; nothing moves often.
            prefix = next((p for p in _prefixes(trail) if p in self._moved), None)
            if prefix is None:
                break
            trail = self._moved[prefix] + trail[len(prefix) :]
        return trail

    def _at(self, trail: Trail, message: str, *, key: bool) -> Fault:
        source, message = self.written(trail), one_line(message)
        path = dotted(source, self.value)
        if any(prefix in self._overrides for prefix in _prefixes(source)):
            return Fault(0, 0, path, message)
        mark = self._mark(source, key)
        return Fault(mark.line, mark.column, path, message)

    def _mark(self, trail: Trail, key: bool) -> Mark:
        if key and trail in self._keys:
            return self._keys[trail]
        return next((self._values[p] for p in _prefixes(trail) if p in self._values), START)

    def _add(self, fault: Fault) -> None:
        # What an alias repeats is written once: there the last key is the same, and only the way to it differs.
        path = fault.path.rpartition(".")[2] if fault.line else fault.path
        self._faults.setdefault((fault.line, fault.column, path), fault)

    def stages(self) -> list[tuple[int, dict[str, Any]]]:
        """The entries of `stages:` that are mappings, with their index."""
        entries: object = self.value.get("stages")
        listed = cast("list[object]", entries) if isinstance(entries, list) else []
        return [(i, cast("dict[str, Any]", e)) for i, e in enumerate(listed) if isinstance(e, dict)]


def _prefixes(trail: Trail) -> Iterator[Trail]:
    for size in range(len(trail), -1, -1):
        yield trail[:size]
