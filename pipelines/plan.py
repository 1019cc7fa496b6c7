"""What stands in a run folder, stage by stage, and what a run would do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.errors import RunError
from pipelines import lock, shards, state
from pipelines.recipe import Recipe
from pipelines.stage import Built, Stage, input_names
from pipelines.staleness import differences

State = Literal["waiting", "pending", "running", "done", "stale", "failed"]


@dataclass(frozen=True)
class Planned:
    """One stage: where it stands, and why."""

    stage: Stage
    kind: str
    state: State
    reasons: tuple[str, ...]
    """Stale: every difference. Failed and waiting: what is told. Pending: what it waits for, or how far it was."""
    inputs: tuple[str, ...]
    folder: Path
    record: state.Started | None = None
    """What it was begun with, or, when it is done, the whole record."""
    failed: state.Failed | None = None
    waiting: state.WaitingFor | None = None
    progress: state.ProgressMark | None = None
    anew: tuple[str, ...] = ()
    """What has changed since an attempt that made nothing to keep, and is therefore begun anew."""

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def done(self) -> state.Done | None:
        return self.record if isinstance(self.record, state.Done) else None


def plan(recipe: Recipe, run_dir: Path, *, aside: frozenset[str] = frozenset()) -> list[Planned]:
    """Every stage of the recipe against the run folder. Those in `aside` count as not there."""
    holder = lock.holder(run_dir)
    planned: list[Planned] = []
    for stage in recipe.stages:
        before = {item.name: item for item in planned}
        inputs = {name: before[name] for name in input_names(stage, set(before))}
        if stage.name in aside:
            planned.append(_item(stage, run_dir, inputs, "pending", ["will be built again"]))
        else:
            planned.append(_look(stage, recipe.base, run_dir, inputs, set(before), holder))
    return planned


def _item(
    stage: Stage,
    run_dir: Path,
    inputs: Mapping[str, Planned],
    found: State,
    reasons: Sequence[str],
    **more: Any,
) -> Planned:
    kind = str(getattr(stage, "kind", type(stage).__name__))
    return Planned(stage, kind, found, tuple(reasons), tuple(inputs), run_dir / stage.name, **more)


def _look(
    stage: Stage,
    base: Path,
    run_dir: Path,
    inputs: Mapping[str, Planned],
    names: set[str],
    holder: lock.Holder | None,
) -> Planned:
    folder = run_dir / stage.name
    record = state.read(folder / state.DONE, state.Done) or state.read(folder / state.STARTED, state.Started)
    open_inputs = [f"waits for {name}" for name, item in inputs.items() if item.state != "done"]
    if record is None:  # It may have failed before it could begin: an input file that is not there.
        failed = state.read(folder / state.FAILED, state.Failed)
        if failed is not None:
            return _item(stage, run_dir, inputs, "failed", [failed.what], failed=failed)
        return _item(stage, run_dir, inputs, "pending", open_inputs)
    builts = {name: _as_built(item) for name, item in inputs.items()}
    reasons = differences(stage, record, builts, base, names)
    reasons += [
        f"stages.{stage.name}: its input {name} is stale"
        for name, item in inputs.items()
        if item.state == "stale" and isinstance(record, state.Done)
    ]
    anew: tuple[str, ...] = ()
    if reasons and not isinstance(record, state.Done) and not state.worth_keeping(folder):
        anew, reasons = tuple(reasons), []
    if reasons:
        return _item(stage, run_dir, inputs, "stale", reasons, record=record)
    if isinstance(record, state.Done):
        return _item(stage, run_dir, inputs, "done", [], record=record)
    progress = state.read(folder / state.PROGRESS, state.ProgressMark)
    holder = holder or lock.holder(run_dir, stage.name)
    if holder is not None and progress is not None and progress.command == holder.id:
        far = [how_far(progress)] if progress.unit else []
        return _item(stage, run_dir, inputs, "running", far, record=record, progress=progress)
    if failed := state.read(folder / state.FAILED, state.Failed) or shards.failure(run_dir, stage):
        return _item(stage, run_dir, inputs, "failed", [failed.what], record=record, failed=failed, anew=anew)
    if (parts := shards.far(run_dir, stage)) is not None:
        at_work = any(lock.holder(run_dir, given) for given in shards.names(stage))
        return _item(stage, run_dir, inputs, "running" if at_work else "pending", [parts], record=record)
    if waiting := state.read(folder / state.WAITING, state.WaitingFor):
        return _item(
            stage, run_dir, inputs, "waiting", [waiting.what], record=record, waiting=waiting, anew=anew
        )
    far = [f"interrupted at {how_far(progress)}"] if progress and progress.unit else ["interrupted"]
    return _item(
        stage, run_dir, inputs, "pending", [*far, *open_inputs], record=record, progress=progress, anew=anew
    )


def _as_built(item: Planned) -> Built | None:
    """The input as it lies there, even a stale one: that it is stale is told on its own."""
    done = item.done
    if done is None:
        return None
    return Built(item.name, done.kind, item.folder, done.build, done.config, done.metrics)


def how_far(progress: state.ProgressMark) -> str:
    total = f"/{progress.total:g}" if progress.total else ""
    return f"{progress.done:g}{total} {progress.unit}"


def dependents(recipe: Recipe, name: str) -> list[str]:
    """The stage and every later one that reads it, directly or through others."""
    found = [name]
    for stage in recipe.stages:
        known = {earlier.name for earlier in recipe.stages} - {stage.name}
        if stage.name not in found and set(input_names(stage, known)) & set(found):
            found.append(stage.name)
    return found


def ready(planned: Sequence[Planned], name: str) -> None:
    """Refuse a single stage whose inputs are not done."""
    by_name = {item.name: item for item in planned}
    missing = [(key, by_name[key].state) for key in by_name[name].inputs if by_name[key].state != "done"]
    if missing:
        raise RunError(
            f"its inputs are not done: {', '.join(f'{key} is {found}' for key, found in missing)}",
            where=f"stages.{name}",
            way_out="Run without --only, or run those stages first.",
        )
