"""What a stage is: a frozen value that names its inputs and knows how to run once they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from data.sources import Mixture, Source
from data.sources import files as source_files
from pipelines.cluster.resources import Resources
from trainers.aliases import is_alias
from trainers.config import COSMETIC, Closed
from trainers.radio.aliases import is_reranker_alias
from trainers.radio.encoders import is_encoder_alias
from trainers.work import Work

Metrics = dict[str, Any]
ROWS = "rows.jsonl"
"""Where every stage that makes rows puts them."""
MODEL = "model"
"""Where every stage that makes a model puts it."""
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model")
ALIASED: Mapping[str, Callable[[str], bool]] = {
    "model": is_alias,
    "reranker": is_reranker_alias,
    "encoder": is_encoder_alias,
}
"""Weights of each sort, and which short names there are for them."""
FILES = frozenset({"passages", "pools", "rationales", "groups"})
"""What is one file where no stage makes it."""
STAGE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Without dots: a run's own files, such as recipe.json, lie beside the stages' folders."""


@dataclass(frozen=True)
class StageRef:
    """Marks a field whose value may name an earlier stage."""

    makes: str
    """What that stage must have made: `model`, `reranker`, `pairs`, `candidates`, `rows`, `pools`, `rationales`,
    `groups`. No stage makes an `encoder` or `passages`: such a value is an alias, a folder or a file."""
    only: bool = False
    """The value must be a stage, never a path, alias or hub id."""


class Waiting(Exception):  # noqa: N818 - it is a state, not an error
    """A stage that people have not finished. The command prints this and exits 75."""

    def __init__(self, what: str, *, how: str) -> None:
        self.what = what
        self.how = how
        super().__init__(f"{what}\n  {how}")


@dataclass(frozen=True)
class Built:
    """A finished stage, as a later one sees it."""

    name: str
    kind: str
    path: Path
    build: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]


@dataclass
class Job(Work):
    """A stage at work: its folder, what it was given, and whom it tells."""

    inputs: Mapping[str, Built] = field(default_factory=dict[str, Built])
    """Earlier stages by the name the recipe gives them."""
    base: Path = Path()
    """The recipe's folder, against which relative paths are read."""

    def start(self, model: str, sort: str = "model") -> str:
        """The folder an earlier stage left its model in, or the alias, folder or hub id as the recipe has it."""
        if model in self.inputs:
            return str(self.inputs[model].path / MODEL)
        if ALIASED[sort](model):
            return model
        local = (self.base / Path(model).expanduser()).absolute()
        return str(local) if local.is_dir() else model

    def file(self, given: str) -> Path:
        """The rows of an earlier stage, or a file of the recipe."""
        found = self.inputs.get(given)
        return found.path / ROWS if found else self.base / Path(given).expanduser()

    def mixture(self, mixture: Mixture, sort: str | None = None) -> Mixture:
        """The same sources, with the name of an earlier stage replaced by the file it wrote; a stage that makes
        several sorts of rows has a file for each, `pairs.jsonl` and so on."""
        return with_stages(mixture, {name: built.path for name, built in self.inputs.items()}, sort)


def with_stages(mixture: Mixture, folders: Mapping[str, Path], sort: str | None = None) -> Mixture:
    """The same sources, with the names of stages replaced by the rows in their folders."""

    def rows(folder: Path) -> Path:
        own = folder / f"{sort}.jsonl"
        return own if sort is not None and own.is_file() else folder / ROWS

    sources = tuple(
        s.model_copy(update={"path": str(rows(folders[s.path])), "format": "jsonl"})
        if s.path in folders
        else s
        for s in mixture.sources
    )
    return mixture.model_copy(update={"sources": sources})


class Stage(Closed):
    """One step of a recipe. `kind` tells them apart; the union of all kinds is the only registry."""

    makes: ClassVar[frozenset[str]] = frozenset()
    """What later stages may use this one as; see `StageRef.makes`."""

    name: Annotated[str, Field(pattern=STAGE_NAME_PATTERN, max_length=64)]
    """How other stages and the run folder call this one."""
    resources: Annotated[Resources | None, Field(json_schema_extra=COSMETIC)] = None
    """What its job asks of a cluster: `{gpus, nodes, hours, shards, accelerate_config}`; of these
    `heliograph run` heeds `shards` alone."""

    @model_validator(mode="after")
    def _may_be_split(self) -> Stage:
        if self.shards > 1 and (why := self.whole()) is not None:
            made = PydanticCustomError("value_error", "{why}", {"why": why})
            place = InitErrorDetails(type=made, loc=("resources", "shards"), input=self.shards)
            raise ValidationError.from_exception_data(type(self).__name__, [place])
        return self

    @property
    def shards(self) -> int:
        """Into how many parts it is split."""
        return (self.resources.shards if self.resources else None) or 1

    def whole(self) -> str | None:
        """Why it cannot be split into shards; None: it can."""
        return "this kind is made whole: leave `shards` out"

    def mixtures(self) -> dict[str, Mixture]:
        """Every field that holds data, by name."""
        fields = ((key, getattr(self, key)) for key in type(self).model_fields)
        return {key: value for key, value in fields if isinstance(value, Mixture)}

    def files(self, base: Path, stages: set[str]) -> list[Path]:
        """Local files whose content the result depends on; `stages` are the names that are no files."""
        found: list[Path] = []
        for _, value, mark in references(self):
            if value in stages:
                continue
            if mark.makes in FILES:
                found.append(base / Path(value).expanduser())
            aliased = ALIASED.get(mark.makes)
            if aliased is not None and not aliased(value):
                folder = base / Path(value).expanduser()
                found += sorted(p for p in folder.rglob("*") if p.suffix in MODEL_FILES and p.is_file())
        for mixture in self.mixtures().values():
            local = tuple(s for s in mixture.sources if s.path not in stages)
            if local:
                found += source_files(mixture.model_copy(update={"sources": local}), base)
        return found

    def prepare(self, job: Job) -> None:
        """What one process does before several train: read, check and tokenise. Safe to repeat."""

    def run(self, job: Job) -> Metrics:
        """Do the work, write it below `job.out`, and return the figures for done.json."""
        raise NotImplementedError

    def run_shards(self, job: Job, shards: Mapping[int, Job]) -> Iterator[tuple[int, Metrics]]:
        """Make these shards below their own `out`, and tell of each as it is finished."""
        raise NotImplementedError

    def join(self, job: Job, shards: list[Path]) -> Metrics:
        """What `run` would have made, out of the folders of all shards."""
        raise NotImplementedError


def references(stage: Stage) -> list[tuple[tuple[str | int, ...], str, StageRef]]:
    """Every value of the stage that may name another stage, with its path inside the stage."""
    found: list[tuple[tuple[str | int, ...], str, StageRef]] = []
    for key, info in type(stage).model_fields.items():
        mark = next((m for m in info.metadata if isinstance(m, StageRef)), None)
        if mark is None:
            continue
        for path, value in _strings(getattr(stage, key), (key,)):
            found.append((path, value, mark))
    return found


def _strings(value: object, path: tuple[str | int, ...]) -> list[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        return [(path, value)]
    if isinstance(value, Source):
        return [((*path, "path"), value.path)]
    if isinstance(value, Mixture):
        return [item for i, s in enumerate(value.sources) for item in _strings(s, (*path, i))]
    if isinstance(value, Mapping):
        items: Mapping[str, object] = value  # pyright: ignore[reportUnknownVariableType]
        return [item for k, v in items.items() for item in _strings(v, (*path, k))]
    if isinstance(value, (tuple, list)):
        seq: tuple[object, ...] = tuple(cast("list[object]", value))
        return [item for i, v in enumerate(seq) for item in _strings(v, (*path, i))]
    return []


def input_names(stage: Stage, known: set[str]) -> list[str]:
    """Names of the earlier stages this one reads, in order, each once."""
    names = [value for _, value, _ in references(stage) if value in known]
    return list(dict.fromkeys(names))
