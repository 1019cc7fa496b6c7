"""`training:`, checked against the config class of the installed TRL that it goes to."""

from __future__ import annotations

from typing import Any, cast

from pipelines.reading.faults import Trail, did_you_mean, nearest, show
from pipelines.reading.shapes import field_shapes
from pipelines.reading.tree import Tree
from pipelines.stage import Stage
from pipelines.stages import KINDS
from trainers.training.trl_fields import CONFIGS, ConfigName, fields

MANY = 8
"""Of more choices than these, the nearest is told alone."""


def config_of(kind: type[Stage]) -> ConfigName | None:
    return next((CONFIGS[name] for name, one in KINDS.items() if one is kind and name in CONFIGS), None)


def trl_field(kind: type[Stage], key: str, *, near: bool = False) -> str | None:
    """The setting of TRL's that `key` is, or with `near` probably was meant to be."""
    config = config_of(kind)
    names = [name for name in fields(config) if name not in kind.model_fields] if config else []
    return nearest(key, names) if near else (key if key in names else None)


def check_training(tree: Tree, trail: Trail, kind: type[Stage], values: dict[str, Any]) -> None:
    """Names, types and choices. Ranges are TRL's own business."""
    config = config_of(kind)
    if config is None:
        return
    known = fields(config)
    given: object = values.get("training")
    training = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    if not known:
        if training:
            tree.notice((*trail, "training"), "not checked: TRL is not installed here")
        return
    for key, value in training.items():
        place = (*trail, "training", key)
        if key not in known:
            own = nearest(key, kind.model_fields)
            told = did_you_mean(key, [name for name in known if name not in kind.model_fields])
            hint = told or (f"; did you mean {own}, on the stage itself?" if own else "")
            tree.fault(place, f"unknown key: {config} of TRL has no such setting{hint}", key=True)
        elif allowed := known[key].refusal(value):
            _refuse(tree, place, value, allowed, known[key].choices)
    for key, value in values.items():
        # Where our type is any text, TRL's list of names decides.
        field = kind.model_fields.get(key)
        if field and key in known and known[key].choices and isinstance(value, str):
            if [shape.type for shape in field_shapes(field)] != [str]:
                continue
            if allowed := known[key].refusal(value):
                _refuse(tree, (*trail, key), value, allowed, known[key].choices)


def _refuse(tree: Tree, place: Trail, value: object, allowed: str, choices: tuple[str, ...] | None) -> None:
    hint = did_you_mean(value, choices) if isinstance(value, str) and choices else ""
    told = hint if hint and choices and len(choices) > MANY else f"; must be {allowed}{hint}"
    tree.fault(place, f"found {show(value)}{told}")
