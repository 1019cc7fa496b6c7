"""A preference stage's `loss:` judged where it stands in the recipe: its formulas, its numbers, what it excludes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from data.errors import RecipeError
from pipelines.reading.faults import Trail
from pipelines.reading.stage_values import Placed
from pipelines.reading.tree import Tree
from trainers.config import SymbolicLoss

TWICE = ("beta", "sft_weight")
"""Settings that may stand on the stage or in its loss."""


def check_stated(tree: Tree, one: Placed) -> None:
    """Every fault of the loss; of one that pydantic has refused, those of its neighbours alone."""
    given: object = one.values.get("loss")
    if given is None:
        return
    from trainers.logic.stated import (  # the logic, where it is used
        BELONGS_ELSEWHERE,
        excluded,
        state,
        text_faults,
    )

    for key in ("loss_type", *BELONGS_ELSEWHERE):
        if one.values.get(key) is not None and key not in one.wrong:
            tree.fault(one.at(key), excluded(key), key=True)
    parts = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {"formula": given}
    for key in TWICE:
        if parts.get(key) is not None and one.values.get(key) is not None:
            tree.fault(one.at(key), f"`loss` has its own `{key}` here: keep one", key=True)
    if "loss" in one.wrong:
        return
    try:
        options = SymbolicLoss.model_validate(given)
    except ValidationError:  # told already, key by key
        return
    faults = text_faults(options)
    for key, broken in faults:
        message = broken.what + (f"; {broken.hint}" if broken.hint else "")
        tree.fault_inside(_at(one, parts is given, key), broken.position, message)
    if faults:
        return
    try:
        state(options)
    except RecipeError as refused:
        key = (refused.where or "").removeprefix("loss.")
        message = refused.what + (f"; {' '.join(refused.way_out.split())}" if refused.way_out else "")
        tree.fault(_at(one, parts is given, key if key in parts else "formula"), message)


def _at(one: Placed, mapping: bool, key: str) -> Trail:
    """A loss that is written as its formula alone has no keys to point at."""
    return one.at("loss", key) if mapping else one.at("loss")
