"""The imported stage as a recipe's text, judged by our own reader before it is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml

from data.errors import RecipeError
from pipelines.importing.engine import Imported
from pipelines.importing.rules import VERDICTS, Told
from pipelines.reading.faults import Fault
from pipelines.reading.refs import NO_FILE, NO_FOLDER, NO_STAGE
from pipelines.recipe import RecipeFaults, check

WIDTH = 110
DATA = ("data", "pairs", "eval_data", "eval_pairs")
MISSING = (NO_FILE, NO_FOLDER, NO_STAGE)
"""How our reader begins to say that a file or model is not here: the recipe is right all the same."""


@dataclass(frozen=True)
class Written:
    """A recipe that our reader takes, and the account of every key."""

    text: str
    told: tuple[Told, ...]
    imported: Imported


def write(found: Imported, name: str, base: Path) -> Written:
    """`base`: the folder that the recipe is for. What our reader refuses is dropped, and told with its words."""
    found = _localised(found, base)
    told = list(found.told)
    stage = dict(found.stage)
    for _ in range(len(stage) + 1):
        text = render(replace(found, stage=stage, told=tuple(told)), name)
        faults = _faults(text, base)
        refused = [fault for fault in faults if not fault.message.startswith(MISSING)]
        missing = [fault for fault in faults if fault.message.startswith(MISSING)]
        if not refused:
            known = {one.why for one in told}
            told += [
                Told(_key_of(one), "by hand", why=one.message) for one in missing if one.message not in known
            ]
            order = list(VERDICTS)
            told.sort(key=lambda one: order.index(one.verdict))
            return Written(render(replace(found, stage=stage, told=tuple(told)), name), tuple(told), found)
        for fault in refused:
            _take_out(stage, told, fault, text)
    raise RecipeError("no recipe of it passes", where=str(found.file))


def _faults(text: str, base: Path) -> tuple[Fault, ...]:
    """Read in the folder that it is for: paths in it start there."""
    where = base if base.is_dir() else Path.cwd()
    handle, name = tempfile.mkstemp(prefix=".import-", suffix=".yaml", dir=where)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return check(name).faults
    finally:
        os.unlink(name)


def _key_of(fault: Fault) -> str:
    return ".".join(fault.path.split(".")[2:]) or fault.path


def _take_out(stage: dict[str, Any], told: list[Told], fault: Fault, text: str) -> None:
    keys = _key_of(fault).split(".")
    needed = ("name", "kind", "model", "data", "pairs")
    if keys[0] in needed or keys[0] not in stage:
        raise RecipeFaults("the imported recipe", [replace(fault, message=f"{fault.message}\n\n{text}")])
    if keys[0] == "training" and len(keys) > 1:
        inner = dict(cast("dict[str, Any]", stage["training"]))
        value = inner.pop(keys[1], None)
        stage["training"] = inner
        if not inner:
            del stage["training"]
        to = f"training.{keys[1]}"
    else:
        value, to = stage.pop(keys[0]), keys[0]
    theirs = [one for one in told if one.to == to]
    told[:] = [one for one in told if one.to != to]
    name = theirs[0].key if theirs else to
    told.append(
        Told(
            name,
            "by hand",
            theirs[0].value if theirs else value,
            to,
            f"our reader refuses it: {fault.message}",
        )
    )


def _localised(found: Imported, base: Path) -> Imported:
    """Local paths start at the recipe's folder here, at the folder of the command there."""
    stage, told = dict(found.stage), list(found.told)
    for key in DATA:
        if key in stage:
            stage[key] = [
                _moved(source, key, base, told) for source in cast("list[dict[str, Any]]", stage[key])
            ]
    model = stage.get("model")
    if isinstance(model, str) and Path(model).is_dir() and not (base / model).is_dir():
        stage["model"] = os.path.relpath(model, base)
        told.append(Told("model", "changed", model, "model", "paths start at the recipe's folder"))
    return replace(found, stage=stage, told=tuple(told))


def _moved(source: Mapping[str, Any], key: str, base: Path, told: list[Told]) -> dict[str, Any]:
    path = str(source["path"])
    if not Path(path).exists() or ((base / path).exists() and not os.path.isabs(path)):
        return dict(source)
    moved = os.path.relpath(path, base)
    told.append(
        Told(f"{key}.path", "changed", path, key, f"written as {moved}: paths start at the recipe's folder")
    )
    return {**source, "path": moved}


def render(found: Imported, name: str) -> str:
    """One stage, each key with the name that it had."""
    theirs: dict[str, Told] = {}
    for one in found.told:
        for to in (one.to or "").split(", "):
            if to not in ("", "name", "split", "path") and one.verdict in ("renamed", "changed", "default"):
                theirs.setdefault(to, one)
    hands = [one for one in found.told if one.verdict == "by hand"]
    lines = [f"# From {found.file.name}, a file of {found.source.title}."]
    if hands:
        lines += ["# Left to do, before it does the same:"]
        for one in hands:
            lines += _wrapped(f"{one.key}{_value(one)}: {one.why}")
    lines += ["", f"recipe: {name}", f"description: Imported from {found.source.title}", "", "stages:"]
    for number, (key, value) in enumerate(found.stage.items()):
        lead = "  - " if number == 0 else "    "
        if key in DATA:
            lines += _sources(key, cast("list[dict[str, Any]]", value))
        elif isinstance(value, dict):
            lines.append(f"    {key}:")
            for inner, given in cast("dict[str, Any]", value).items():
                lines.append(f"      {inner}: {_yaml(given)}{_comment(theirs.get(f'{key}.{inner}'), inner)}")
        else:
            lines.append(f"{lead}{key}: {_yaml(value)}{_comment(theirs.get(key), key)}")
    return "\n".join(lines) + "\n"


def _sources(key: str, sources: list[dict[str, Any]]) -> Iterator[str]:
    if len(sources) == 1:
        yield f"    {key}: {_source(sources[0])}"
        return
    yield f"    {key}:"
    yield from (f"      - {_source(source)}" for source in sources)


def _source(source: Mapping[str, Any]) -> str:
    return _yaml(source["path"] if list(source) == ["path"] else dict(source))


def _yaml(value: Any) -> str:
    if isinstance(value, float) and 0 < abs(value) < 0.001:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if isinstance(value, float):
        return repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(told: Told | None, key: str) -> str:
    if told is None:
        return ""
    if told.verdict == "default":
        return "    # the default there"
    return "" if told.key == key else f"    # {told.key}"


def _value(told: Told) -> str:
    if told.value is None or told.key.startswith("("):
        return ""
    text = _yaml(told.value)
    return f" ({text if len(text) <= 40 else text[:37] + '...'})"


def _wrapped(text: str) -> Iterator[str]:
    """A comment's lines; the second and later ones are set in."""
    line = "#   -"
    for word in " ".join(text.split()).split(" "):
        if len(line) + 1 + len(word) > WIDTH:
            yield line
            line = "#    "
        line += f" {word}"
    yield line
