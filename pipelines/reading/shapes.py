"""What a field of a stage may hold, read off its annotation: in words, and as a check without coercion."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data.sources import Mixture, Source
from pipelines.reading.faults import Trail, listed
from trainers.config import SymbolicLoss


@dataclass(frozen=True)
class Shape:
    """One alternative of an annotation: a type, and the limits on it."""

    type: Any
    limits: tuple[Any, ...] = ()


@cache
def shapes(annotation: Any) -> tuple[Shape, ...]:
    """The alternatives of an annotation, aliases and `Annotated` unwrapped."""
    return tuple(_alternatives(annotation, ()))


def field_shapes(field: FieldInfo) -> tuple[Shape, ...]:
    return tuple(_alternatives(field.annotation, tuple(field.metadata)))


def _alternatives(annotation: Any, limits: tuple[Any, ...]) -> Iterator[Shape]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *marks = get_args(annotation)
        more = [limit for m in marks for limit in (m.metadata if isinstance(m, FieldInfo) else [m])]
        yield from _alternatives(inner, (*limits, *more))
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part, limits)
    else:
        yield Shape(annotation, limits)


def is_model(shape: Shape) -> bool:
    return isinstance(shape.type, type) and issubclass(shape.type, BaseModel)


def tag_of(model: type[BaseModel]) -> tuple[str, str] | None:
    """The key and the value by which a union tells this model from the others, such as ("kind", "rubric")."""
    for name in ("kind", "check"):
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is Literal:
            return name, str(get_args(field.annotation)[0])
    return None


def models(alternatives: tuple[Shape, ...]) -> list[type[BaseModel]]:
    return [shape.type for shape in alternatives if is_model(shape)]


def model_for(alternatives: tuple[Shape, ...], value: object) -> type[BaseModel] | None:
    """Which model a mapping is meant as; None when it cannot be told."""
    found = models(alternatives)
    if not isinstance(value, Mapping):
        return None
    if len(found) == 1:
        short = found[0] is Mixture and "sources" not in value and "path" in value
        return Source if short else found[0]
    given = cast("Mapping[str, object]", value)
    return next((m for m in found if (tag := tag_of(m)) and given.get(tag[0]) == tag[1]), None)


def below(alternatives: tuple[Shape, ...], value: object, step: str | int) -> tuple[Shape, ...]:
    """What may stand at a key or index of the value."""
    if Mixture in models(alternatives) and isinstance(value, list):
        return (Shape(Source), Shape(str))
    if model := model_for(alternatives, value):
        field = model.model_fields.get(str(step))
        return field_shapes(field) if field else ()
    wanted = (tuple, list) if isinstance(step, int) else (dict,)
    for shape in alternatives:
        if get_origin(shape.type) in wanted and (args := get_args(shape.type)):
            return shapes(args[0] if isinstance(step, int) else args[1])
    return ()


def at(alternatives: tuple[Shape, ...], value: object, trail: Trail) -> tuple[Shape, ...]:
    for step in trail:
        alternatives = below(alternatives, value, step)
        value = child(value, step)
    return alternatives


def child(value: object, step: str | int) -> object:
    if isinstance(value, list) and isinstance(step, int):
        items = cast("list[object]", value)
        return items[step] if 0 <= step < len(items) else None
    return cast("dict[Any, object]", value).get(step) if isinstance(value, dict) else None


def misfits(alternatives: tuple[Shape, ...], value: object, trail: Trail = ()) -> Iterator[Trail]:
    """Where a value has another type than its place, and pydantic would convert it without a word."""
    if not alternatives or any(shape.type in (Any, object) for shape in alternatives):
        return
    if isinstance(value, (dict, list)):
        entries = cast("dict[str, object] | list[object]", value)
        steps = entries.items() if isinstance(entries, dict) else enumerate(entries)
        for step, inner in steps:
            yield from misfits(below(alternatives, entries, step), inner, (*trail, step))
    elif not any(_fits(shape, value) for shape in alternatives):
        yield trail


def _fits(shape: Shape, value: object) -> bool:
    if get_origin(shape.type) is Literal:
        return isinstance(value, str) or value in get_args(shape.type)
    if shape.type is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if shape.type in (int, bool, str, type(None)):
        return type(value) is shape.type
    # A data source may be written as its path alone; whatever else a model makes of text, it will say.
    return isinstance(value, str) and is_model(shape)


_NAMES = {str: "text", bool: "true or false", type(None): "null"}


def describe(alternatives: tuple[Shape, ...]) -> str:
    """What is allowed, as the end of a sentence: `a number above 0 or null`."""
    found = models(alternatives)
    tags = [tag for model in found if (tag := tag_of(model))]
    parts = [f"a mapping with `{tags[0][0]}:` one of {listed(t[1] for t in tags)}"] if len(tags) > 1 else []
    parts += [_describe(shape) for shape in alternatives if not (is_model(shape) and len(tags) > 1)]
    # `one of a, b or a list, each one of a, b` says everything twice.
    parts = [
        "a list of these" if part.startswith("a list, each ") and part[13:] in parts else part
        for part in parts
    ]
    return " or ".join(dict.fromkeys(parts))


def _describe(shape: Shape) -> str:
    kind, origin = shape.type, get_origin(shape.type)
    if origin is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        return f"one of {listed(choices)}" if len(choices) > 1 else choices[0]
    if kind in (int, float):
        return _number("a whole number" if kind is int else "a number", shape.limits)
    if kind in _NAMES:
        return _NAMES[kind]
    if origin in (tuple, list):
        return f"a list, each {describe(shapes(get_args(kind)[0]))}"
    if kind is Mixture:
        return "a path, a mapping with `path:`, a list of these, or a mapping with `sources:` and `seed:`"
    if kind is SymbolicLoss:
        return "a named loss, a formula, or a mapping with `formula:`"
    if is_model(shape):
        needed = [name for name, field in kind.model_fields.items() if field.is_required()]
        return f"a mapping with `{'`, `'.join(n + ':' for n in needed)}`" if needed else "a mapping"
    if origin is dict:
        inner = describe(shapes(get_args(kind)[1]))
        return f"a mapping of names to {inner}" if inner else "a mapping"
    return "a mapping" if kind is dict else ""


def _number(noun: str, limits: tuple[Any, ...]) -> str:
    words: list[str] = []
    for limit in limits:
        if isinstance(limit, Ge):
            words.append(f"at least {limit.ge}")
        elif isinstance(limit, Gt):
            words.append(f"above {limit.gt}")
        elif isinstance(limit, Le):
            words.append(f"at most {limit.le}")
        elif isinstance(limit, Lt):
            words.append(f"below {limit.lt}")
    of = " of" if words and words[0].startswith("at ") else ""
    return f"{noun}{of} {' and '.join(words)}" if words else noun
