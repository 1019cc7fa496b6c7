"""One row's texts and conversations as token ids, asked of the tokenizer the way TRL asks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field

from data.errors import DataError
from data.ledger import Ledger
from data.records import Row

PROMPT_FILLS = "the prompt alone fills max_length"


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    eos_token: Any
    eos_token_id: Any
    chat_template: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any: ...


class TokeniseOptions(BaseModel):
    """How rows become token ids. Names and meanings are TRL's where TRL has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: int | None = Field(default=None, gt=0)
    """Keep so many tokens from the start of each sequence. None: no limit."""
    completion_only_loss: bool | None = None
    """None: loss on the completion alone where there is one (prompt_completion), on everything elsewhere."""
    assistant_only_loss: bool = False
    """Loss on the assistant's turns alone; the chat template must mark them with {% generation %}."""
    append_eos: bool = True
    """End plain text (not conversations: the template ends those) with the end-of-sequence token."""
    drop_identical: bool = True
    """Drop pairs whose two completions are the same tokens: their preference gradient is zero."""
    on_bad_row: Literal["error", "drop"] = "error"
    chat_template: str | None = None
    """Instead of the tokenizer's own."""
    carry: tuple[str, ...] = ()
    """Columns to hand on beside the ids."""


class UnfitError(Exception):
    """The row cannot teach anything; the message is the reason that the ledger counts."""


def render_prompt(
    tokenizer: Tokenizer,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    chat_template: str | None = None,
    tools: Sequence[Any] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """The ids to sample a completion from: the same that training puts before one.

    Ids and not text, because a rendered template that is tokenised again gets a second begin-of-sequence.
    """
    if not isinstance(prompt, str):
        extra = {"chat_template": chat_template, "tools": tools, **(chat_template_kwargs or {})}
        encoded = tokenizer.apply_chat_template(
            list(prompt), tokenize=True, return_dict=True, add_generation_prompt=True, **extra
        )
        return list(encoded["input_ids"])
    ids: list[int] = list(tokenizer(text=prompt)["input_ids"])
    # Some tokenizers close every text; a completion after the end of the sequence makes no sense.
    closed = (
        len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(str(tokenizer.eos_token))
    )
    return ids[:-1] if closed else ids


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


class Encoder:
    """One row's texts and conversations to ids, the way TRL asks the tokenizer for them."""

    def __init__(self, tokenizer: Tokenizer, options: TokeniseOptions, ledger: Ledger) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.ledger = ledger

    def encode(self, value: Any, row: Row, where: str, **how: bool) -> Mapping[str, list[int]]:
        if isinstance(value, str):
            return cast("Mapping[str, list[int]]", self.tokenizer(text=value))
        from jinja2 import TemplateError

        tools: object = row.get("tools")
        extra: dict[str, Any] = {
            "chat_template": self.options.chat_template,
            "tools": json.loads(tools) if isinstance(tools, str) else tools,
            **(row.get("chat_template_kwargs") or {}),
        }
        if extra["chat_template"] is None and not self.tokenizer.chat_template:
            raise DataError(
                "a conversation, and the tokenizer has no chat template",
                where=where,
                way_out="take an instruct model's tokenizer, give chat_template, or write plain text",
            )
        try:
            return self.tokenizer.apply_chat_template(value, tokenize=True, return_dict=True, **how, **extra)
        except TemplateError as fault:
            raise DataError(
                f"the chat template refuses the conversation: {fault}",
                where=where,
                way_out="most templates want user and assistant in turn, and system only at the start",
            ) from fault

    def closed(self, text: str) -> str:
        if not self.options.append_eos:
            return text
        eos = self.tokenizer.eos_token
        if not eos:
            raise DataError("the tokenizer has no eos_token", way_out="set one, or give append_eos: false")
        return text if text.endswith(eos) else text + eos

    def continued(
        self, row: Row, column: str, where: str, *, mask: bool = False
    ) -> tuple[list[int], list[int], list[int] | None]:
        """Ids of the prompt alone, of prompt and completion, and the assistant mask of the latter."""
        prompt, completion = row["prompt"], row[column]
        alone = self.encode(prompt, row, where, add_generation_prompt=True)["input_ids"]
        whole = prompt + (self.closed(completion) if isinstance(completion, str) else completion)
        both = self.encode(whole, row, where, **({"return_assistant_tokens_mask": True} if mask else {}))
        return alone, both["input_ids"], both.get("assistant_masks") if mask else None

    def split(self, row: Row, columns: tuple[str, ...], where: str) -> tuple[list[int], list[list[int]]]:
        """The prompt up to where all completions part from it, and the completions from there."""
        alone: list[int] = []
        whole: list[list[int]] = []
        for column in columns:
            alone, both, _ = self.continued(row, column, where)
            whole.append(both)
        start = min(common_prefix(alone, ids) for ids in whole)
        if start < len(alone):
            self.ledger.move_prompt_end()
        return alone[:start], [ids[start:] for ids in whole]

    def room(self, prompt: list[int]) -> int | None:
        if self.options.max_length is None:
            return None
        if len(prompt) >= self.options.max_length:
            raise UnfitError(PROMPT_FILLS)
        return self.options.max_length - len(prompt)
