"""Reading, checking and tokenising what is to be forgotten, kept and watched: once, before any model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data.arrow import write_arrow
from data.errors import DataError
from data.forgetting.rows import template_texts, tokenise_answers, tokenise_with_templates
from data.jsonl import replacing
from data.ledger import Ledger, LedgerLimits
from data.overlap import compare_sources
from data.records import Placed, Shape, with_shape
from data.sources import Mixture, read
from trainers import policy
from trainers.config import UnlearnOptions
from trainers.forgetting.keys import needs
from trainers.models import load_tokenizer
from trainers.training import ranks
from trainers.training.prepare import unseen
from trainers.training.watch_config import UnlearnWatch
from trainers.work import LEDGER, Work

if TYPE_CHECKING:
    from datasets import Dataset

AMONG: tuple[Shape, ...] = ("prompt_completion",)
MOST_TEMPLATES = 64
"""Templates that one row can meet; each of them is measured under the reference."""


class UnlearnData(NamedTuple):
    """Where the rows of a stage come from."""

    forget: Mixture
    retain: Mixture | None = None
    templates: Mixture | None = None
    probe: Mixture | None = None


class UnlearnRows(NamedTuple):
    """What `prepare_unlearn` left behind."""

    forget: Dataset
    retain: Dataset | None
    probe: Dataset | None
    """What is watched; without `answered`, its prompts alone."""
    answered: bool
    """Whether the probe's answers are to stay likely: they are those of `probe` or of `retain`."""


def prepare_unlearn(
    options: UnlearnOptions, start: str, data: UnlearnData, base: Path, limits: LedgerLimits, work: Work
) -> None:
    """Rows for unlearning, ready to be mapped into memory."""
    for key, message in needs(options, retain=data.retain is not None, templates=data.templates is not None):
        raise DataError(message, where=key)
    if (work.out / LEDGER).exists() and (work.scratch / "train.arrow").exists():
        return  # written last; the stage's folder is locked to one configuration and one set of files
    found = policy.read(start, revision=options.model_revision)
    tokenizer: Any = load_tokenizer(found, trust_remote_code=options.trust_remote_code)
    ledgers = {name: Ledger(name=name) for name in ("forget", "retain", "probe") if getattr(data, name)}

    def looked_at(name: str, mixture: Mixture) -> Iterator[Placed]:
        return unseen(_rows(name, mixture, base, ledgers[name]), f"unlearning ({name})", work)

    def answers(name: str, mixture: Mixture) -> Iterator[dict[str, Any]]:
        return tokenise_answers(looked_at(name, mixture), tokenizer, options.max_length, ledgers[name])

    if data.retain is not None:
        _overlap(ledgers["retain"], data.forget, data.retain, base, limits)
    kept = list(answers("retain", data.retain)) if data.retain else []
    watched = list(answers("probe", data.probe)) if data.probe else None
    if watched is None and kept and options.watch:
        watch = UnlearnWatch() if options.watch is True else options.watch
        kept, watched = _hold_out(kept, watch.rows, options.seed, work)
    if kept:
        write_arrow(work.scratch / "retain.arrow", iter(kept))
    if watched:
        write_arrow(work.scratch / "probe.arrow", iter(watched))
    if data.templates is None:
        rows = answers("forget", data.forget)
    else:
        texts = template_texts(read(data.templates, base, Ledger(name="templates")), _paths(data.templates))
        placed = list(looked_at("forget", data.forget))
        each = min(len(texts), MOST_TEMPLATES, _epochs(options, len(placed)))
        work.say(f"templates: {len(texts)} texts, {each} drawn for each forget row, one an epoch")
        rows = tokenise_with_templates(
            placed, texts, each, tokenizer, options.max_length, ledgers["forget"], options.seed
        )
    write_arrow(work.scratch / "train.arrow", rows)
    for ledger in ledgers.values():
        for line in ledger.lines():
            work.say(line)
        ledger.check(limits)
    with replacing(work.out / LEDGER) as file:
        content = {name: ledger.to_json() for name, ledger in ledgers.items()}
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def load_unlearn(work: Work) -> UnlearnRows:
    from datasets import Dataset

    forget, retain, probe = (
        Dataset.from_file(str(file)) if (file := work.scratch / f"{name}.arrow").exists() else None
        for name in ("train", "retain", "probe")
    )
    if forget is None:
        raise DataError("the rows were not prepared", where=str(work.scratch))
    return UnlearnRows(forget, retain, probe if probe is not None else forget, probe is not None)


def _rows(name: str, mixture: Mixture, base: Path, ledger: Ledger) -> Iterator[Placed]:
    try:
        return with_shape(read(mixture, base, ledger), AMONG)[1]
    except DataError as fault:
        where = f"{name}: {fault.where or _paths(mixture)}"
        raise DataError(fault.what, where=where, way_out=fault.way_out) from fault


def _paths(mixture: Mixture) -> str:
    return ", ".join(source.path for source in mixture.sources)


def _overlap(ledger: Ledger, forget: Mixture, retain: Mixture, base: Path, limits: LedgerLimits) -> None:
    """What is to be forgotten and kept at once. Exact copies are a contradiction unless a limit allows for them."""
    for name, mixture in (("forget", forget), ("retain", retain)):
        next(_rows(name, mixture, base, Ledger(name=name)), None)  # empty: said by name
    compare_sources(ledger, "forget", retain, forget, base, AMONG, AMONG)
    shared = ledger.overlap["forget"]
    if shared.exact and limits.max_overlap_share is None:
        raise DataError(
            f"{shared.exact} of {shared.prompts} forget prompts stand in retain too: {'; '.join(shared.examples)}",
            where=_paths(retain),
            way_out="Take them out of one of the two, or say with `limits: {max_overlap_share: ...}` how many may.",
        )


def _hold_out(
    rows: list[dict[str, Any]], most: int, seed: int, work: Work
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to keep training on, and rows to watch; drawn by the seed."""
    size = min(most, len(rows) // 4)
    if not size:
        work.choose("probe", f"all {len(rows)} retain rows", "too few of them to hold some out")
        return rows, rows
    drawn = set(np.random.default_rng([seed, len(rows)]).permutation(len(rows))[:size].tolist())
    work.choose(
        "probe", f"{size} of {len(rows)} retain rows", "held out, to see whether the model keeps working"
    )
    return [row for i, row in enumerate(rows) if i not in drawn], [
        row for i, row in enumerate(rows) if i in drawn
    ]


def _epochs(options: UnlearnOptions, rows: int) -> int:
    if options.max_steps <= 0:
        return max(1, math.ceil(options.num_train_epochs))
    seen = options.per_device_train_batch_size * options.gradient_accumulation_steps * ranks.world_size()
    return math.ceil(options.max_steps * seen / max(rows, 1)) + 1
