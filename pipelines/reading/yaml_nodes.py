"""YAML text as a tree of nodes with their places; what cannot be read is told in words of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.reading.faults import show

MAX_DEPTH = 40
"""A recipe is a few levels deep; a file of a million brackets must not end in a crash."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, order=True)
class Mark:
    """Where something stands; both count from 1."""

    line: int
    column: int


START = Mark(1, 1)


class Broken(Exception):  # noqa: N818 - the reader turns it into a fault
    def __init__(self, mark: Mark, message: str) -> None:
        self.mark = mark
        self.message = message


@dataclass
class Scalar:
    mark: Mark
    text: str
    tag: str
    """Without the common prefix; empty when the text itself tells the type."""
    style: str
    """The quotes, or `|` or `>`; empty for plain text."""
    end: Mark
    """What follows it."""


@dataclass
class Seq:
    mark: Mark
    items: list[Node]


@dataclass
class Map:
    mark: Mark
    items: list[tuple[Node, Node]]


@dataclass
class Alias:
    mark: Mark
    node: Node


Node = Scalar | Seq | Map | Alias


def compose(text: str) -> Node | None:
    """The text's only document; None when it is empty."""
    if odd := _CONTROL.search(text):
        raise Broken(after(text[: odd.start()]), f"the character {show(odd.group())} is not allowed in YAML")
    parse: Any = yaml.parse  # pyright: ignore
    try:
        return _document(parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as fault:
        raise _syntax(fault, text) from fault
    except yaml.YAMLError as fault:
        raise Broken(START, f"not YAML: {' '.join(str(fault).split())}") from fault


def after(before: str) -> Mark:
    """The place that follows this text."""
    lines = before.split("\n")
    return Mark(len(lines), len(lines[-1]) + 1)


def _document(events: Iterator[Any]) -> Node | None:
    """The first document's nodes. Ours, because PyYAML's own loses where an alias stands and nests without end."""
    anchors: dict[str, Node] = {}
    root: Node | None = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if root is not None:
                what = "a second document begins here; a recipe is one: remove the `---`"
                raise Broken(_mark(event.start_mark), what)
        elif isinstance(event, yaml.NodeEvent):
            root = _node(event, events, anchors, 0)
    return root


def _node(event: Any, events: Iterator[Any], anchors: dict[str, Node], depth: int) -> Node:
    mark = _mark(event.start_mark)
    if depth > MAX_DEPTH:
        raise Broken(mark, f"nested more than {MAX_DEPTH} deep")
    if isinstance(event, yaml.AliasEvent):
        name: str = event.anchor
        if name not in anchors:  # Registered once it is complete, so that nothing can contain itself.
            raise Broken(mark, f"`*{name}` has no complete `&{name}` before it")
        return Alias(mark, anchors[name])
    tag: str = event.tag or ""
    if tag and tag != "!" and not tag.startswith(_TAG):
        raise Broken(mark, f"the tag `{tag}` is not allowed: a recipe holds plain values")
    node: Node
    if isinstance(event, yaml.ScalarEvent):
        told = tag.removeprefix(_TAG) or ("" if event.implicit[0] else "str")
        node = Scalar(mark, event.value, told, event.style or "", _mark(event.end_mark))
    elif isinstance(event, yaml.SequenceStartEvent):
        items: list[Node] = []
        while not isinstance(below := next(events), yaml.SequenceEndEvent):
            items.append(_node(below, events, anchors, depth + 1))
        node = Seq(mark, items)
    else:
        pairs: list[tuple[Node, Node]] = []
        while not isinstance(below := next(events), yaml.MappingEndEvent):
            key = _node(below, events, anchors, depth + 1)
            pairs.append((key, _node(next(events), events, anchors, depth + 1)))
        node = Map(mark, pairs)
    if event.anchor:
        anchors[event.anchor] = node
    return node


def _mark(at: Any) -> Mark:
    return Mark(at.line + 1, at.column + 1)


_HINTS = {
    "mapping values are not allowed": "a second `:` in one value, or a line that is indented too far: "
    "put text that holds `: ` in quotes",
    "did not find expected key": "this line does not continue the lines above: check its indentation",
    "did not find expected '-' indicator": "this line does not continue the list above: check its indentation",
    "could not find expected ':'": "there is no `:` after this key",
    "did not find expected ',' or ']'": "the list has no `]`, or a `,` is missing",
    "did not find expected ',' or '}'": "the mapping has no `}`, or a `,` is missing",
    "did not find expected node content": "a value is missing, or a bracket is not closed",
    "unexpected end of stream": "the quotes that open here are never closed",
    "block sequence entries are not allowed": "a `-` cannot begin a list here: check the indentation",
}


def _syntax(fault: yaml.MarkedYAMLError, text: str) -> Broken:
    problem, lines = fault.problem or "", text.split("\n")
    mark = fault.problem_mark or fault.context_mark
    if mark is None:
        return Broken(START, f"not YAML: {problem}")
    at = lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
    # At the end of the file, where the parser gives up, nobody looks for the bracket that is open above.
    if mark.line >= len(lines) or not "".join(lines[mark.line :]).strip():
        mark = fault.context_mark or mark
    place = min(Mark(mark.line + 1, mark.column + 1), after(text.rstrip()))
    if "cannot start any token" in problem:
        if at == "\t":
            return Broken(place, "a tab: YAML is indented with spaces")
        return Broken(place, f"a value cannot begin with `{at}`: put it in quotes")
    hint = next((words for start, words in _HINTS.items() if start in problem), "")
    told = ", ".join(part for part in (fault.context, problem) if part)
    return Broken(place, f"{hint} ({told})" if hint else told)
