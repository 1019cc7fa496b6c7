"""YAML text as plain values, and for every key and value the line and column where it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from pipelines.reading.faults import Trail, show
from pipelines.reading.yaml_nodes import (
    MAX_DEPTH,
    START,
    Alias,
    Broken,
    Map,
    Mark,
    Node,
    Scalar,
    Seq,
    after,
    compose,
)

# A recipe is a page or two. These stop files that were made to fill the memory.
MAX_BYTES = 1_000_000
MAX_VALUES = 20_000

# YAML 1.2's core schema: in 1.1, which PyYAML follows, 2e-4 is text, `no` is false, and 010 is eight.
_INT = re.compile(r"[-+]?[0-9]+")
_OTHER_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass
class Parsed:
    """What a YAML text holds. With `broken` set, `value` is not what the writer meant."""

    value: Any = None
    keys: dict[Trail, Mark] = field(default_factory=dict[Trail, Mark])
    values: dict[Trail, Mark] = field(default_factory=dict[Trail, Mark])
    scalars: dict[Trail, Scalar] = field(default_factory=dict[Trail, Scalar])
    text: str = ""
    problems: list[tuple[Trail, Mark, str]] = field(default_factory=list[tuple[Trail, Mark, str]])
    broken: bool = False


def read(raw: bytes) -> Parsed:
    """A whole file, whose top level must be a mapping."""
    try:
        if len(raw) > MAX_BYTES:
            raise Broken(START, f"{len(raw)} bytes; a recipe has at most {MAX_BYTES}")
        parsed = _parse(_text(raw))
    except Broken as broken:
        return Parsed(problems=[((), broken.mark, broken.message)], broken=True)
    if not parsed.broken and not isinstance(parsed.value, dict):
        mark = parsed.values.get((), START)
        what = "the file is empty" if parsed.value is None else f"found {show(parsed.value)}"
        message = f"{what}; a recipe is a mapping with `recipe:`, `defaults:` and `stages:`"
        return Parsed(problems=[((), mark, message)], broken=True)
    return parsed


def read_value(text: str) -> Parsed:
    """One value, as it would stand after `key:`."""
    try:
        return _parse(text)
    except Broken as broken:
        return Parsed(problems=[((), broken.mark, broken.message)], broken=True)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        before = raw[: fault.start].decode("utf-8", errors="replace")
        raise Broken(
            after(before), f"byte 0x{raw[fault.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from fault


def _parse(text: str) -> Parsed:
    parsed = Parsed(text=text)
    node = compose(text)
    try:
        if node is not None:
            parsed.value = _Builder(parsed).build(node, ())
    except Broken as broken:
        parsed.problems.append(((), broken.mark, broken.message))
        parsed.broken = True
    except RecursionError:  # Merges that merge merges, thousands deep.
        parsed.problems.append(((), START, "the `<<` merges are nested too deep"))
        parsed.broken = True
    return parsed


class _Builder:
    """Nodes to values. A node that aliases repeat is built once for every place, so that each place has its path."""

    def __init__(self, parsed: Parsed) -> None:
        self.parsed = parsed
        self.count = 0
        # By identity: the nodes outlive the builder. Kept so that a fault in an anchor is told once.
        self.pairs: dict[int, dict[str, tuple[Mark, Node]]] = {}

    def build(self, node: Node, trail: Trail) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise Broken(node.mark, f"more than {MAX_VALUES} values once every alias is written out")
        if len(trail) > MAX_DEPTH:
            raise Broken(node.mark, f"nested more than {MAX_DEPTH} deep once every alias is written out")
        self.parsed.values[trail] = node.mark
        while isinstance(node, Alias):
            node = node.node
        if isinstance(node, Scalar):
            self.parsed.scalars[trail] = node
            return self._scalar(node, trail)
        if isinstance(node, Seq):
            return [self.build(item, (*trail, i)) for i, item in enumerate(node.items)]
        value: dict[str, Any] = {}
        for key, (mark, below) in self._pairs(node, trail).items():
            self.parsed.keys[(*trail, key)] = mark
            value[key] = self.build(below, (*trail, key))
        return value

    def _pairs(self, node: Map, trail: Trail) -> dict[str, tuple[Mark, Node]]:
        if id(node) in self.pairs:
            return self.pairs[id(node)]
        own: dict[str, tuple[Mark, Node]] = {}
        merged: dict[str, tuple[Mark, Node]] = {}
        for key, below in node.items:
            while isinstance(key, Alias):
                key = key.node
            if not isinstance(key, Scalar):
                self._problem(trail, key.mark, "a key must be plain text, not a list or mapping")
            elif key.tag == "" and key.text == "<<":
                for name, pair in self._merge(below, trail).items():
                    merged.setdefault(name, pair)
            elif key.text in own:
                first = own[key.text][0]
                text = f"the key stands twice; first in line {first.line}, column {first.column}"
                self._problem((*trail, key.text), key.mark, text)
            elif key.text == "":
                self._problem(trail, key.mark, "there is no key before the `:`")
            else:
                own[key.text] = (key.mark, below)
        self.pairs[id(node)] = {**merged, **own}
        return self.pairs[id(node)]

    def _merge(self, node: Node, trail: Trail) -> dict[str, tuple[Mark, Node]]:
        mark = node.mark
        while isinstance(node, Alias):
            node = node.node
        if isinstance(node, Map):
            return self._pairs(node, trail)
        merged: dict[str, tuple[Mark, Node]] = {}
        if isinstance(node, Seq):
            for item in node.items:  # Of several, the first to have a key gives it.
                for name, pair in self._merge(item, trail).items():
                    merged.setdefault(name, pair)
        else:
            self._problem((*trail, "<<"), mark, "`<<:` merges a mapping, or a list of mappings")
        return merged

    def _scalar(self, node: Scalar, trail: Trail) -> Any:
        text = node.text
        if node.tag == "str" or node.tag == "!":
            return text
        value = _plain(text)
        if (isinstance(value, float) and value in (float("inf"), float("-inf"))) or _NOT_FINITE.fullmatch(
            text
        ):
            self._problem(trail, node.mark, f"{text[:60]} is not a finite number")
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
            self._problem(trail, node.mark, "the number is too long")
            return None
        if node.tag == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        told = {"": object, "int": int, "float": float, "bool": bool, "null": type(None)}.get(node.tag)
        if told is None or not isinstance(value, told):
            self._problem(trail, node.mark, f"{show(text)} is no !!{node.tag}")
            return None
        return value

    def _problem(self, trail: Trail, mark: Mark, message: str) -> None:
        self.parsed.problems.append((trail, mark, message))


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 100 else 1 << 300  # Python refuses to convert thousands of digits.
    if _OTHER_INT.fullmatch(text):
        return int(text, 0) if len(text) < 100 else 1 << 300
    return float(text) if _FLOAT.fullmatch(text) else text
