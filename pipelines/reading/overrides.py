"""Values given on the command line, `stages.NAME.key=value`, put into a recipe."""

from __future__ import annotations

from typing import Any, cast

from pipelines.reading import old_names
from pipelines.reading.faults import Trail, did_you_mean, listed, nearest, show
from pipelines.reading.layers import ANY_KIND, kind_of, shapes_of, tell_tag
from pipelines.reading.old_names import Refused
from pipelines.reading.shapes import at, child, models
from pipelines.reading.tree import Tree
from pipelines.reading.yaml_source import read_value
from trainers.config import SymbolicLoss

HOW = "an override is written `stages.NAME.key=value` or `defaults.key=value`"


def override(tree: Tree, text: str) -> None:
    """Put one `path=value` of the command line in."""
    path, equals, told = text.partition("=")
    path = path.strip()
    if not equals or not path:
        tree.override_fault(path, HOW)
        return
    found = _target(tree, path)
    if found is None:
        return
    entry, trail, rest = found
    parsed = read_value(told)
    if parsed.problems:
        tree.override_fault(path, parsed.problems[0][2])
        return
    kind = kind_of(entry) if trail[0] == "stages" else None
    known = (kind.model_fields if kind else ANY_KIND) if trail[0] == "defaults" or kind else {}
    value = parsed.value
    under_training = len(rest) == 2 and rest[0] == "training"
    if known and (under_training or (len(rest) == 1 and rest[0] not in known)):
        today = old_names.modern(rest[-1], value, known, training=under_training)
        if isinstance(today, Refused):
            tree.override_fault(path, today.message)
            return
        if today:
            rest, value = list(today.trail), today.value
            if today.notice:
                tree.notices.append(f"override: {path}: {today.notice}")
    if _put(tree, entry, trail, rest, value, path) and len(rest) == 1:
        tell_tag(shapes_of(kind, rest[0]), value)


def _target(tree: Tree, path: str) -> tuple[dict[str, Any], Trail, list[str]] | None:
    """The mapping that an override changes, where it stands, and the rest of the path."""
    steps = path.split(".")
    names = {e["name"]: (i, e) for i, e in tree.stages() if isinstance(e.get("name"), str)}
    if steps[0] == "defaults" and len(steps) > 1 and all(steps):
        if tree.value.get("defaults") is None:
            tree.value["defaults"] = {}
        defaults = cast("object", tree.value["defaults"])
        if isinstance(defaults, dict):
            return cast("dict[str, Any]", defaults), ("defaults",), steps[1:]
        return None  # told already: defaults is no mapping
    if steps[0] == "stages" and len(steps) > 1:
        # Names may hold dots, so the longest that fits is meant.
        for size in range(len(steps) - 1, 0, -1):
            name, rest = ".".join(steps[1 : size + 1]), steps[size + 1 :]
            if name in names and rest and all(rest):
                if rest == ["name"]:
                    tree.override_fault(path, "a stage keeps its name: others refer to it by this")
                    return None
                return names[name][1], ("stages", names[name][0]), rest
        if ".".join(steps[1:]) in names:
            tree.override_fault(path, f"which key of this stage? {HOW}")
        else:
            there = f"; the stages are {listed(names)}" + did_you_mean(steps[1], names)
            tree.override_fault(path, f"there is no stage `{steps[1]}`{there}")
        return None
    if steps[0] in ("recipe", "name"):
        tree.override_fault(path, "the command's `--name` sets the run's name")
    elif nearest(steps[0], names) and len(steps) > 1:
        tree.override_fault(
            path, f"{HOW}; did you mean stages.{nearest(steps[0], names)}.{'.'.join(steps[1:])}?"
        )
    else:
        tree.override_fault(path, HOW)
    return None


def _put(tree: Tree, entry: dict[str, Any], trail: Trail, rest: list[str], value: Any, path: str) -> bool:
    """Set the value; on the way, mappings that are not there yet are made."""
    kind = kind_of(entry) if trail[0] == "stages" else None
    holder: Any = entry
    where: Trail = ()
    for name in rest[:-1]:
        step = _step(tree, holder, name, where, path)
        if step is None:
            return False
        inner = child(holder, step)
        where = (*where, step)
        source = at(shapes_of(kind, rest[0]), entry.get(rest[0]), where[1:])
        if isinstance(inner, str) and models(source):  # A source or a loss written as its first key alone.
            short = "formula" if SymbolicLoss in models(source) else "path"
            holder[step] = {short: inner}
            tree.moved((*trail, *where, short), (*trail, *where))
        elif inner is None:
            holder[step] = {}
            tree.overridden((*trail, *where))
        holder = holder[step]
    step = _step(tree, holder, rest[-1], where, path)
    if step is None:
        return False
    holder[step] = value
    tree.overridden((*trail, *where, step))
    return True


def _step(tree: Tree, holder: object, name: str, where: Trail, path: str) -> str | int | None:
    here = ".".join(map(str, where))
    if isinstance(holder, dict):
        return name
    if not isinstance(holder, list):
        tree.override_fault(path, f"`{here}` is {show(holder)}, which has no `{name}`")
        return None
    size = len(cast("list[object]", holder))
    if name.isascii() and name.isdecimal() and len(name) < 6 and int(name) < size:
        return int(name)
    tree.override_fault(path, f"`{here}` is a list: its entries are 0 to {size - 1}")
    return None
