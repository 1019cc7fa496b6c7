"""Records: the shapes a row can have, named as TRL names them, and the check that a row has its shape."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal, NamedTuple, cast

from data.errors import DataError
from data.ledger import Ledger

Shape = Literal["preference", "unpaired", "prompt_completion", "messages", "text", "prompt"]
Row = dict[str, Any]


class Placed(NamedTuple):
    """A row and the place it came from, such as `pairs.jsonl:12`."""

    where: str
    row: Row


# The most telling columns first: a row that has `chosen` and `rejected` beside `messages` is a pair.
COLUMNS: dict[Shape, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
    "prompt": ("prompt",),
}
_KINDS = {
    "NoneType": "null",
    "str": "text",
    "bool": "a truth value",
    "int": "a number",
    "float": "a number",
    "list": "a list",
    "dict": "an object",
}
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def shape_of(row_keys: Collection[str], among: Collection[Shape] | None = None) -> Shape:
    """The shape that these columns make; `among` restricts the answer to what the caller can use."""
    for shape, columns in COLUMNS.items():
        # The prompt of a pair may be the shared start of its two conversations.
        needed = columns[1:] if shape == "preference" else columns
        if (among is None or shape in among) and all(column in row_keys for column in needed):
            return shape
    wanted = [
        f"{shape} ({', '.join(columns)})"
        for shape, columns in COLUMNS.items()
        if among is None or shape in among
    ]
    raise DataError(
        f"the columns {', '.join(sorted(row_keys)) or '(none)'} make no usable row",
        way_out=f"rows can be {'; '.join(wanted)}. Rename with columns: {{our name: their name}}",
    )


def with_shape(
    rows: Iterable[Placed], among: Collection[Shape] | None = None
) -> tuple[Shape, Iterator[Placed]]:
    """The shape of the first row, and all rows again."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        raise DataError("the dataset has no rows", way_out="check what writes it")
    try:
        shape = shape_of(first.row.keys(), among)
    except DataError as fault:
        raise DataError(fault.what, where=first.where, way_out=fault.way_out) from fault
    return shape, chain([first], iterator)


def placed(rows: Iterable[Row], source: str, ledger: Ledger | None = None) -> Iterator[Placed]:
    """Rows made in memory, numbered from 1 and counted as read."""
    for number, row in enumerate(rows, start=1):
        if ledger is not None:
            ledger.count_read(source)
        yield Placed(f"{source}:row {number}", row)


def check_row(row: Row, shape: Shape, where: str) -> Row:
    """The row, fit to be tokenised; other columns are kept. Raises DataError naming row and column.

    `what` of the error holds nothing of the row itself, so that equal faults can be counted together.
    """
    if shape == "preference":
        row = _explicit_prompt(row, where)
    kinds: dict[str, str] = {}
    for column in COLUMNS[shape]:
        if column not in row:
            raise DataError(
                f"the column '{column}' is missing",
                where=where,
                way_out=f"a {shape} row needs {', '.join(COLUMNS[shape])}: not {', '.join(sorted(row))}. "
                "Rename with columns: {our name: their name}",
            )
        value: object = row[column]
        if value is None:
            raise DataError(f"'{column}' is null", where=where, way_out="fill it in, or leave the row out")
        if column == "label":
            row = {**row, "label": _label(value, where)}
        elif isinstance(value, str) and column != "messages":
            _check_text(value, f"'{column}'", where)
            kinds[column] = "plain text"
        elif isinstance(value, list) and column != "text":
            _check_messages(cast("list[object]", value), column, where)
            kinds[column] = "a conversation"
        else:
            allowed = {"messages": "a list of messages", "text": "text"}.get(
                column, "text or a list of messages"
            )
            raise DataError(
                f"'{column}' is {_kind(cast('object', value))}, not {allowed}",
                where=where,
                way_out='a message is {"role", "content"}',
            )
    if len(set(kinds.values())) > 1:
        raise DataError(
            " but ".join(f"'{column}' is {kind}" for column, kind in kinds.items()),
            where=where,
            way_out="write all of them as plain text, or all as lists of messages",
        )
    return row


def check_rows(
    rows: Iterable[Placed], shape: Shape, ledger: Ledger, on_bad_row: Literal["error", "drop"] = "error"
) -> Iterator[Placed]:
    """The rows that have their shape; the others raise, or are dropped and counted by fault."""
    for where, row in rows:
        try:
            fit = check_row(row, shape, where)
        except DataError as fault:
            if on_bad_row == "error":
                raise
            ledger.drop(fault.what, where)
            continue
        yield Placed(where, fit)


def unpair(rows: Iterable[Placed]) -> Iterator[Placed]:
    """Each checked pair as two unpaired rows: the chosen completion (true), then the rejected one (false)."""
    for where, row in rows:
        rest = {key: value for key, value in row.items() if key not in ("chosen", "rejected")}
        for column, label in (("chosen", True), ("rejected", False)):
            yield Placed(f"{where} {column}", {**rest, "completion": row[column], "label": label})


def _explicit_prompt(row: Row, where: str) -> Row:
    """The pair with its shared start as `prompt`, cut where TRL's `extract_prompt` cuts it."""
    chosen: Any = row.get("chosen")
    rejected: Any = row.get("rejected")
    both: list[Any] = [chosen, rejected]
    if not (chosen and rejected and any(all(isinstance(one, kind) for one in both) for kind in (str, list))):
        return row  # check_row says what is wrong with it
    start = _shared_start(chosen, rejected)
    # UltraFeedback repeats a plain-text prompt in both conversations: it must not stand twice.
    if "prompt" in row and (isinstance(chosen, str) or not _repeated(row["prompt"], chosen[:start])):
        return row
    if start == 0:
        raise DataError(
            "there is no 'prompt', and 'chosen' and 'rejected' have no shared start to take it from",
            where=where,
            way_out="add a prompt column, or begin both conversations with the same messages",
        )
    return {**row, "prompt": chosen[:start], "chosen": chosen[start:], "rejected": rejected[start:]}


def _repeated(prompt: Any, start: list[Any]) -> bool:
    if isinstance(prompt, str):
        turns = [cast("Mapping[str, Any]", turn) for turn in start if isinstance(turn, dict)]
        return any(turn.get("content") == prompt for turn in turns)
    return bool(prompt) and start[: len(prompt)] == prompt


def _shared_start(chosen: list[Any], rejected: list[Any]) -> int:
    shortest = min(len(chosen), len(rejected))
    for index in range(shortest):
        if chosen[index] != rejected[index]:
            # In plain text the blank before the answer belongs to the answer: that is how tokens are cut.
            return index - 1 if index and chosen[index - 1] == " " else index
    return shortest - 1  # one is the start of the other: both still need an answer


def _label(value: object, where: str) -> bool:
    # 0/1 is how numeric tables say it, text is how CSV does; anything else is a guess.
    truth = _TRUTH.get(str(value).strip().lower()) if isinstance(value, (bool, int, str)) else None
    if truth is None:
        raise DataError("'label' is not true or false", where=where, way_out="write true, false, 1 or 0")
    return truth


def _check_text(text: str, column: str, where: str) -> None:
    if not text.strip():
        raise DataError(f"{column} is empty", where=where, way_out="fill it in, or leave the row out")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise DataError(
            f"{column} holds half a character (a lone surrogate)",
            where=where,
            way_out="a \\ud83d without its second half: write the character itself, in UTF-8",
        ) from fault


def _check_messages(messages: list[object], column: str, where: str) -> None:
    if not messages:
        raise DataError(
            f"'{column}' has no messages", where=where, way_out="fill it in, or leave the row out"
        )
    for index, message in enumerate(messages):
        place = f"{where} {column}[{index}]"
        if not isinstance(message, dict):
            raise DataError(
                f"'{column}' holds {_kind(message)}, not a message",
                where=place,
                way_out='a message is {"role": "user", "content": "…"}',
            )
        fields = cast("dict[str, object]", message)
        role, content = fields.get("role"), fields.get("content")
        if not isinstance(role, str) or not role:
            raise DataError(
                f"a message of '{column}' has no role",
                where=place,
                way_out='add "role": "system", "user" or "assistant"; sharegpt\'s from/value must be renamed',
            )
        if isinstance(content, str):
            if (
                content or role != "system"
            ):  # an empty system message means none, and public data is full of them
                _check_text(content, f"a message of '{column}'", place)
        elif not (fields.get("tool_calls") or (isinstance(content, list) and content)):
            # A list is the block form that vision processors take; a tool call may stand without content.
            state = (
                "is empty" if content in (None, []) else f"has {_kind(cast('object', content))} as content"
            )
            raise DataError(f"a message of '{column}' {state}", where=place, way_out="give it text")


def _kind(value: object) -> str:
    return _KINDS.get(type(value).__name__, f"a {type(value).__name__}")
