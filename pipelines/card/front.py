"""The card's front matter: what the hub reads of it, by the hub's own classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pipelines.card.lineage import chain, evaluations, is_hub_id, root, weights_below
from pipelines.report.gather import Recorded, RunRecord, mapping
from pipelines.stage import MODEL
from trainers import aliases, policy

SPDX = re.compile(r"^license:\s*([\w.-]+)\s*$", re.MULTILINE)


def front(record: RunRecord, name: str, base: Path, form: str | None) -> str:
    """YAML between two lines of dashes. `form` is what an export made of the model, where there was one."""
    from huggingface_hub import EvalResult, ModelCardData  # a third of a second

    stage = record.stage(name)
    assert stage is not None
    reranks = stage.kind == "rerank"
    adapters = adapter_count(stage) if form in (None, "adapter") else 0
    start, license_ = origin(root(record, name), base)
    if adapters and (weights_below(record, name) or aliases.is_alias(root(record, name))):
        start = None  # The hub would load the adapter onto weights that it was not trained on.
    extra: dict[str, Any] = (
        {} if start is None else {"base_model_relation": "adapter" if adapters else "finetune"}
    )
    task = "text-ranking" if reranks else "text-generation"
    results = [EvalResult(task_type=task, **one) for one in measured(record, name)]
    data = ModelCardData(
        base_model=start,
        library_name="sentence-transformers" if reranks else "peft" if adapters else "transformers",
        pipeline_tag=task,
        license=license_,
        datasets=hub_datasets(record, name, base) or None,
        tags=tags(record, name),
        model_name=f"{record.name}-{name}" if results else None,
        eval_results=results or None,
        **extra,
    )
    text: str = data.to_yaml()  # pyright: ignore[reportUnknownMemberType] - hub library
    return f"---\n{text}\n---\n"


def adapter_count(stage: Recorded) -> int:
    folder = (stage.folder / MODEL).absolute()
    return len(policy.read(str(folder)).adapters) if (folder / policy.FILE).is_file() else 0


def origin(start: str, base: Path) -> tuple[str | None, str | None]:
    """The hub's name of what everything began with, and its licence; None for what nobody told."""
    if aliases.is_alias(start):
        facts = _facts(aliases.folder_of(start) / "heliograph.json")
        told = str(facts.get("origin", "")).split(",")[0]
        license_ = facts.get("license")
        return (told or None), str(license_).lower() if license_ else None
    folder = base / Path(start).expanduser()
    if folder.is_dir():
        card = folder / "README.md"
        found = SPDX.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
        return None, found[1] if found else None
    return (start if is_hub_id(start, base) else None), None


def _facts(file: Path) -> Mapping[str, Any]:
    try:
        return cast("Mapping[str, Any]", json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # Built on another machine, or not yet: the card says less then.
        return {}


def sources(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every data source that a stage names."""
    found: list[Mapping[str, Any]] = []
    for value in config.values():
        if isinstance(value, Mapping) and "sources" in value:
            found += cast("list[Mapping[str, Any]]", value["sources"])
    return found


def hub_datasets(record: RunRecord, name: str, base: Path) -> list[str]:
    stage = record.stage(name)
    assert stage is not None
    stages = {one.name for one in record.stages}
    paths = [
        str(source["path"])
        for one in record.reached(stage)
        for source in sources(one.config)
        if source["path"] not in stages
    ]
    return sorted({path for path in paths if is_hub_id(path, base)})


def tags(record: RunRecord, name: str) -> list[str]:
    found = ["heliograph"]
    for stage in chain(record, name):
        found.append(stage.kind)
        config = stage.config
        if stage.kind == "prefer":
            stated = config.get("loss")
            given: Any = stated.get("formula") if stated else config.get("loss_type")
            losses = [given] if isinstance(given, str) else list(given or ())
            names = {"sigmoid": "dpo"}
            found += [names.get(one, one) for one in losses if re.fullmatch(r"[\w-]+", one)]
        if stage.kind == "unlearn":
            found.append(str(config.get("method")))
        if config.get("use_peft"):
            found.append("qlora" if config.get("load_in_4bit") else "lora")
    return list(dict.fromkeys(found))


def measured(record: RunRecord, name: str) -> list[dict[str, Any]]:
    """The arguments of the hub's EvalResult for each figure of this model."""
    found: list[dict[str, Any]] = []
    for stage, labels in evaluations(record, name):
        files = [Path(str(source["path"])) for source in sources(stage.config)] or [Path(stage.name)]
        told = figures(stage)
        for label in labels:
            for metric, (value, interval) in told.get(label, {}).items():
                found.append(
                    {
                        "dataset_type": files[0].stem,
                        "dataset_name": f"{files[0].name} ({stage.name}, held out)",
                        "metric_type": metric,
                        "metric_value": value,
                        "metric_name": metric if len(labels) == 1 else f"{metric} ({label})",
                        "metric_args": None
                        if interval is None
                        else {"low": interval[0], "high": interval[1]},
                    }
                )
    return found


Figure = tuple[float, tuple[float, float] | None]
"""A value, and its 95 % interval where it has one of its own."""
OTHER = frozenset({"differences", "overlap", "counts", "attacks"})
"""What an evaluation tells beside the figures of its labels."""


def figures(stage: Recorded) -> dict[str, dict[str, Figure]]:
    """By label, in the evaluation's order."""
    labels = mapping(stage.metrics.get("models")) or stage.metrics
    return {
        label: found for label, value in labels.items() if label not in OTHER and (found := numbers(value))
    }


def numbers(value: object, above: str = "") -> dict[str, Figure]:
    """Every figure of a nested value by its dotted name; a count of prompts is none."""
    found: dict[str, Figure] = {}
    for key, inner in mapping(value).items():
        below = mapping(inner)
        if _number(below.get("value")):
            has_interval = _number(below.get("low")) and _number(below.get("high"))
            found[above + key] = (below["value"], (below["low"], below["high"]) if has_interval else None)
        elif below:
            found |= numbers(below, f"{above}{key}.")
        elif _number(inner) and key not in ("prompts", "questions"):
            found[above + key] = (inner, None)
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
