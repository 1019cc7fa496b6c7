"""Whether what lies in a stage's folder is what the recipe asks for now: the differences, one line each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from data.errors import DataError, UserError
from pipelines.recipe import cosmetic_keys, resolved
from pipelines.stage import Built, Stage
from pipelines.state import FileMark, Started, plain
from trainers.config import COSMETIC

ABSENT = object()
SHOWN = 60


def differences(
    stage: Stage,
    record: Started,
    inputs: Mapping[str, Built | None],
    base: Path,
    names: set[str],
) -> list[str]:
    """What was recorded against what is asked for now; empty when the stage is still what it was.

    `inputs` are the stages it reads as they are now, `names` all stages before it.
    """
    present = plain(resolved(stage))
    cosmetic = cosmetic_keys(stage)
    then = {key: value for key, value in record.config.items() if key not in cosmetic}
    now = {key: value for key, value in present.items() if key not in cosmetic}
    lines = list(_changed(then, now, stage, f"stages.{stage.name}"))
    for name, found in inputs.items():
        if name not in record.inputs:
            continue  # The value that names it has changed, and is told already.
        if found is None:
            lines.append(f"stages.{stage.name}: its input {name} is not finished")
        elif found.build != record.inputs[name]:
            lines.append(f"stages.{stage.name}: its input {name} was rebuilt")
    if not lines:  # Other sources have other files: saying so twice helps nobody.
        lines += _file_changes(stage, record, base, names)
    return lines


def _changed(then: Any, now: Any, model: object, path: str) -> Iterator[str]:
    """`model` is the value that `now` was written from: it knows the defaults."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        old, new = cast("Mapping[str, object]", then), cast("Mapping[str, object]", now)
        for key in dict.fromkeys((*old, *new)):
            if _is_cosmetic(model, key):
                continue
            if key not in old and _is_default(model, key, new[key]):
                continue  # A key that a later version brought, and that the recipe leaves alone.
            below = _below(model, key)
            yield from _changed(old.get(key, ABSENT), new.get(key, ABSENT), below, f"{path}.{key}")
        return
    if isinstance(then, list) and isinstance(now, list):
        olds, news = cast("list[object]", then), cast("list[object]", now)
        if len(olds) == len(news) and all(isinstance(v, Mapping) for v in (*olds, *news)):
            for i, (old, new) in enumerate(zip(olds, news, strict=True)):
                yield from _changed(old, new, _below(model, i), f"{path}[{i}]")
            return
    if then != now or isinstance(then, bool) != isinstance(now, bool):  # 1 == True in Python, not in JSON.
        yield f"{path}: {_shown(then)} -> {_shown(now)}"


def _below(model: object, key: str | int) -> object:
    if isinstance(model, BaseModel) and isinstance(key, str):
        return getattr(model, key, None)
    if isinstance(model, Mapping):
        return cast("Mapping[object, object]", model).get(key)
    if isinstance(model, tuple | list) and isinstance(key, int):
        items = cast("tuple[object, ...]", model)
        return items[key] if key < len(items) else None
    return None


def _is_cosmetic(model: object, key: str) -> bool:
    field = type(model).model_fields.get(key) if isinstance(model, BaseModel) else None
    return field is not None and field.json_schema_extra == COSMETIC


def _is_default(model: object, key: str, value: object) -> bool:
    if not isinstance(model, BaseModel) or key not in type(model).model_fields:
        return False
    field = type(model).model_fields[key]
    default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    return not field.is_required() and plain(default) == value


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "(not set)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def input_files(
    stage: Stage, base: Path, names: set[str], old: Mapping[str, FileMark] | None = None
) -> dict[str, FileMark]:
    """A mark for every local file the stage reads; one whose size and time are those of `old` is not read."""
    found = {_key(path, base): path for path in stage.files(base, names)}
    return {key: _mark(path, (old or {}).get(key)) for key, path in found.items()}


def _key(path: Path, base: Path) -> str:
    relative = os.path.relpath(path.absolute(), base.absolute())
    near = not relative.startswith(os.path.join("..", "..", ".."))
    return Path(relative).as_posix() if near else path.absolute().as_posix()


def _mark(path: Path, old: FileMark | None) -> FileMark:
    try:
        stat = path.stat()
        if old is not None and (stat.st_size, stat.st_mtime_ns) == (old.size, old.mtime_ns):
            return old
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise DataError(
            f"cannot be read: {fault.strerror}", where=_place(path), way_out="Check the path in the recipe."
        ) from fault
    return FileMark(sha256=digest, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def _file_changes(stage: Stage, record: Started, base: Path, names: set[str]) -> list[str]:
    try:
        present = input_files(stage, base, names, record.files)
    except UserError as fault:
        return [f"{fault.where or f'stages.{stage.name}'}: {fault.what}"]
    lines: list[str] = []
    for key in dict.fromkeys((*record.files, *present)):
        place = _place(base / key)
        if key not in present:
            lines.append(f"{place}: no longer among the input files")
        elif key not in record.files:
            lines.append(f"{place}: a new input file")
        elif present[key].sha256 != record.files[key].sha256:
            lines.append(f"{place}: content changed")
    return lines


def _place(path: Path) -> str:
    """As a person would type it from here."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else os.path.abspath(path)
