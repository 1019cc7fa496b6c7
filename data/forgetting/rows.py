"""Tokenised rows for unlearning: an answer to its prompt, and the templates that could stand in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from data.encoding import Encoder, TokeniseOptions, Tokenizer, UnfitError
from data.errors import DataError
from data.ledger import Ledger
from data.records import Placed, Row, check_row, with_shape


def template_texts(rows: Iterable[Placed], where: str) -> list[str]:
    """The texts of template rows, each once: of `text`, or of the completion of a prompt/completion row."""
    try:
        shape, rows = with_shape(rows, ("prompt_completion", "text"))
    except DataError as fault:
        raise DataError(
            fault.what, where=f"templates: {fault.where or where}", way_out=fault.way_out
        ) from fault
    found: dict[str, None] = {}
    for place, row in rows:
        fit = check_row(row, shape, place)
        found[_said(fit["completion"] if shape == "prompt_completion" else fit["text"]).strip()] = None
    return list(found)


def _said(value: object) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(str(turn.get("content", "")) for turn in cast("list[dict[str, Any]]", value))


def tokenise_answers(
    rows: Iterable[Placed], tokenizer: Tokenizer, max_length: int | None, ledger: Ledger
) -> Iterator[dict[str, Any]]:
    """`prompt_ids` and `completion_ids` of every row."""
    encoder = Encoder(tokenizer, TokeniseOptions(max_length=max_length), ledger)
    for where, row in rows:
        fit = check_row(row, "prompt_completion", where)
        made = _made(encoder, fit, ("completion",), where)
        if made is not None:
            yield {"prompt_ids": made[0], "completion_ids": made[1][0]}


def tokenise_with_templates(
    rows: Sequence[Placed],
    texts: list[str],
    each: int,
    tokenizer: Tokenizer,
    max_length: int | None,
    ledger: Ledger,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """`prompt_ids`, and as `completions` the answer to forget and the templates that this row is to meet, in turn.

    The order is drawn by (seed, row): none comes twice before all of a row's have come.
    """
    encoder = Encoder(tokenizer, TokeniseOptions(max_length=max_length), ledger)
    for index, (where, row) in enumerate(rows):
        fit = check_row(row, "prompt_completion", where)
        order: list[int] = np.random.default_rng([seed, index]).permutation(len(texts))[:each].tolist()
        drawn = {f"template{i}": _as_answer(texts[one], fit["completion"]) for i, one in enumerate(order)}
        made = _made(encoder, {**fit, **drawn}, ("completion", *drawn), where)
        if made is not None:
            yield {"prompt_ids": made[0], "completions": made[1]}


def _as_answer(text: str, answer: object) -> str | list[dict[str, str]]:
    """The template in the form of the answer whose place it takes."""
    if not isinstance(answer, str):
        return [{"role": "assistant", "content": text}]
    return answer[: len(answer) - len(answer.lstrip())] + text


def _made(
    encoder: Encoder, row: Row, columns: tuple[str, ...], where: str
) -> tuple[list[int], list[list[int]]] | None:
    ledger = encoder.ledger
    try:
        prompt, whole = encoder.split(row, columns, where)
        room = encoder.room(prompt)
        kept = [ids[:room] for ids in whole]
        if not all(kept):
            raise UnfitError("the completion has no tokens")
    except UnfitError as reason:
        ledger.drop(str(reason), where)
        return None
    sizes = [len(ids) for ids in kept]
    lost = sum(map(len, whole)) - sum(sizes)
    if lost:
        ledger.cut_row(lost)
    ledger.keep(length=len(prompt) + max(sizes), tokens=len(prompt) + sum(sizes), loss_tokens=sum(sizes))
    return prompt, kept
