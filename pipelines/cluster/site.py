"""A cluster file as a typed value; its faults are told as a recipe's are, with line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from data.errors import RecipeError
from pipelines.reading.faults import RecipeFaults, Trail, did_you_mean, show
from pipelines.reading.shapes import Shape, at, child, describe, misfits
from pipelines.reading.tree import Tree
from pipelines.reading.yaml_source import read_value
from slurm.site import Site

_ROOT = (Shape(Site),)
FOLDER = Path("slurm")


def load_cluster(path: Path) -> Site:
    """The site; RecipeFaults with every fault of the file."""
    parsed = read_value(_text(path))
    tree = Tree(str(path), parsed)
    if parsed.broken:
        raise RecipeFaults(path, tree.faults)
    given: object = parsed.value
    if not isinstance(given, dict):
        tree.value = {}
        tree.fault((), "a cluster file is a mapping, of which `partition:` must be there")
        raise RecipeFaults(path, tree.faults)
    values = cast("dict[str, Any]", given)
    wrong: dict[Trail, tuple[str, bool]] = {
        place: (_refused(values, place), False) for place in misfits(_ROOT, values)
    }
    site: Site | None = None
    try:
        site = Site.model_validate(values)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            place = error["loc"]
            wrong.setdefault(place, _sentence(error, values, place))
    for place, (message, at_key) in wrong.items():
        tree.fault(place, message, key=at_key)
    if site is None or tree.faults:
        raise RecipeFaults(path, tree.faults)
    return site


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as fault:
        others = sorted(path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        known = ", ".join(str(other) for other in others)
        raise RecipeError(
            "there is no such cluster file",
            where=str(path),
            way_out=f"There are: {known}."
            if known
            else "Copy slurm/example.yaml and fill in your site's facts.",
        ) from fault
    except (OSError, UnicodeDecodeError) as fault:
        raise RecipeError(
            f"the cluster file cannot be read: {fault}",
            where=str(path),
            way_out="Give the path of a YAML file.",
        ) from fault


def _sentence(error: ErrorDetails, values: dict[str, Any], place: Trail) -> tuple[str, bool]:
    """What is wrong, and whether it is the key."""
    key = str(place[-1]) if place else ""
    if error["type"] == "extra_forbidden":
        names = list(Site.model_fields)
        return "unknown key" + (did_you_mean(key, names) or f"; there are {', '.join(names)}"), True
    if error["type"] == "missing":
        return f"missing: `{key}:`, {_about(key)}", False
    if error["type"] == "string_pattern_mismatch":
        flag = place[0] == "sbatch"
        rule = "a flag, as in `--constraint=a100`" if flag else "one word, without blanks"
        return f"found {show(_value(values, place))}; must be {rule}", False
    return _refused(values, place) or error["msg"], False


def _about(key: str) -> str:
    text = Site.model_fields[key].description or ""
    return (text[:1].lower() + text[1:]).rstrip(".")


def _refused(values: dict[str, Any], place: Trail) -> str:
    allowed = describe(at(_ROOT, values, place))
    return f"found {show(_value(values, place))}; must be {allowed}" if allowed else ""


def _value(values: object, place: Trail) -> object:
    for step in place:
        values = child(values, step)
    return values
