"""One stage's plain values as a typed stage, and pydantic's complaints as sentences about the recipe."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from data import described
from data.sources import Mixture
from pipelines.reading.faults import Trail, did_you_mean, listed, nearest, show
from pipelines.reading.shapes import Shape, at, child, describe, field_shapes, misfits, model_for, models
from pipelines.reading.training_keys import MANY, check_training, trl_field
from pipelines.reading.tree import Tree
from pipelines.stage import Stage
from pipelines.stages import KINDS

_OTHER_NAMES = {
    **dict.fromkeys(("dpo", "ipo", "rlhf", "align", "preference"), "prefer"),
    **dict.fromkeys(("train", "finetune", "fine_tune"), "sft"),
    **dict.fromkeys(("generate", "candidates"), "sample"),
    **dict.fromkeys(("eval", "test"), "evaluate"),
}
_NAME = "a name of at most 64 letters, digits, `.`, `_` and `-`, with a letter or digit first"


@dataclass(frozen=True)
class Placed:
    """A stage, where it stands in the list, and its values as the recipe has them."""

    index: int
    stage: Stage
    values: Mapping[str, Any]
    wrong: frozenset[str] = frozenset()
    """Keys whose values were refused: they have their defaults here, or None."""

    def at(self, *path: str | int) -> Trail:
        return ("stages", self.index, *path)


def read_stage(tree: Tree, index: int, values: dict[str, Any]) -> Placed | None:
    """The stage; where values are wrong, one without them, for the checks that follow."""
    trail: Trail = ("stages", index)
    kind = _kind(tree, trail, values)
    if kind is None:
        return None
    root = (Shape(kind),)
    wrong: dict[Trail, tuple[str, bool]] = {}
    for place in misfits(root, values):
        wrong[place] = (_refusal(root, values, place), False)
    stage: Stage | None = None
    try:
        stage = kind.model_validate(values)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            place = _place(error, values)
            wrong.setdefault(place, _sentence(error, kind, values, place))
    _forget_consequences(wrong, kind, values)
    for place, (message, at_key) in wrong.items():
        tree.fault(trail + place, message, key=at_key)
    check_training(tree, trail, kind, values)
    bad = frozenset(str(place[0]) for place in wrong if place)
    if stage is None or bad:
        stage = _without(kind, _pruned(values, wrong))
    return Placed(index, stage, values, bad)


def _kind(tree: Tree, trail: Trail, values: dict[str, Any]) -> type[Stage] | None:
    if "kind" not in values:
        tree.fault((*trail, "kind"), f"missing: `kind:`, one of {listed(KINDS)}")
        return None
    told: object = values["kind"]
    if isinstance(told, str) and told in KINDS:
        return KINDS[told]
    name = told if isinstance(told, str) else ""
    other = _OTHER_NAMES.get(name)
    meant = f"; did you mean {other}?" if other in KINDS else did_you_mean(name, KINDS)
    tree.fault((*trail, "kind"), f"unknown kind {show(told)}; there are {listed(KINDS)}{meant}")
    return None


def _pruned(values: dict[str, Any], wrong: Collection[Trail]) -> dict[str, Any]:
    """The values without what was refused: of a mapping its keys, of a list that has faults nothing stays."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        below = [place[1:] for place in wrong if place[0] == key]
        if not below:
            kept[key] = value
        elif () not in below and isinstance(value, dict):
            kept[key] = _pruned(cast("dict[str, Any]", value), below)
    return kept


def _without(kind: type[Stage], values: dict[str, Any]) -> Stage:
    """A stage of the values that are right. Not for running: what is required may be None."""
    kept: dict[str, Any] = {key: None for key, field in kind.model_fields.items() if field.is_required()}
    for key, value in values.items():
        if key in kind.model_fields:
            mixed = value is not None and Mixture in models(field_shapes(kind.model_fields[key]))
            kept[key] = _mixture(value) if mixed else value
    return kind.model_construct(**kept)


def _mixture(value: object) -> Mixture | None:
    try:
        return Mixture.model_validate(value)
    except ValidationError:  # What is left of it may lack its path.
        return None


def _place(error: ErrorDetails, values: object) -> Trail:
    """Where in the recipe pydantic means: without the levels that only its unions and short forms have."""
    place: list[str | int] = []
    value = values
    loc = error["loc"]
    for depth, step in enumerate(loc):
        steps = range(len(cast("list[object]", value))) if isinstance(value, list) else ()
        if (isinstance(value, dict) and step in value) or step in steps:
            place.append(step)
            value = child(cast("object", value), step)
        elif depth == len(loc) - 1 and error["type"] == "missing" and isinstance(value, dict):
            place.append(step)
    if error["type"].startswith("union_tag"):
        tag = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
        if isinstance(value, dict) and tag:
            given = cast("dict[str, object]", value)
            misspelt = None if tag in given else next((key for key in given if nearest(key, [tag])), None)
            place.append(misspelt or tag)
    return tuple(place)


def _sentence(
    error: ErrorDetails, kind: type[Stage], values: dict[str, Any], place: Trail
) -> tuple[str, bool]:
    """What is wrong, and whether it is the key."""
    root, what, context = (Shape(kind),), error["type"], error.get("ctx", {})
    parent = _value(values, place[:-1])
    model = model_for(at(root, values, place[:-1]), parent)
    if what == "extra_forbidden":
        return _unknown(kind, model, str(place[-1]), top=len(place) == 1), True
    if what == "missing":
        if model:
            described.describe(model)
        field = model.model_fields.get(str(place[-1])) if model else None
        about = field.description if field and field.description else ""
        return f"missing: `{place[-1]}:`, {about[:1].lower()}{about[1:]}".rstrip(" .,"), False
    if what == "union_tag_not_found":
        if isinstance(parent, dict) and place[-1] in parent:
            return f"unknown key; did you mean {str(context.get('discriminator', '')).strip(chr(39))}?", True
        held = describe(at(root, values, place[:-1]))
        return f"missing: `{place[-1]}:`; must be {held}", False
    if what == "union_tag_invalid":
        there = [tag.strip(" '") for tag in str(context.get("expected_tags", "")).split(",")]
        told = str(context.get("tag", ""))
        there_is = f"there are {listed(there)}{did_you_mean(told, there)}"
        return f"unknown {place[-1]} {show(told)}; {there_is}", False
    if what in ("value_error", "assertion_error"):
        return str(context.get("error", error["msg"])), False
    if what in ("string_too_short", "too_short"):
        return f"found {show(_value(values, place))}; must not be empty", False
    if place == ("name",) and isinstance(values.get("name"), str):
        return f"found {show(values['name'])}; must be {_NAME}", False
    return _refusal(root, values, place) or error["msg"], False


def _unknown(kind: type[Stage], model: Any, key: str, *, top: bool) -> str:
    names = list(model.model_fields) if model else []
    if not top:
        if not names:
            return "unknown key"
        return "unknown key" + (did_you_mean(key, names) or f"; there are {listed(names)}")
    if trl_field(kind, key):
        return "a setting of TRL's: write it under `training:`"
    if holders := [name for name, other in KINDS.items() if key in other.model_fields]:
        return f"a stage of this kind has no such key; {listed(f'kind {name}' for name in holders)} has"
    if near := nearest(key, names):
        return f"unknown key; did you mean {near}?"
    near = trl_field(kind, key, near=True)
    return f"unknown key; did you mean {near}, under `training:`?" if near else "unknown key"


def _refusal(root: tuple[Shape, ...], values: dict[str, Any], place: Trail) -> str:
    """What was found, and what is allowed there."""
    allowed, value = at(root, values, place), _value(values, place)
    told = describe(allowed)
    if not told:
        return ""
    choices = [c for s in allowed if get_origin(s.type) is Literal for c in get_args(s.type)]
    hint = did_you_mean(value, map(str, choices)) if isinstance(value, str) else ""
    if str(value).casefold() == "dpo" and "sigmoid" in choices:
        hint = ": TRL calls DPO's loss sigmoid"  # `ipo` is nearer in letters
    takes_number = any(shape.type in (int, float, bool) for shape in allowed)
    if isinstance(value, str) and takes_number and not hint:
        plain = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower())
        if any(shape.type is bool for shape in allowed):
            hint = f": write {plain}" if plain else ""
        elif _is_number(value):
            hint = ": leave the quotes out"
    elif isinstance(value, str) and told.startswith("a list"):
        hint = f": write [{value}]"
    if len(choices) > MANY and hint:
        return f"found {show(value)}{hint}"
    return f"found {show(value)}; must be {told}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(values: object, place: Trail) -> object:
    for step in place:
        values = child(values, step)
    return values


def _forget_consequences(
    wrong: dict[Trail, tuple[str, bool]], kind: type[Stage], values: dict[str, Any]
) -> None:
    """Drop what is only the other side of a fault that is told already."""
    places = list(wrong)
    for place in places:
        # A union complains about the whole as well as about the part.
        if any(other != place and other[: len(place)] == place for other in places):
            del wrong[place]
            continue
        # A misspelt key is unknown, and the key that was meant is missing.
        if wrong[place][0].startswith("missing: "):
            held = _value(values, place[:-1])
            given = list(cast("dict[str, Any]", held)) if isinstance(held, dict) else []
            strangers = [k for k in given if wrong.get((*place[:-1], k), ("", False))[1]]
            model = model_for(at((Shape(kind),), values, place[:-1]), cast("object", held))
            if model and any(nearest(k, model.model_fields) == place[-1] for k in strangers):
                del wrong[place]
