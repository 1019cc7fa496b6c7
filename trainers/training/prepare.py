"""Reading, checking and tokenising a training stage's rows: once, in one process, before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.arrow import write_arrow
from data.chat import TokeniseOptions, tokenise
from data.errors import DataError
from data.jsonl import replacing
from data.ledger import Ledger, LedgerLimits
from data.overlap import compare_sources
from data.pictures import COLUMN
from data.preference_rows import WEIGHT, grouped, mismatched, weighed
from data.records import Placed, Shape, check_row, unpair, with_shape
from data.sources import Mixture, read
from trainers import policy
from trainers.config import JUDGED, PreferOptions, SftOptions
from trainers.models import load_tokenizer, open_eyes
from trainers.vision.rows import PICTURE, shown
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
    eyes = open_eyes(policy.read(start, revision=options.model_revision), options)
    if eyes is not None and options.packing:
        raise DataError("rows of a model that sees are not packed", where="packing", way_out="leave it out")
    cut = TokeniseOptions(
        max_length=options.max_length,
        carry=() if eyes is None else (PICTURE,),
        completion_only_loss=options.completion_only_loss,
        assistant_only_loss=options.assistant_only_loss,
    )
    among: tuple[Shape, ...] = ("unpaired", "prompt_completion", "messages", "text")

    def read_as(shape: Shape, rows: Iterator[Placed], ledger: Ledger) -> tuple[Shape, Iterator[Placed]]:
        return shape, shown(rows, shape, eyes)

    _prepare(options, start, data, eval_data, base, limits, work, cut, among, read_as)


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
    names = {options.loss_type} if isinstance(options.loss_type, str) else set(options.loss_type)
    judged = names <= JUDGED
    carry = (WEIGHT,) if options.weight_column else ()
    cut = TokeniseOptions(max_length=options.max_length, carry=carry)
    among: tuple[Shape, ...] = ("unpaired", "preference") if judged else ("preference",)

    def read_as(shape: Shape, rows: Iterator[Placed], ledger: Ledger) -> tuple[Shape, Iterator[Placed]]:
        rows = unseen(rows, "preference training", work)
        if options.weight_column:
            rows = weighed(rows, options.weight_column)
        if judged and shape == "preference":
            shape, rows = "unpaired", _both_answers(rows, ledger)
        return shape, rows

    def made(rows: Iterator[dict[str, Any]], ledger: Ledger) -> Iterator[dict[str, Any]]:
        if names & {"kto"}:
            return mismatched(rows, options.per_device_train_batch_size, options.max_length)
        return grouped(rows, ledger) if options.group_by_prompt else rows

    _prepare(options, start, pairs, eval_pairs, base, limits, work, cut, among, read_as, made)


def unseen(rows: Iterator[Placed], by: str, work: Work) -> Iterator[Placed]:
    """The rows as they are; how many had a picture is told, because what `by` names looks at none."""
    count = 0
    for place in rows:
        count += place.row.get(COLUMN) is not None
        yield place
    if count:
        work.say(f"{count:,} rows have a picture, and {by} looks at none")


def _both_answers(rows: Iterator[Placed], ledger: Ledger) -> Iterator[Placed]:
    """Each pair as two rows; the second is counted as read too, so that the ledger adds up."""
    for place in rows:
        fit = Placed(place.where, check_row(place.row, "preference", place.where))
        ledger.count_read("second answers of pairs")
        yield from unpair([fit])


def load_rows(out: Path) -> tuple[Dataset, Dataset | None]:
    """What a `prepare_…` left behind: training rows, and held-out ones if there are any."""
    from datasets import Dataset

    held_out = out / SCRATCH / "eval.arrow"
    train = Dataset.from_file(str(out / SCRATCH / "train.arrow"))
    return train, Dataset.from_file(str(held_out)) if held_out.exists() else None


def longest_row(work: Work) -> int:
    """Tokens of the longest row that was kept, prompt and answer together."""
    ledgers = json.loads((work.out / LEDGER).read_text(encoding="utf-8"))
    return max(int(ledger["longest"]) for ledger in ledgers.values())


def check_context(model: Any, work: Work) -> None:
    """Positions beyond those a model was made for give wrong numbers, not an error."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = longest_row(work)
    if context is not None and longest > context:
        raise DataError(
            f"rows reach {longest} tokens, and the model was made for {context}",
            where="max_length",
            way_out=f"Write `max_length: {context}`, and rebuild the stage with --from.",
        )


def _as_they_are(shape: Shape, rows: Iterator[Placed], ledger: Ledger) -> tuple[Shape, Iterator[Placed]]:
    return shape, rows


def _no_more(rows: Iterator[dict[str, Any]], ledger: Ledger) -> Iterator[dict[str, Any]]:
    return rows


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
    read_as: Callable[[Shape, Iterator[Placed], Ledger], tuple[Shape, Iterator[Placed]]] = _as_they_are,
    made: Callable[[Iterator[dict[str, Any]], Ledger], Iterator[dict[str, Any]]] = _no_more,
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
        shape, rows = read_as(*with_shape(read(mixture, base, ledger), among), ledger)
        if shape == "unpaired" and isinstance(options, SftOptions):
            raise DataError(
                "these rows have a `label`: some of their answers are unwanted, and sft would learn them all",
                where=", ".join(source.path for source in mixture.sources),
                way_out="Keep the wanted rows and leave the column `label` out.",
            )
        try:
            tokens = tokenise(rows, shape, tokenizer, cut, ledger)
            write_arrow(work.scratch / f"{name}.arrow", made(tokens, ledger))
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
