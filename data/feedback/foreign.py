"""Values out of other tools' files, taken only if they have the type that they should have."""

from __future__ import annotations

from typing import Any, cast

from data.errors import DataError

WAY_OUT = "export the file again, or mend it by hand"


def an_object(value: object, name: str, where: str) -> dict[str, Any]:
    """The object; nothing for null."""
    if value is None:
        return {}
    shown: Any = value
    if not isinstance(value, dict) or not all(
        isinstance(key, str) for key in cast("dict[object, Any]", value)
    ):
        raise DataError(f"{name} is {_kind(shown)}, not an object", where=where, way_out=WAY_OUT)
    return cast("dict[str, Any]", value)


def a_list(value: object, name: str, where: str) -> list[Any]:
    """The list; nothing for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{name} is {_kind(value)}, not a list", where=where, way_out=WAY_OUT)
    return cast("list[Any]", value)


def objects(value: object, name: str, where: str) -> list[dict[str, Any]]:
    """A list of objects; nothing for null."""
    return [an_object(one, f"a part of {name}", where) for one in a_list(value, name, where)]


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
