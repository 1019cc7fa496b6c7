"""A recipe file as typed, frozen values; the only reader of recipe YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from data.errors import RecipeError
from pipelines.reading import overrides as override_values
from pipelines.reading.faults import Fault, RecipeFaults, did_you_mean, nearest, show
from pipelines.reading.layers import ANY_KIND, modernise, spread_defaults
from pipelines.reading.refs import check_names, check_references, makes
from pipelines.reading.schema import json_schema
from pipelines.reading.stage_values import read_stage
from pipelines.reading.tree import Tree
from pipelines.reading.yaml_source import read
from pipelines.rules.lineage import check_lineage
from pipelines.rules.stages import check_combinations
from pipelines.rules.unlearning import check_unlearn
from pipelines.stage import STAGE_NAME_PATTERN, Stage
from pipelines.stages import AnyStage
from trainers.config import COSMETIC

__all__ = [
    "Checked", "Fault", "Recipe", "RecipeFaults", "check", "cosmetic_keys", "from_json", "json_schema", "load",
    "resolved", "to_json",
]  # fmt: skip

FORMAT = 1
TOP = ("recipe", "description", "defaults", "stages")


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, with every default in it."""

    name: str
    path: Path
    """The file, absolute."""
    base: Path
    """Its folder, against which relative paths are read."""
    stages: tuple[AnyStage, ...]
    notices: tuple[str, ...] = ()
    """Old names and the like: right, but worth a line."""
    description: str = ""


@dataclass(frozen=True)
class Checked:
    """A recipe, or why it is none."""

    recipe: Recipe | None
    faults: tuple[Fault, ...]
    notices: tuple[str, ...]


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe; RecipeFaults with every fault there is."""
    checked = check(path, overrides)
    if checked.recipe is None:
        raise RecipeFaults(path, checked.faults)
    return checked.recipe


def check(path: Path | str, overrides: Sequence[str] = ()) -> Checked:
    """Read and judge a recipe with the overrides in it. Only a file that cannot be read at all raises."""
    file = Path(path)
    parsed = read(_bytes(file))
    tree = Tree(str(path), parsed)
    if parsed.broken:
        return Checked(None, tree.faults, ())
    base = file.absolute().parent
    _check_top(tree)
    name, description = _name(tree, file), _description(tree)
    modernise(tree)
    for given in overrides:
        override_values.override(tree, given)
    names = check_names(tree)
    found = [read_stage(tree, index, values) for index, values in spread_defaults(tree)]
    placed = [one for one in found if one is not None]
    makers = makes(tree, names)
    for one in placed:
        check_references(tree, one, names, makers, base)
    check_lineage(tree, placed, names, base)
    check_combinations(tree, placed, names)
    for one in placed:
        check_unlearn(tree, one, base)
    notices = tuple(tree.notices)
    if tree.faults:
        return Checked(None, tree.faults, notices)
    stages = cast("tuple[AnyStage, ...]", tuple(one.stage for one in placed))
    return Checked(Recipe(name, file.absolute(), base, stages, notices, description), (), notices)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as fault:
        folder = file.parent
        others = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
        near = nearest(file.name, others)
        way_out = f"did you mean {folder / near}?" if near else "Give the path of a recipe, a YAML file."
        raise RecipeError("there is no such recipe", where=str(file), way_out=way_out) from fault
    except (OSError, ValueError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise RecipeError(
            f"the recipe cannot be read: {why}", where=str(file), way_out="Give the path of a YAML file."
        ) from fault


def _check_top(tree: Tree) -> None:
    for key in tree.value:
        if key in TOP:
            continue
        if key in ("name", "recipe_name"):
            hint = "unknown key; the recipe's name is `recipe:`"
        elif key in ANY_KIND and nearest(key, TOP) is None:
            hint = "a key of stages: write it on a stage, or under `defaults:` for all that have it"
        else:
            hint = "unknown key" + (did_you_mean(key, TOP) or f"; there are {', '.join(TOP)}")
        tree.fault((key,), hint, key=True)
    stages: object = tree.value.get("stages")
    if not isinstance(stages, list) or not stages:
        what = "missing" if "stages" not in tree.value else f"found {show(cast('object', stages))}"
        misspelt = what == "missing" and any(
            nearest(key, TOP) == "stages" for key in tree.value if key not in TOP
        )
        if not misspelt:
            tree.fault(("stages",), f"{what}; must be a list of stages, each `- name: …` with its `kind:`")
        return
    for index, entry in enumerate(cast("list[object]", stages)):
        if not isinstance(entry, dict):
            tree.fault(
                ("stages", index), f"found {show(entry)}; a stage is a mapping with `name:` and `kind:`"
            )


def _name(tree: Tree, file: Path) -> str:
    name: object = tree.value.get("recipe", file.stem)
    if isinstance(name, str) and len(name) <= 64 and re.fullmatch(STAGE_NAME_PATTERN, name):
        return name
    rule = "at most 64 letters, digits, `.`, `_` and `-`, with a letter or digit first: it names the run's folder"
    if "recipe" in tree.value:
        tree.fault(("recipe",), f"found {show(name)}; must be {rule}")
    else:
        tree.fault((), f"the file's name is no name for a run: write `recipe: NAME`, {rule}")
    return ""


def _description(tree: Tree) -> str:
    text: object = tree.value.get("description")
    if text is not None and not isinstance(text, str):
        tree.fault(("description",), f"found {show(text)}; must be text")
    return text if isinstance(text, str) else ""


@cache
def _stages() -> TypeAdapter[tuple[AnyStage, ...]]:
    return TypeAdapter(tuple[AnyStage, ...])


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values, every default written out."""
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "description": recipe.description,
        "path": str(recipe.path),
        "base": str(recipe.base),
        "notices": list(recipe.notices),
        "stages": [resolved(stage) for stage in recipe.stages],
    }


def from_json(found: object) -> Recipe:
    """What `to_json` made, as values or as text."""
    try:
        value = json.loads(found) if isinstance(found, (str, bytes)) else found
        if not isinstance(value, Mapping):
            raise TypeError("not a mapping")
        held = cast("Mapping[str, Any]", value)
        if held["format"] != FORMAT:
            raise ValueError(f"format {held['format']} is not the {FORMAT} this version reads")
        return Recipe(
            name=str(held["recipe"]),
            path=Path(held["path"]),
            base=Path(held["base"]),
            stages=_stages().validate_python(held["stages"]),
            notices=tuple(str(line) for line in held["notices"]),
            description=str(held["description"]),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as broken:
        raise RecipeError(
            f"not a resolved recipe ({type(broken).__name__}: {broken})",
            way_out="Run the recipe again with this version: `heliograph run RECIPE --name RUN`.",
        ) from broken


def resolved(stage: Stage) -> dict[str, Any]:
    """The stage's configuration as done.json records it."""
    return stage.model_dump(mode="json")


def cosmetic_keys(stage: Stage) -> frozenset[str]:
    """Keys that change the cost of a stage and never its result."""
    extras = {key: cast("object", field.json_schema_extra) for key, field in type(stage).model_fields.items()}
    return frozenset(key for key, extra in extras.items() if extra == COSMETIC)
