"""Reading, checking and tokenising a training stage's rows: once, in one process, before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.arrow import write_arrow
from data.chat import TokeniseOptions, tokenise
from data.errors import DataError
from data.jsonl import replacing
from data.ledger import Ledger, LedgerLimits
from data.overlap import compare_sources
from data.records import Shape, with_shape
from data.sources import Mixture, read
from trainers import policy
from trainers.config import PreferOptions, SftOptions
from trainers.models import load_tokenizer
from trainers.work import LEDGER, SCRATCH, Work

if TYPE_CHECKING:
    from datasets import Dataset


def prepare_sft(
    options: SftOptions,
    start: str,
    data: Mixture,
    eval_data: Mixture | None,
    base: Path,
    limits: LedgerLimits,
    work: Work,
) -> None:
    """Rows for supervised fine-tuning, ready to be mapped into memory."""
    cut = TokeniseOptions(
        max_length=options.max_length,
        completion_only_loss=options.completion_only_loss,
        assistant_only_loss=options.assistant_only_loss,
    )
    among: tuple[Shape, ...] = ("unpaired", "prompt_completion", "messages", "text")
    _prepare(options, start, data, eval_data, base, limits, work, cut, among)


def prepare_pairs(
    options: PreferOptions,
    start: str,
    pairs: Mixture,
    eval_pairs: Mixture | None,
    base: Path,
    limits: LedgerLimits,
    work: Work,
) -> None:
    """Rows for preference training, ready to be mapped into memory."""
    cut = TokeniseOptions(max_length=options.max_length)
    _prepare(options, start, pairs, eval_pairs, base, limits, work, cut, ("preference",))


def load_rows(out: Path) -> tuple[Dataset, Dataset | None]:
    """What a `prepare_…` left behind: training rows, and held-out ones if there are any."""
    from datasets import Dataset

    held_out = out / SCRATCH / "eval.arrow"
    train = Dataset.from_file(str(out / SCRATCH / "train.arrow"))
    return train, Dataset.from_file(str(held_out)) if held_out.exists() else None


def check_context(model: Any, work: Work) -> None:
    """Positions beyond those a model was made for give wrong numbers, not an error."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    ledgers = json.loads((work.out / LEDGER).read_text(encoding="utf-8"))
    longest = max(int(ledger["longest"]) for ledger in ledgers.values())
    if context is not None and longest > context:
        raise DataError(
            f"rows reach {longest} tokens, and the model was made for {context}",
            where="max_length",
            way_out=f"Write `max_length: {context}`, and rebuild the stage with --from.",
        )


def _prepare(
    options: SftOptions | PreferOptions,
    start: str,
    data: Mixture,
    held_out: Mixture | None,
    base: Path,
    limits: LedgerLimits,
    work: Work,
    cut: TokeniseOptions,
    among: Collection[Shape],
) -> None:
    if (work.out / LEDGER).exists() and (work.scratch / "train.arrow").exists():
        return  # written last; the stage's folder is locked to one configuration and one set of files
    found = policy.read(start, revision=options.model_revision)
    tokenizer: Any = load_tokenizer(found, trust_remote_code=options.trust_remote_code)
    ledgers: dict[str, Ledger] = {}
    for name, mixture in (("eval", held_out), ("train", data)):
        if mixture is None:
            continue
        ledger = ledgers[name] = Ledger(name=name)
        shape, rows = with_shape(read(mixture, base, ledger), among)
        if shape == "unpaired":
            raise DataError(
                "these rows have a `label`: some of their answers are unwanted, and sft would learn them all",
                where=", ".join(source.path for source in mixture.sources),
                way_out="Keep the wanted rows and leave the column `label` out.",
            )
        try:
            write_arrow(work.scratch / f"{name}.arrow", tokenise(rows, shape, tokenizer, cut, ledger))
        except DataError:
            _tell(ledger, work)
            raise
    if held_out is not None:
        compare_sources(ledgers["train"], "eval", data, held_out, base, among, among)
    for ledger in reversed(ledgers.values()):
        _tell(ledger, work)
        ledger.check(limits)
    with replacing(work.out / LEDGER) as file:
        content = {name: ledger.to_json() for name, ledger in ledgers.items()}
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _tell(ledger: Ledger, work: Work) -> None:
    for line in ledger.lines():
        work.say(line)
