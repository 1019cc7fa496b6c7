"""A run folder read for the report: every stage with what it left, and what is damaged told instead of raised."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from data.errors import RecipeError, RunError, UserError
from pipelines import lock, state
from pipelines.recipe import from_json
from pipelines.report.history import History, read_history
from pipelines.stage import input_names

Stand = Literal["done", "running", "failed", "waiting", "interrupted", "damaged", "pending"]
Kind = TypeVar("Kind", bound=state.Record)
Row = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """One stage of the run, as far as its files tell."""

    name: str
    kind: str
    stand: Stand
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    """Earlier stages that it reads."""
    folder: Path
    begun: state.Started | None = None
    done: state.Done | None = None
    failed: state.Failed | None = None
    waiting: state.WaitingFor | None = None
    progress: state.ProgressMark | None = None
    history: History = field(default_factory=History)
    ledgers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    faults: tuple[str, ...] = ()
    """What of its files cannot be read."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.done.metrics if self.done else {}

    def first(self, key: str) -> Any:
        """A figure of the record, or of the event that told it, for a stage that is not done."""
        if key in self.metrics:
            return self.metrics[key]
        return next((event.values[key] for event in self.history.events if key in event.values), None)


@dataclass(frozen=True)
class RunRecord:
    """A run: its recipe and its stages in the recipe's order."""

    name: str
    folder: Path
    description: str
    recipe_path: str
    base: str
    """The recipe's folder, where its files are."""
    recipe_text: str | None
    stages: tuple[Recorded, ...]
    commands: tuple[Row, ...] = ()
    faults: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    def stage(self, name: object) -> Recorded | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def of(self, *kinds: str) -> list[Recorded]:
        return [stage for stage in self.stages if stage.kind in kinds]

    def reached(self, stage: Recorded) -> list[Recorded]:
        """The stage and all that it was made from, earliest first."""
        wanted = {stage.name}
        for one in reversed(self.stages):
            if one.name in wanted:
                wanted |= set(one.inputs)
        return [one for one in self.stages if one.name in wanted]


def gather(run_dir: Path) -> RunRecord:
    """Everything the page shows but the rows, which its parts read. Raises only where there is no run at all."""
    faults: list[str] = []
    raw: Mapping[str, Any] = {}
    try:
        raw = mapping(state.read_json(run_dir / state.RECIPE))
    except RunError as fault:
        faults.append(fault.what + f" ({state.RECIPE})")
    configs = [mapping(one) for one in listing(raw.get("stages"))]
    configs = [one for one in configs if isinstance(one.get("name"), str)]
    if not configs:
        found = {p.parent for name in (state.STARTED, state.DONE) for p in run_dir.glob(f"*/{name}")}
        if not found:
            raise RunError(
                "there is no run here",
                where=str(run_dir),
                way_out="`heliograph run RECIPE` makes one; --runs-dir says where the runs are.",
            )
        faults.append(f"{state.RECIPE} is missing or empty: the stages are those whose folders are there")
        configs = sorted(map(_begun_with, found), key=lambda config: (config["began"], config["name"]))
    known = _inputs(raw, configs)
    holder = lock.holder(run_dir)
    stages = tuple(_look(run_dir, config, known[str(config["name"])], holder) for config in configs)
    return RunRecord(
        name=run_dir.resolve().name,
        folder=run_dir,
        description=str(raw.get("description") or ""),
        recipe_path=str(raw.get("path") or ""),
        base=str(raw.get("base") or ""),
        recipe_text=_text(run_dir / "recipe.yaml", faults),
        stages=stages,
        commands=tuple(islice(rows(run_dir / state.COMMANDS, faults), 200)),
        faults=tuple(faults),
        notices=tuple(str(line) for line in listing(raw.get("notices"))),
    )


def _begun_with(folder: Path) -> Mapping[str, Any]:
    """What the stage's own record says of it, for a run whose recipe is lost."""
    begun: state.Started | None = None
    for name in (state.STARTED, state.DONE):
        with contextlib.suppress(RunError):  # `_look` tells what is wrong with it.
            begun = begun or state.read(folder / name, state.Started)
    known = begun.config if begun else {}
    kind, began = (begun.kind, begun.started) if begun else ("unknown", "")
    return {**known, "name": folder.name, "kind": kind, "began": began}


def _inputs(raw: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """By stage; from the recipe as it is understood, or, of one that another version wrote, by the names in it."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        for stage in from_json(raw).stages:
            found[stage.name] = tuple(input_names(stage, set(found)))
    except (RecipeError, UserError):
        found.clear()
        for config in configs:
            said = {text for key, value in config.items() if key != "name" for text in _texts(value)}
            found[str(config["name"])] = tuple(name for name in found if name in said)
    return found


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in cast("Mapping[object, object]", value).values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _texts(one)


def _look(
    run_dir: Path, config: Mapping[str, Any], inputs: tuple[str, ...], holder: lock.Holder | None
) -> Recorded:
    folder = run_dir / str(config["name"])
    faults: list[str] = []

    def read(name: str, kind: type[Kind]) -> Kind | None:
        try:
            return state.read(folder / name, kind)
        except RunError as fault:
            faults.append(f"{name}: {fault.what}")
            return None

    done = read(state.DONE, state.Done)
    begun = done or read(state.STARTED, state.Started)
    failed, waiting = read(state.FAILED, state.Failed), read(state.WAITING, state.WaitingFor)
    progress = read(state.PROGRESS, state.ProgressMark)
    history = read_history(folder / state.METRICS)
    faults += history.faults
    ledgers: Mapping[str, Any] = {}
    try:
        ledgers = mapping(state.read_json(folder / state.LEDGER))
    except RunError as fault:
        faults.append(f"{state.LEDGER}: {fault.what}")
    stand: Stand = "pending"
    holder = holder or (lock.holder(run_dir, folder.name) if folder.is_dir() else None)
    if done is not None:
        stand = "done"
    elif any(fault.startswith((f"{state.DONE}:", f"{state.STARTED}:")) for fault in faults):
        stand = "damaged"
    elif holder is not None and progress is not None and progress.command == holder.id:
        stand = "running"
    elif failed is not None:
        stand = "failed"
    elif waiting is not None:
        stand = "waiting"
    elif begun is not None:
        stand = "interrupted"
    return Recorded(
        name=folder.name,
        kind=str(config.get("kind") or (begun.kind if begun else "unknown")),
        stand=stand,
        config={**config, **(begun.config if begun else {})},
        inputs=inputs,
        folder=folder,
        begun=begun,
        done=done,
        failed=failed,
        waiting=waiting,
        progress=progress,
        history=history,
        ledgers=ledgers,
        faults=tuple(faults),
    )


def _text(path: Path, faults: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as fault:
        faults.append(f"{path.name} cannot be read: {fault}")
        return None


def rows(path: Path, faults: list[str]) -> Iterator[Row]:
    """The objects of a JSONL file; an absent file has none, and lines that cannot be read are counted."""
    bad = 0
    try:
        with path.open("rb") as lines:
            for raw in lines:
                if not raw.strip():
                    continue
                try:
                    value: object = json.loads(raw)
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict):
                    yield cast("Row", value)
                else:
                    bad += 1
    except FileNotFoundError:
        return
    except OSError as fault:
        faults.append(f"{path.parent.name}/{path.name} cannot be read: {fault.strerror}")
    if bad:
        faults.append(f"{path.parent.name}/{path.name}: {bad} lines are no JSON objects")


def values(path: Path, faults: list[str]) -> Mapping[str, Any]:
    """A JSON object from a file of a stage; empty where there is none, and told where it is damaged."""
    try:
        return mapping(state.read_json(path))
    except RunError as fault:
        faults.append(f"{path.parent.name}/{path.name}: {fault.what}")
        return {}


def mapping(value: object) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def listing(value: object) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []
