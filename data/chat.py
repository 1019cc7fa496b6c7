"""Rows to token ids: the columns that TRL's trainers make of them, with every drop and cut counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from data.encoding import (
    PROMPT_FILLS,
    Encoder,
    TokeniseOptions,
    Tokenizer,
    UnfitError,
    common_prefix,
    render_prompt,
)
from data.errors import DataError
from data.ledger import Ledger
from data.records import Placed, Row, Shape, check_row

__all__ = ["TokeniseOptions", "Tokenizer", "render_prompt", "tokenise"]

IGNORED = -100
_GENERATION = re.compile(r"\{%-?\s*generation\b")


class _Made(NamedTuple):
    columns: dict[str, list[int] | bool]
    length: int
    loss_tokens: int
    lost: int


def tokenise(
    rows: Iterable[Placed], shape: Shape, tokenizer: Tokenizer, options: TokeniseOptions, ledger: Ledger
) -> Iterator[dict[str, Any]]:
    """Checked and tokenised rows. The ledger is complete when the iterator is exhausted.

    prompt_completion, messages and text rows become `input_ids`, `labels`; preference rows `prompt_ids`,
    `chosen_ids`, `rejected_ids`; unpaired rows `prompt_ids`, `completion_ids`, `label`; prompts `prompt_ids`.
    """
    _check_options(shape, tokenizer, options)
    encoder = Encoder(tokenizer, options, ledger)
    make = _MAKERS[shape]
    for where, row in rows:
        try:
            fit = check_row(row, shape, where)
            made = make(encoder, fit, where)
            carried = {column: _carried(fit, column, where) for column in options.carry}
        except UnfitError as reason:
            ledger.drop(str(reason), where)
            continue
        except DataError as fault:
            if options.on_bad_row == "error":
                raise
            ledger.drop(fault.what, where)
            continue
        if made.lost:
            ledger.cut_row(made.lost)
        stored = sum(
            len(ids) for name, ids in made.columns.items() if name != "labels" and isinstance(ids, list)
        )
        ledger.keep(length=made.length, tokens=stored, loss_tokens=made.loss_tokens)
        yield {**made.columns, **carried}


def _check_options(shape: Shape, tokenizer: Tokenizer, options: TokeniseOptions) -> None:
    if options.completion_only_loss and shape != "prompt_completion":
        raise DataError(
            f"completion_only_loss needs prompt/completion rows; these are {shape}",
            way_out="for messages use assistant_only_loss, or leave it out",
        )
    if not options.assistant_only_loss:
        return
    if shape not in ("messages", "prompt_completion"):
        raise DataError(
            f"assistant_only_loss needs conversations; these rows are {shape}", way_out="leave it out"
        )
    template = options.chat_template or tokenizer.chat_template
    if not (isinstance(template, str) and _GENERATION.search(template)):
        raise DataError(
            "assistant_only_loss needs a chat template that marks the assistant's turns",
            way_out="wrap them in {% generation %} … {% endgeneration %} and pass it as chat_template",
        )


def _sft(encoder: Encoder, row: Row, where: str) -> _Made:
    options = encoder.options
    masked = options.assistant_only_loss
    start = 0
    if "completion" in row and "prompt" in row:
        if masked and isinstance(row["prompt"], str):
            raise DataError(
                "assistant_only_loss on plain text", where=where, way_out="leave assistant_only_loss out"
            )
        alone, ids, mask = encoder.continued(row, "completion", where, mask=masked)
        prompt_length = common_prefix(alone, ids)
        if prompt_length < len(alone):
            encoder.ledger.move_prompt_end()
        if prompt_length == len(ids):
            raise UnfitError("the completion has no tokens")
        start = prompt_length if options.completion_only_loss is not False else 0
    else:
        value = row["messages"] if "messages" in row else encoder.closed(row["text"])
        encoded = encoder.encode(
            value, row, where, **({"return_assistant_tokens_mask": True} if masked else {})
        )
        ids, mask = encoded["input_ids"], encoded.get("assistant_masks") if masked else None
    labels = [
        token if position >= start and (mask is None or mask[position]) else IGNORED
        for position, token in enumerate(ids)
    ]
    if not any(label != IGNORED for label in labels):
        raise UnfitError("no token carries loss (no assistant turn)" if masked else "the row has no tokens")
    kept = labels[: options.max_length]
    loss_tokens = sum(label != IGNORED for label in kept)
    if not loss_tokens:
        full = options.max_length is not None and start >= options.max_length
        raise UnfitError(PROMPT_FILLS if full else "cutting to max_length left no token with loss")
    return _Made(
        {"input_ids": list(ids[: options.max_length]), "labels": kept},
        len(kept),
        loss_tokens,
        len(ids) - len(kept),
    )


def _pair(encoder: Encoder, row: Row, where: str) -> _Made:
    prompt, (chosen, rejected) = encoder.split(row, ("chosen", "rejected"), where)
    room = encoder.room(prompt)
    kept = chosen[:room], rejected[:room]
    for column, ids in zip(("chosen", "rejected"), kept, strict=True):
        if not ids:
            raise UnfitError(f"'{column}' has no tokens")
    if kept[0] == kept[1]:
        by_cutting = chosen != rejected
        encoder.ledger.identical_pair(by_cutting=by_cutting)
        if encoder.options.drop_identical:
            after = " after cutting to max_length" if by_cutting else ""
            raise UnfitError(f"chosen and rejected are identical{after}")
    sizes = [len(ids) for ids in kept]
    return _Made(
        {"prompt_ids": prompt, "chosen_ids": kept[0], "rejected_ids": kept[1]},
        len(prompt) + max(sizes),
        sum(sizes),
        len(chosen) + len(rejected) - sum(sizes),
    )


def _unpaired(encoder: Encoder, row: Row, where: str) -> _Made:
    prompt, (completion,) = encoder.split(row, ("completion",), where)
    kept = completion[: encoder.room(prompt)]
    if not kept:
        raise UnfitError("the completion has no tokens")
    columns: dict[str, list[int] | bool] = {
        "prompt_ids": prompt,
        "completion_ids": kept,
        "label": row["label"],
    }
    return _Made(columns, len(prompt) + len(kept), len(kept), len(completion) - len(kept))


def _prompt(encoder: Encoder, row: Row, where: str) -> _Made:
    if isinstance(row["prompt"], str):
        ids = render_prompt(encoder.tokenizer, row["prompt"])
    else:
        ids = list(encoder.encode(row["prompt"], row, where, add_generation_prompt=True)["input_ids"])
    encoder.room(ids)
    return _Made({"prompt_ids": ids}, len(ids), 0, 0)


_MAKERS: dict[Shape, Callable[[Encoder, Row, str], _Made]] = {
    "prompt_completion": _sft,
    "messages": _sft,
    "text": _sft,
    "preference": _pair,
    "unpaired": _unpaired,
    "prompt": _prompt,
}


def _carried(row: Row, column: str, where: str) -> Any:
    if column not in row:
        raise DataError(
            f"the column '{column}' is missing", where=where, way_out="take it out of carry, or add it"
        )
    return row[column]
