"""The text below the fields of settings, read when somebody asks for it.

Pydantic reads it while a class is made (`use_attribute_docstrings`), which costs every light command a quarter of a
second of parsing for words that only the schema and the list of settings show.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel


def describe(*kinds: type[BaseModel]) -> None:
    """Give the fields of these classes, and of all settings inside them, their text as `description`."""
    for kind in kinds:
        _describe(kind)


@cache
def _describe(kind: type[BaseModel]) -> None:
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is not BaseModel and issubclass(base, BaseModel):
            texts |= _below_fields(base)
    for name, info in kind.model_fields.items():
        for inner in _settings_in(info.annotation):
            _describe(inner)
        if info.description is None:
            info.description = texts.get(name) or None
    if kind.__pydantic_complete__:
        kind.model_rebuild(force=True)  # the schema made so far has no text


def _settings_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _settings_in(part)]


def _below_fields(kind: type[BaseModel]) -> dict[str, str]:
    """A text counts for the field that stands right above it; a field written anew without one loses the old."""
    found = _classes(kind.__module__).get(kind.__qualname__)
    if found is None:
        return {}
    texts: dict[str, str] = {}
    for field, below in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            texts[field.target.id] = inspect.cleandoc(str(below.value.value)) if told else ""  # pyright: ignore
    return texts


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes at the top of a module; parsed once, where `inspect.getsource` of a class parses it every time."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
