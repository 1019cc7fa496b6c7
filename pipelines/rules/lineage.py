"""The chain of policies, followed without loading anything: what would start from another policy is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data.errors import ModelError
from pipelines.reading.stage_values import Placed
from pipelines.reading.tree import Tree
from pipelines.stages.illume import Illume
from pipelines.stages.merge import Merge
from pipelines.stages.prefer import Prefer
from pipelines.stages.sft import Sft
from pipelines.stages.unlearn import Unlearn
from trainers import policy
from trainers.config import AdapterOptions, ModelOptions
from trainers.quantization import Quantization, in_words, quantization_asked


@dataclass(frozen=True)
class Known:
    """What the recipe tells of a policy. None: it does not tell."""

    made: bool = False
    """A stage made it, here or in another run."""
    adapters: bool | None = None
    quantization: Quantization | None = None
    """bitsandbytes' settings; empty for plain weights."""
    dtype: str | None = None


def check_lineage(tree: Tree, placed: list[Placed], names: Mapping[str, int], base: Path) -> None:
    """Every stage against the policy that it starts from."""
    made: dict[int, Known] = {}
    for one in placed:
        stage = one.stage
        if isinstance(stage, (ModelOptions, Merge)):
            name: str | None = stage.model
            index = names.get(name, one.index) if name else one.index
            start = made.get(index, Known(made=index != one.index)) if name in names else _outside(base, name)
            made[one.index] = _step(tree, one, start)


def _outside(base: Path, model: str | None) -> Known:
    """A base of its own, or the folder of a policy that another run made."""
    if not model:
        return Known()
    try:
        folder = (base / Path(model).expanduser()).absolute()
        found = policy.read(str(folder)) if (folder / policy.FILE).is_file() else None
    except (ModelError, OSError, ValueError):  # The stage will say it, when it loads the folder.
        return Known()
    if found is None:
        return Known(adapters=False, quantization={})
    return Known(True, bool(found.adapters), found.quantization or {}, _told(found.dtype))


def _told(dtype: str) -> str | None:
    return None if dtype == "auto" else dtype


def _step(tree: Tree, one: Placed, start: Known) -> Known:
    stage = one.stage
    if isinstance(stage, Merge):
        if start.made and start.adapters is False:
            message = (
                f"`{stage.model}` is one plain model already, there is nothing to merge: refer to it itself"
            )
            tree.fault(one.at("model"), message)
        return Known(True, adapters=False, quantization={}, dtype=start.dtype)
    if not isinstance(stage, ModelOptions):
        return Known()
    now = replace(_loaded(tree, one, stage, start), made=True)
    if not isinstance(stage, (Sft, Illume, Prefer, Unlearn)):
        return now
    if "use_peft" in one.wrong:
        return replace(now, adapters=None, quantization=None)
    if stage.use_peft:
        return replace(now, adapters=True)
    _check_full(tree, one, stage, start, now)
    return replace(now, adapters=False, quantization={})


def _loaded(tree: Tree, one: Placed, stage: ModelOptions, start: Known) -> Known:
    """The start as this stage would load it."""
    if one.wrong & {"load_in_4bit", "load_in_8bit", "dtype", "model"}:
        return Known(adapters=start.adapters)
    key = "load_in_4bit" if stage.load_in_4bit is not None else "load_in_8bit"
    asked = quantization_asked(stage)
    # Preference and unlearning measure their reference on what they load; an adapter fits only what it was trained on.
    bound = start.made and (start.adapters or isinstance(stage, (Prefer, Unlearn)))
    if bound and asked is not None and start.quantization is not None and asked != start.quantization:
        was, would = in_words(start.quantization), in_words(asked)
        if was == would:
            would = "other settings of it"
        message = (
            f"`{stage.model}` is made on {was}, and would start on {would} here, as another policy: leave "
            f"load_in_4bit and load_in_8bit out, set them alike on both stages, or put a `merge` stage between"
        )
        tree.fault(one.at(key), message)
    dtype = _told(stage.dtype)
    if bound and dtype and start.dtype and dtype != start.dtype:
        message = (
            f"`{stage.model}` is made in {start.dtype}, and would start in {dtype} here, as another policy: "
            f"leave dtype out, or write `dtype: {start.dtype}`"
        )
        tree.fault(one.at("dtype"), message)
    return replace(
        start, quantization=start.quantization if asked is None else asked, dtype=dtype or start.dtype
    )


def _check_full(tree: Tree, one: Placed, stage: AdapterOptions, start: Known, now: Known) -> None:
    if "model" in one.wrong:
        return
    place = one.at("use_peft") if "use_peft" in one.values else one.at("model")
    if now.quantization:
        key = next((k for k in ("load_in_4bit", "load_in_8bit") if one.values.get(k)), None)
        message = f"{in_words(now.quantization)} cannot be trained in full: write `use_peft: true`"
        if key is None:
            message += ", or put a `merge` stage between"
        tree.fault(one.at(key) if key else place, message)
    elif start.adapters:
        message = (
            "full training would start below the adapters of the stage it starts from: put a `merge` stage "
        )
        tree.fault(place, message + "between, or write `use_peft: true`")
