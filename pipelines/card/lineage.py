"""Which stages of a run made a model, which of those are final, and what each of them began with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.formats import format_of
from pipelines.report.gather import Recorded, RunRecord, mapping
from pipelines.stage import MODEL
from pipelines.stages import KINDS

MAKES = frozenset(name for name, kind in KINDS.items() if kind.makes & {"model", "reranker"})
"""Kinds of stage that leave weights behind."""


def models(record: RunRecord) -> dict[str, Recorded]:
    """The finished stages whose weights are there, in the recipe's order."""
    return {
        stage.name: stage
        for stage in record.stages
        if stage.kind in MAKES and stage.done is not None and (stage.folder / MODEL).is_dir()
    }


def final_models(record: RunRecord) -> list[str]:
    """Those that no other model of the run was made from."""
    made = models(record)
    used = {str(stage.config.get("model")) for stage in made.values()}
    return [name for name in made if name not in used]


def chain(record: RunRecord, name: str) -> list[Recorded]:
    """The stages whose weights this model is made of, earliest first, itself last."""
    made = {stage.name: stage for stage in record.stages}
    found = [made[name]]
    while (below := made.get(str(found[0].config.get("model")))) is not None and below not in found:
        found.insert(0, below)
    return found


def root(record: RunRecord, name: str) -> str:
    """What the first of them started from: an alias, `owner/name`, or a folder, as the recipe has it."""
    return str(chain(record, name)[0].config.get("model"))


def weights_below(record: RunRecord, name: str) -> str | None:
    """The stage on whose full weights this model's adapters lie; None: on what the first one started from."""
    return next((s.name for s in reversed(chain(record, name)) if not s.config.get("use_peft")), None)


def is_hub_id(value: str, base: Path) -> bool:
    """`owner/name` that is no folder of the recipe's."""
    if value.count("/") != 1 or value.startswith((".", "/", "~")) or format_of(Path(value)) is not None:
        return False
    return not (base / value).exists()


def evaluations(record: RunRecord, name: str) -> Sequence[tuple[Recorded, list[str]]]:
    """The finished evaluations that measured this model, each with the labels it had there."""
    found: list[tuple[Recorded, list[str]]] = []
    for stage in record.of("evaluate"):
        given = {**mapping(stage.config.get("models")), **mapping(stage.config.get("rerankers"))}
        labels = [label for label, model in given.items() if model == name]
        if labels and stage.done is not None:
            found.append((stage, labels))
    return found
