"""From a recipe's text to each stage's own values: old names read as today's, and defaults spread."""

from __future__ import annotations

from typing import Any, cast

from pipelines.reading import old_names
from pipelines.reading.faults import Trail, did_you_mean, show
from pipelines.reading.old_names import Refused, Renamed
from pipelines.reading.shapes import Shape, at, field_shapes, model_for, models, tag_of
from pipelines.reading.tree import Tree
from pipelines.stage import Stage
from pipelines.stages import KINDS
from trainers.training.trl_fields import CONFIGS, fields

ANY_KIND: dict[str, type[Stage]] = {key: kind for kind in KINDS.values() for key in kind.model_fields}
"""Every key of any kind of stage, with one kind that has it."""


def kind_of(entry: dict[str, Any]) -> type[Stage] | None:
    kind = entry.get("kind")
    return KINDS.get(kind) if isinstance(kind, str) else None


def shapes_of(holder: type[Stage] | None, key: str) -> tuple[Shape, ...]:
    kind = holder or ANY_KIND.get(key)
    field = kind.model_fields.get(key) if kind else None
    return field_shapes(field) if field else ()


def modernise(tree: Tree) -> None:
    """Old names in `defaults:` and in every stage whose kind is known."""
    if isinstance(tree.value.get("defaults"), dict):
        _modernise(tree, tree.value["defaults"], ("defaults",), None)
    for index, entry in tree.stages():
        if kind := kind_of(entry):
            _modernise(tree, entry, ("stages", index), kind)


def _modernise(tree: Tree, entry: dict[str, Any], trail: Trail, kind: type[Stage] | None) -> None:
    known = kind.model_fields if kind else ANY_KIND
    training = entry.get("training")
    inner = (
        list(cast("dict[str, Any]", training)) if isinstance(training, dict) and "training" in known else []
    )
    for below in [*((key,) for key in entry if key not in known), *(("training", key) for key in inner)]:
        holder = entry if len(below) == 1 else entry["training"]
        found = old_names.modern(below[-1], holder[below[-1]], known, training=len(below) == 2)
        if found is None:
            continue
        del holder[below[-1]]
        if isinstance(found, Refused):
            tree.fault(trail + below, found.message, key=True)
        else:
            _put_renamed(tree, entry, trail, below, found)
    for key, value in entry.items():
        tell_tag(shapes_of(kind, key), value)


def _put_renamed(tree: Tree, entry: dict[str, Any], trail: Trail, old: Trail, found: Renamed) -> None:
    holder: Any = entry
    for step in found.trail[:-1]:
        holder = holder.setdefault(step, {})
    name = found.trail[-1]
    if not isinstance(holder, dict):
        return  # `training: 3` is a fault of its own
    if name in holder:
        tree.fault(
            trail + old,
            f"another name of `{'.'.join(found.trail)}`, which stands here too: keep one",
            key=True,
        )
        return
    holder[name] = found.value
    tree.moved(trail + found.trail, trail + old)
    if found.notice:
        tree.notice(trail + old, found.notice)


def tell_tag(alternatives: tuple[Shape, ...], value: object) -> None:
    """Write out `kind: rubric` where one model of a union is the only one with the keys given."""
    given = cast("dict[str, Any]", value if isinstance(value, dict) else {})
    if not given or len(models(alternatives)) < 2 or model_for(alternatives, given):
        return
    fitting: list[tuple[str, str]] = []
    for model in models(alternatives):
        needed = {name for name, field in model.model_fields.items() if field.is_required()}
        tag = tag_of(model)
        if tag and tag[0] not in given and needed and needed <= set(given):
            fitting.append(tag)
    if len(fitting) == 1:
        given[fitting[0][0]] = fitting[0][1]


def spread_defaults(tree: Tree) -> list[tuple[int, dict[str, Any]]]:
    """Each stage's values with the defaults in them; its own win, and mappings are merged key by key."""
    defaults = _checked_defaults(tree)
    used: set[str] = set()
    merged: list[tuple[int, dict[str, Any]]] = []
    for index, entry in tree.stages():
        whole = dict(entry)
        if kind := kind_of(entry):
            mine = {key: value for key, value in defaults.items() if key in kind.model_fields}
            used |= set(mine)
            _merge(tree, whole, mine, ("stages", index), ("defaults",), kind)
        merged.append((index, whole))
    for key in defaults.keys() - used if merged else ():
        tree.notice(("defaults", key), "no stage of this recipe has this key")
    return merged


def _checked_defaults(tree: Tree) -> dict[str, Any]:
    defaults: object = tree.value.get("defaults")
    if defaults is None:
        return {}
    if not isinstance(defaults, dict):
        tree.fault(("defaults",), f"found {show(defaults)}; must be a mapping of keys that stages have")
        return {}
    known: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", defaults).items():
        if key in ("name", "kind"):
            tree.fault(("defaults", key), "every stage has its own", key=True)
        elif key in ANY_KIND:
            known[key] = value
        elif any(key in fields(config) for config in CONFIGS.values()):
            tree.fault(("defaults", key), "a setting of TRL's: write it under `training:`", key=True)
        else:
            names = [name for name in ANY_KIND if name not in ("name", "kind")]
            tree.fault(
                ("defaults", key), "unknown key: no kind of stage has it" + did_you_mean(key, names), key=True
            )
    return known


def _merge(
    tree: Tree, own: dict[str, Any], default: dict[str, Any], to: Trail, source: Trail, kind: type[Stage]
) -> None:
    for key, value in default.items():
        if key not in own:
            if source == ("defaults", "training") and _of_other_kind(key, kind):
                continue
            if key == "training" and len(to) == 2 and isinstance(value, dict):
                own[key] = {}
                _merge(tree, own[key], cast("dict[str, Any]", value), (*to, key), (*source, key), kind)
                continue
            own[key] = value
            tree.moved((*to, key), (*source, key))
        elif isinstance(own[key], dict) and isinstance(value, dict):
            place = at((Shape(kind),), {**own}, (key,)) if len(to) == 2 else ()
            mine, theirs = cast("dict[str, Any]", own[key]), cast("dict[str, Any]", value)
            if model_for(place, mine) is model_for(place, theirs):  # else they are values of two types
                own[key] = dict(mine)
                _merge(tree, own[key], theirs, (*to, key), (*source, key), kind)


def _of_other_kind(key: str, kind: type[Stage]) -> bool:
    """Whether a default of `training:` is for another kind of stage: not every key of DPOConfig is one of SFTConfig."""
    mine = CONFIGS.get(next(name for name, one in KINDS.items() if one is kind))
    others = [config for config in CONFIGS.values() if config != mine]
    return mine is not None and key not in fields(mine) and any(key in fields(config) for config in others)
