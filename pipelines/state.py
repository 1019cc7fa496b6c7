"""The run folder as state: one JSON file for each thing that happened to a stage, `done.json` written last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import DataError, RunError
from data.jsonl import replacing
from pipelines.stage import Built
from trainers.work import SCRATCH

STARTED = "started.json"
DONE = "done.json"
FAILED = "failed.json"
WAITING = "waiting.json"
PROGRESS = "progress.json"
LOG = "log.txt"
METRICS = "metrics.jsonl"
TRACE = "trace.txt"
LEDGER = "ledger.json"
RECIPE = "recipe.json"
COMMANDS = "commands.jsonl"
"""The commands that worked on a run, oldest first."""
REPLACED = ".replaced"
FORMAT = 1


class Record(BaseModel):
    """What every state file has in common; keys of a later version are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: int = FORMAT


class FileMark(Record):
    """How a file looked when it was read; the sum is compared only when size or time differ."""

    sha256: str
    size: int
    mtime_ns: int


class Started(Record):
    """What a stage was begun with. It is written once: a continued attempt keeps it."""

    name: str
    kind: str
    build: str
    """Names this attempt: later stages record which build they read."""
    config: dict[str, Any]
    inputs: dict[str, str] = Field(default_factory=dict[str, str])
    """Earlier stages and their builds."""
    files: dict[str, FileMark] = Field(default_factory=dict[str, FileMark])
    """Input files by their path, relative to the recipe's folder where they lie near it."""
    seed: int | None = None
    started: str


class Done(Started):
    """A finished stage. A stage without this file is not finished."""

    resolved: dict[str, Any] = Field(default_factory=dict[str, Any])
    """What each `auto` became, and why."""
    metrics: dict[str, Any]
    versions: dict[str, str] = Field(default_factory=dict[str, str])
    device: str = ""
    commit: dict[str, Any] | None = None
    """The git commit of the recipe's folder, and whether files in it were changed."""
    finished: str
    seconds: float
    """Of the attempt that finished; `started` is the first attempt's."""
    peak_memory: dict[str, int] = Field(default_factory=dict[str, int])
    """Bytes at most: `rss` of the process, `gpu` where there is one."""


class Failed(Record):
    """Why the last attempt ended."""

    what: str
    where: str | None = None
    way_out: str | None = None
    trace: str | None = None
    """The file with the traceback, when it was a crash."""
    time: str
    exit: int


class WaitingFor(Record):
    """What people have not given yet."""

    what: str
    how: str
    time: str


class ProgressMark(Record):
    """How far a stage is. `command` is that of the lock it runs under."""

    command: str
    done: float = 0
    total: float | None = None
    unit: str = ""
    figures: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    time: str


Kind = TypeVar("Kind", bound=Record)


def read(path: Path, kind: type[Kind]) -> Kind | None:
    """The record in the file; None when there is none. Whatever else stands there is an error with a way out."""
    value = read_json(path)
    if value is None:
        return None
    try:
        record = kind.model_validate(value)
    except ValidationError as broken:
        first = broken.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise _corrupt(path, f"{place}: {first['msg']}") from broken
    if record.format > FORMAT:
        raise RunError(
            f"written by a later version (format {record.format}, this one reads up to {FORMAT})",
            where=str(path),
            way_out="Use the version that wrote it, or another run: --name NEW.",
        )
    return record


def read_json(path: Path) -> object:
    """Any JSON value but null; None when there is no file."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise RunError(
            f"cannot be read: {fault.strerror}", where=str(path), way_out="Check the file's permissions."
        ) from fault
    except (json.JSONDecodeError, UnicodeDecodeError) as broken:
        raise _corrupt(path, str(broken)) from broken
    except RecursionError as broken:
        raise _corrupt(path, "nested too deeply") from broken
    if value is None:
        raise _corrupt(path, "it holds null")
    return value


def _corrupt(path: Path, why: str) -> RunError:
    again = f"`heliograph run RECIPE --from {path.parent.name}` sets the stage aside and builds it again."
    if path.name == DONE:
        way_out = f"Delete that file to go on from what the stage left behind, or begin anew: {again}"
    elif path.name == STARTED:
        way_out = f"What the stage was begun with is lost: {again}"
    elif path.name == RECIPE:
        way_out = "Delete it: `heliograph run` writes it again from the recipe."
    else:
        way_out = "Delete it: it says only how the last attempt ended or how far it was."
    return RunError(f"the state file is corrupt or half-written ({why})", where=str(path), way_out=way_out)


def write(path: Path, record: Record) -> None:
    """Written aside, synced, and put in place in one step."""
    write_json(path, record.model_dump(mode="json"))


def write_json(path: Path, value: object) -> None:
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        with replacing(path) as file:
            file.write(text.encode() + b"\n")
    except DataError as fault:  # The same fault, but of the run and not of its data.
        raise RunError(fault.what, where=fault.where, way_out=fault.way_out) from fault


def write_light(path: Path, record: Record) -> None:
    """As `write`, without waiting for the disk: for what may be lost in a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(json.dumps(plain(record.model_dump()), allow_nan=False) + "\n", encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def plain(value: object) -> Any:
    """The value as JSON can hold it: arrays' numbers as numbers, paths as text, what is not finite as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in cast("list[object]", value)]
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    numbers: Any = getattr(value, "tolist", None)  # Of numpy or torch, neither of which is imported here.
    return plain(numbers()) if callable(numbers) else str(value)


def worth_keeping(folder: Path) -> bool:
    """Whether an unfinished attempt made more than tokenised rows: what it began with may not change then."""
    cheap = {STARTED, FAILED, WAITING, PROGRESS, LOG, METRICS, TRACE, LEDGER, SCRATCH}
    if any(entry.name not in cheap for entry in folder.iterdir()):
        return True
    scratch = folder / SCRATCH
    return any(path.is_file() and path.suffix != ".arrow" for path in scratch.rglob("*"))


def clear(folder: Path) -> None:
    """Make room for an attempt with other values. `started.json` goes last: until then the next try clears too."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for name in (LEDGER, METRICS, PROGRESS, STARTED):
        remove(folder / name)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_build(config: Mapping[str, Any], inputs: Mapping[str, str], files: Mapping[str, FileMark]) -> str:
    """Twelve hex digits. The time is in it: a stage that is built again is another build, though nothing changed."""
    sums = {path: mark.sha256 for path, mark in files.items()}
    seen = json.dumps([plain(config), dict(inputs), sums, time.time_ns()], sort_keys=True)
    return hashlib.sha256(seen.encode()).hexdigest()[:12]


def built(run_dir: Path, name: str) -> Built | None:
    """A finished stage, as later ones see it."""
    done = read(run_dir / name / DONE, Done)
    if done is None:
        return None
    return Built(
        name=done.name,
        kind=done.kind,
        path=run_dir / name,
        build=done.build,
        config=done.config,
        metrics=done.metrics,
    )
