"""An unlearn stage judged where it stands in the recipe: what its method needs, what it ignores, sets that clash."""

from __future__ import annotations

from pathlib import Path

from data.sources import Mixture
from pipelines.reading.stage_values import Placed
from pipelines.reading.tree import Tree
from pipelines.stages.unlearn import Unlearn
from trainers.forgetting.keys import advice, ignored, needs


def check_unlearn(tree: Tree, one: Placed, base: Path) -> None:
    stage = one.stage
    if not isinstance(stage, Unlearn) or "method" in one.wrong or not stage.method:
        return
    given = {key for key, value in one.values.items() if value is not None}
    for key, message in needs(stage, retain="retain" in given, templates="templates" in given):
        if key not in one.wrong:
            tree.fault(one.at("method"), message)
    for key, message in ignored(stage, given):
        if key not in one.wrong:
            tree.fault(one.at(key), message, key=True)
    for key, message in advice(stage, given):
        tree.notice(one.at(key), message)
    _check_sets(tree, one, stage, base)


def _check_sets(tree: Tree, one: Placed, stage: Unlearn, base: Path) -> None:
    forget = set(_sources(stage.forget)) if "forget" not in one.wrong and stage.forget else set[str]()
    for key in ("forget", "retain", "templates", "probe"):
        mixture: Mixture | None = getattr(stage, key, None)
        if key in one.wrong or mixture is None:
            continue
        for source in mixture.sources:
            if _empty(base, source.path):
                tree.fault(one.at(key), f"{source.path} is empty: there is nothing in it to {_purpose(key)}")
        if key == "retain" and forget & set(_sources(mixture)):
            tree.fault(
                one.at(key), "the same rows are to be forgotten and kept: it is the source of `forget` too"
            )


def _purpose(key: str) -> str:
    return {"forget": "forget", "retain": "keep", "probe": "watch"}.get(key, "answer instead")


def _sources(mixture: Mixture) -> list[str]:
    # A split or a configuration of its own is another set.
    return [
        str(source.model_dump(include={"path", "name", "split", "revision"})) for source in mixture.sources
    ]


def _empty(base: Path, path: str) -> bool:
    try:
        file = base / Path(path).expanduser()
        return file.is_file() and file.stat().st_size == 0
    except (OSError, RuntimeError, ValueError):  # Too long, no such home, or a zero byte in it.
        return False
