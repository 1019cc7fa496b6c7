"""A stage that several jobs make in parts: the names, folders and records of its shards.

Shard 2 of the stage `answers` is called `answers.2` and lies in `answers/shards/2`; a stage's name has no dot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from pipelines import state
from pipelines.recipe import Recipe
from pipelines.stage import Stage
from pipelines.state import Record
from trainers.sampling.parts import FOLDER

SHARD = "shard.json"


class ShardDone(Record):
    """A finished shard. One without this file is not finished."""

    index: int
    count: int
    metrics: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    seconds: float
    host: str
    finished: str


def name(stage: str, index: int | None) -> str:
    return stage if index is None else f"{stage}.{index}"


def parsed(given: str) -> tuple[str, int | None]:
    """A stage's name, and which shard of it is meant; None: the whole."""
    stage, dot, index = given.partition(".")
    return stage, int(index) if dot and index.isdigit() else None


def folder(run_dir: Path, given: str) -> Path:
    """Of a stage, or of a shard."""
    stage, index = parsed(given)
    return run_dir / stage if index is None else run_dir / stage / FOLDER / str(index)


def names(stage: Stage) -> list[str]:
    """Of its shards; none where it is made whole."""
    return [name(stage.name, index) for index in range(stage.shards)] if stage.shards > 1 else []


def every_name(recipe: Recipe) -> Iterator[str]:
    """Whatever of the recipe can have a job: each stage, and before it its shards."""
    for stage in recipe.stages:
        yield from names(stage)
        yield stage.name


def done(run_dir: Path, stage: Stage, index: int) -> ShardDone | None:
    """The record of a shard that is finished; one of another number of shards is none."""
    found = state.read(folder(run_dir, name(stage.name, index)) / SHARD, ShardDone)
    return found if found and (found.index, found.count) == (index, stage.shards) else None


def missing(run_dir: Path, stage: Stage) -> list[int]:
    return [index for index in range(stage.shards) if done(run_dir, stage, index) is None]


def far(run_dir: Path, stage: Stage) -> str | None:
    """How many are done, and how far the others are; None where none was begun."""
    if stage.shards < 2 or not (run_dir / stage.name / FOLDER).is_dir():
        return None
    open_ones = missing(run_dir, stage)
    told = f"{stage.shards - len(open_ones)}/{stage.shards} shards"
    for index in open_ones:
        mark = state.read(folder(run_dir, name(stage.name, index)) / state.PROGRESS, state.ProgressMark)
        if mark and mark.unit:
            told += f"; {name(stage.name, index)}: {mark.done:g}/{mark.total or 0:g} {mark.unit}"
    return told


def failure(run_dir: Path, stage: Stage) -> state.Failed | None:
    """Of the first shard that failed and was not made since."""
    for given in names(stage):
        failed = state.read(folder(run_dir, given) / state.FAILED, state.Failed)
        if failed is not None:
            shown = f"shard {parsed(given)[1]}: {failed.what}"
            return failed.model_copy(update={"what": shown})
    return None
