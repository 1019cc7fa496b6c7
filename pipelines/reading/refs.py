"""What a stage refers to: earlier stages that make what it needs, models, and files that are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.formats import SUFFIXES
from pipelines.reading.faults import Trail, did_you_mean, listed, nearest, show
from pipelines.reading.shapes import child
from pipelines.reading.stage_values import Placed
from pipelines.reading.tree import Tree
from pipelines.stage import ALIASED, FILES, Stage, StageRef, references
from pipelines.stages import KINDS
from trainers.aliases import ALIASES
from trainers.radio.aliases import TINY
from trainers.radio.encoders import ENCODERS

NO_FILE, NO_FOLDER, NO_STAGE = "there is no file", "there is no folder", "no stage,"
"""How it is said that something is not here; what a recipe that was imported names may still come."""


def check_names(tree: Tree) -> dict[str, int]:
    """Each stage's name with the index of the first that has it."""
    first: dict[str, int] = {}
    for index, entry in tree.stages():
        name = entry.get("name")
        if isinstance(name, str) and name in first:
            tree.fault(
                ("stages", index, "name"),
                f"a second stage called `{name}`: every stage has a name of its own",
            )
        elif isinstance(name, str):
            first[name] = index
    return first


def makes(tree: Tree, names: Mapping[str, int]) -> dict[str, frozenset[str] | None]:
    """What each stage makes; None where its kind is not known."""
    kinds = {index: entry.get("kind") for index, entry in tree.stages()}
    known = {
        index: KINDS[kind].makes for index, kind in kinds.items() if isinstance(kind, str) and kind in KINDS
    }
    return {name: known.get(index) for name, index in names.items()}


def check_references(
    tree: Tree,
    placed: Placed,
    names: Mapping[str, int],
    makers: Mapping[str, frozenset[str] | None],
    base: Path,
) -> None:
    """Every value of the stage that may name another."""
    for path, value, mark in references(placed.stage):
        trail = placed.at(*_in_recipe(path, placed.values))
        if value in names:
            message = _stage_fault(value, mark, names[value], placed.index, makers)
        elif mark.only:
            earlier = [name for name, index in names.items() if index < placed.index]
            fit = [name for name in earlier if mark.makes in (makers[name] or ())]
            there = f"there are {listed(fit)}" if fit else f"no stage before this one makes {_a(mark.makes)}"
            message = f"no stage is called {show(value)}; {there}{did_you_mean(value, fit or names)}"
        elif mark.makes in ALIASED:
            message = _model_fault(value, mark.makes, names, base)
        elif mark.makes in FILES:
            message = _file_fault(value, mark.makes, names, makers, base)
        else:
            message = _data_fault(value, placed, path, names, base)
        if message:
            tree.fault(trail, message)


def _stage_fault(
    name: str, mark: StageRef, index: int, here: int, makers: Mapping[str, frozenset[str] | None]
) -> str | None:
    if index == here:
        return f"`{name}` is this stage itself: name an earlier one"
    if index > here:
        return f"the stage `{name}` comes later: put it before this one"
    made = makers[name]
    if made is None or mark.makes in made:
        return None
    fit = [other for other, things in makers.items() if mark.makes in (things or ()) and other != name]
    there = f"; {listed(fit)} does" if len(fit) == 1 else f"; {listed(fit)} do" if fit else ""
    return f"the stage `{name}` makes {_a(listed(sorted(made)))}, and {_a(mark.makes)} is needed here{there}"


def _a(things: str) -> str:
    made = {"model": "a model", "reranker": "a reranker", "": "nothing", "none": "nothing"}
    return made.get(things, things)


def _model_fault(value: str, sort: str, names: Mapping[str, int], base: Path) -> str | None:
    # `owner/name` is the hub's or nobody's: only the network can tell.
    if ALIASED[sort](value) or _exists(base, value):
        return None
    local = value.startswith((".", "/", "~"))
    if "/" in value and not local:
        return None
    if local:
        return f"{NO_FOLDER} {show(value)}; paths start at the recipe's folder"
    known = {"model": [*ALIASES], "encoder": [*ENCODERS], "reranker": [*ENCODERS, TINY]}[sort]
    hint = did_you_mean(value, [*names, *known])
    if not hint:
        hint = f"; the aliases are {listed(known)}" if len(known) > 1 else f"; the alias is {known[0]}"
    return (
        f"{NO_STAGE} alias or folder is called {show(value)}{hint}; a model on the hub is written owner/name"
    )


def _file_fault(
    value: str,
    makes: str,
    names: Mapping[str, int],
    makers: Mapping[str, frozenset[str] | None],
    base: Path,
) -> str | None:
    """A value that is one local file, unless a stage makes it."""
    if _exists(base, value):
        return None
    near = _near_file(base, Path(value))
    fit = [name for name, things in makers.items() if makes in (things or ())]
    hint = f"; did you mean {Path(value).parent / near}?" if near else did_you_mean(value, fit or names)
    who = (
        f", and no stage is called so; {listed(fit)} make{'s' if len(fit) == 1 else ''} {makes}"
        if fit
        else ""
    )
    return f"{NO_FILE} {show(value)}{who}; paths start at the recipe's folder{hint}"


def _data_fault(value: str, placed: Placed, path: Trail, names: Mapping[str, int], base: Path) -> str | None:
    if _format(placed.stage, path) == "hub" or _exists(base, value):
        return None
    file = Path(value)
    if file.suffix.lower() in (*SUFFIXES, ".gz") or value.startswith((".", "/", "~")):
        near = _near_file(base, file)
        hint = f"; did you mean {file.parent / near}?" if near else ""
        return f"{NO_FILE} {show(value)}; paths start at the recipe's folder{hint}"
    if "/" in value:
        return None
    # A single word may be an old dataset of the hub, but far more often it is a stage.
    near = did_you_mean(value, names)
    hub = "a dataset on the hub is written owner/name, or with `format: hub`"
    return f"{NO_STAGE} file or folder is called {show(value)}{near}; {hub}"


def _format(stage: Stage, path: Trail) -> str:
    mixture = stage.mixtures().get(str(path[0]))
    if mixture is None or len(path) < 2 or not isinstance(path[1], int):
        return "auto"
    return mixture.sources[path[1]].format


def _exists(base: Path, value: str) -> bool:
    try:
        return (base / Path(value).expanduser()).exists()
    except (OSError, RuntimeError, ValueError):  # Too long, no such home, or a zero byte in it.
        return False


def _near_file(base: Path, file: Path) -> str | None:
    try:
        return nearest(file.name, sorted(entry.name for entry in (base / file.expanduser().parent).iterdir()))
    except (OSError, RuntimeError, ValueError):
        return None


def _in_recipe(path: Trail, values: object) -> Trail:
    """The path of a typed value as the recipe has it, whichever short form it uses."""
    place: list[str | int] = []
    value = values
    for step in path:
        below = child(value, step)
        if below is None and isinstance(step, int):
            several = child(value, "sources")
            if several is None:
                continue  # one source alone, where the typed value is a list
            place.append("sources")
            below = child(several, step)
        if below is None:
            continue
        place.append(step)
        value = below
    return tuple(place)
