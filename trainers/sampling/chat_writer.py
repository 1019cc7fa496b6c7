"""Replies of a model to chats, in batches; the model is loaded only if there is something to write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.encoding import Encoder, TokeniseOptions
from data.errors import DataError
from data.jsonl import append_jsonl, iterate_jsonl
from data.ledger import Ledger
from data.radio.rationales import Message
from trainers.config import GenerationOptions, ModelOptions
from trainers.work import Work

if TYPE_CHECKING:
    from trainers.sampling.generate import Answer


class ChatWriter:
    """One reply for each chat, in their order. Its random numbers depend on the seed and the chat alone."""

    def __init__(
        self,
        start: str,
        model: ModelOptions,
        options: GenerationOptions,
        work: Work,
        *,
        way_out: str,
        greedy: bool = False,
    ) -> None:
        self.start = start
        self.model = model
        self.options = options
        self.work = work
        self.greedy = greedy
        self.way_out = way_out
        """What to do where a chat and its reply do not fit into the model's context."""
        self.written = 0
        self.cut = 0
        """Of these, the ones that stopped at max_new_tokens."""
        self._loaded: Any = None

    def __call__(self, chats: Sequence[list[Message]]) -> list[str]:
        from trainers.sampling.generate import generate

        keys = [chat_key(chat) for chat in chats]
        prompts = {key: self._ids(chat) for key, chat in zip(keys, chats, strict=True)}
        found: dict[str, str] = {}

        def keep(answers: list[Answer]) -> None:
            found.update((answer.key, answer.text) for answer in answers)

        model = self._load()
        tally = generate(
            model.model,
            model.tokenizer,
            prompts,
            self.options,
            greedy=self.greedy,
            on_done=keep,
            work=self.work,
        )
        self.written += tally.answers
        self.cut += tally.cut
        return [found[key] for key in keys]

    def _load(self) -> Any:
        if self._loaded is None:
            from trainers.models import load_policy

            self._loaded = load_policy(self.start, self.model, self.work)
        return self._loaded

    def _ids(self, chat: list[Message]) -> list[int]:
        from trainers.sampling.prompts import context_of

        loaded = self._load()
        encoder = Encoder(loaded.tokenizer, TokeniseOptions(), Ledger(name="chats"))
        place = f"the chat that ends in {str(chat[-1]['content'])[:60]!r}"
        ids = list(encoder.encode(chat, {}, place, add_generation_prompt=True)["input_ids"])
        context, room = context_of(loaded.model), self.options.max_new_tokens
        if context is not None and len(ids) + room > context:
            raise DataError(
                f"{len(ids)} tokens and a reply of up to {room} do not fit into the model's context of {context}",
                where=place,
                way_out=self.way_out,
            )
        return ids


class KeptReplies:
    """A writer whose replies are on disk by chat: what was written once is not written again."""

    def __init__(self, writer: ChatWriter, path: Path) -> None:
        self.writer = writer
        self.path = path
        self.from_file = 0
        rows = iterate_jsonl(path, torn="skip") if path.is_file() else ()
        self._replies = {str(row["chat"]): str(row["reply"]) for _, row in rows}

    def __call__(self, chats: Sequence[list[Message]]) -> list[str]:
        missing = {chat_key(chat): chat for chat in chats}
        self.from_file += sum(key in self._replies for key in missing)
        waiting = [(key, chat) for key, chat in missing.items() if key not in self._replies]
        # A few batches at a time: what a kill loses at most.
        size = 4 * self.writer.options.batch_size
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            replies = self.writer([chat for _, chat in part])
            made = {key: reply for (key, _), reply in zip(part, replies, strict=True)}
            append_jsonl(self.path, [{"chat": key, "reply": reply} for key, reply in made.items()])
            self._replies |= made
        return [self._replies[chat_key(chat)] for chat in chats]


def chat_key(chat: Sequence[Message]) -> str:
    return hashlib.sha256(json.dumps(list(chat), ensure_ascii=False).encode()).hexdigest()[:24]
