"""`heliograph fetch`: bring what a recipe takes from the hub, and build its aliases, before a run without a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from data.errors import RunError
from data.folders import files_of
from data.sources import Source
from pipelines.recipe import Recipe
from pipelines.stage import ALIASED, Stage, references
from pipelines.summary import plural
from trainers import policy

Show = Callable[[str], None]
UNUSED = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "*.pth", "*.mlmodel", "*.tflite", "onnx/*", "openvino/*",
          "original/*", "coreml/*", ".gitattributes", "*.png", "*.jpg", "*.gif")  # fmt: skip
"""The same weights for other programs, and pictures."""
PICKLED = ("*.bin", "*.pt")
"""Left there where the weights are safetensors too."""
WAY_OUT = "Check the name, and HF_TOKEN where it is private or gated (hf auth login)."


@dataclass(frozen=True)
class Wanted:
    """Something a recipe needs that does not come with it."""

    what: str
    """`alias`, `model` or `dataset`."""
    name: str
    sort: str = "model"
    """Of an alias: `model`, `reranker` or `encoder`."""
    revision: str | None = None
    source: Source | None = None
    stages: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return ", ".join(f"stages.{name}" for name in self.stages)


def fetch(recipe: Recipe, show: Show) -> None:
    """Bring everything; say what was there and what came. The first that cannot be had is an error."""
    found = wanted(recipe)
    if not found:
        show("nothing to fetch: the recipe takes nothing from a hub")
        return
    for one in found:
        show(f"{one.what} {_told(one)}: {_brought(one)}")
    show(f"{plural(len(found), 'item')} ready; with HF_HUB_OFFLINE=1 the recipe needs no network")


def wanted(recipe: Recipe) -> list[Wanted]:
    """What the recipe needs, each once, with the stages that need it."""
    names = {stage.name for stage in recipe.stages}
    merged: dict[tuple[str, str, str | None, str], Wanted] = {}
    for stage in recipe.stages:
        for one in (*_models(stage, recipe.base, names), *_datasets(stage, recipe.base, names)):
            asked = (
                one.source.model_dump_json(include={"path", "name", "split", "revision"})
                if one.source
                else ""
            )
            key = (one.what, one.name, one.revision, asked or one.sort)
            before = merged[key].stages if key in merged else ()
            stages = tuple(dict.fromkeys((*before, stage.name)))
            merged[key] = Wanted(one.what, one.name, one.sort, one.revision, one.source, stages)
    return list(merged.values())


def _models(stage: Stage, base: Path, names: set[str]) -> Iterator[Wanted]:
    for _, value, mark in references(stage):
        aliased = ALIASED.get(mark.makes)
        if aliased is None or value in names:
            continue
        revision = getattr(stage, "model_revision", None) if mark.makes == "model" else None
        folder = base / Path(value).expanduser()
        if not aliased(value) and folder.is_dir():
            below = policy.read(str(folder.absolute()))  # Adapters may lie here, and their base on the hub.
            if below.home is None or Path(below.base).is_dir():
                continue
            value, revision = below.base, below.revision
        if aliased(value):
            yield Wanted("alias", value, mark.makes)
        else:
            yield Wanted("model", value, revision=revision)


def _datasets(stage: Stage, base: Path, names: set[str]) -> Iterator[Wanted]:
    for mixture in stage.mixtures().values():
        for source in mixture.sources:
            if source.path not in names and files_of(source.path, base, source.split, source.format) is None:
                yield Wanted("dataset", source.path, revision=source.revision, source=source)


def _told(one: Wanted) -> str:
    name = f"{one.name}/{one.source.name}" if one.source and one.source.name else one.name
    split = f"[{one.source.split}]" if one.source else ""
    return f"{name}{split}" + (f" at {one.revision}" if one.revision else "")


def _brought(one: Wanted) -> str:
    if one.what == "alias":
        return _alias(one)
    if one.what == "dataset":
        return _dataset(one)
    return _model(one)


def _alias(one: Wanted) -> str:
    from trainers import aliases
    from trainers.radio.aliases import reranker_folder
    from trainers.radio.encoders import encoder_folder

    makers: dict[str, Callable[[str], Path | str]] = {
        "model": aliases.resolve, "reranker": reranker_folder, "encoder": encoder_folder,
    }  # fmt: skip
    models = aliases.cache_folder() / "models"
    before = set(models.iterdir()) if models.is_dir() else set[Path]()
    folder = Path(makers[one.sort](one.name))
    return f"{'there' if folder in before or folder.parent != models else 'built'}, in {folder}"


def _model(one: Wanted) -> str:
    hub: Any = import_module("huggingface_hub")
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if import_module("huggingface_hub.constants").HF_HUB_OFFLINE:
        try:
            folder = hub.snapshot_download(
                one.name, revision=one.revision, ignore_patterns=[*UNUSED, *PICKLED], local_files_only=True
            )
        except (LocalEntryNotFoundError, HFValidationError) as absent:
            raise _offline(one) from absent
        return f"there, in {folder}"
    try:
        info: Any = hub.HfApi().model_info(one.name, revision=one.revision)
        files = _needed([sibling.rfilename for sibling in info.siblings or ()])
        missing = [file for file in files if not _cached(one.name, file, info.sha)]
        folder = hub.snapshot_download(one.name, revision=one.revision, allow_patterns=files)
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as fault:
        raise _unreached(one, fault) from fault
    if not missing:
        return f"there, in {folder}"
    size = sum((Path(folder) / file).stat().st_size for file in missing)
    return f"{len(missing)} of {plural(len(files), 'file')} came, {size / 1e6:,.1f} MB, in {folder}"


def _needed(files: list[str]) -> list[str]:
    """Without what only other programs read."""
    kept = [file for file in files if not any(fnmatch(file, pattern) for pattern in UNUSED)]
    if any(file.endswith(".safetensors") for file in kept):
        kept = [file for file in kept if not any(fnmatch(file, pattern) for pattern in PICKLED)]
    return kept


def _cached(name: str, file: str, commit: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, file, revision=commit), str)


def _dataset(one: Wanted) -> str:
    """By the call that the run will make, so that the cache holds what that one looks for."""
    datasets: Any = import_module("datasets")
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    source = one.source
    if source is None:
        raise RuntimeError("a data set without its source")
    before = _sizes(Path(datasets.config.HF_DATASETS_CACHE))
    try:
        found: Any = datasets.load_dataset(
            source.path, name=source.name, split=source.split, revision=source.revision
        )
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, HTTPError) as fault:
        raise (_offline(one) if datasets.config.HF_HUB_OFFLINE else _unreached(one, fault)) from fault
    came = _sizes(Path(datasets.config.HF_DATASETS_CACHE)) - before
    return f"{'came' if came else 'there'}, {plural(len(found), 'row')}"


def _sizes(folder: Path) -> set[tuple[str, int]]:
    files = (path for path in folder.rglob("*.arrow")) if folder.is_dir() else iter(())
    return {(str(path), path.stat().st_size) for path in files}


def _offline(one: Wanted) -> RunError:
    return RunError(
        f"{one.what} {_told(one)} is not in the cache, and HF_HUB_OFFLINE forbids to ask for it",
        where=one.where,
        way_out="Run this on a machine with a network, such as a login node, with the same HF_HOME.",
    )


def _unreached(one: Wanted, fault: Exception) -> RunError:
    reason = next((line for line in str(fault).splitlines() if line.strip()), type(fault).__name__)
    where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return RunError(
        f"{one.what} {_told(one)} cannot be had from {where}: {reason.strip()}",
        where=one.where,
        way_out=WAY_OUT,
    )
