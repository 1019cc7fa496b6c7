"""Greedy replies to readers' chats, kept beside the runs: what was read once for a question is not read again."""

from __future__ import annotations

from collections.abc import Sequence

from data.radio.rationales import Message
from trainers.config import GenerationOptions, ModelOptions
from trainers.fingerprint import fingerprint, start_identity
from trainers.radio.locking import lock_file
from trainers.sampling.chat_writer import ChatWriter, KeptReplies
from trainers.work import Work


class Replies:
    """A model that reads. Its lock ends with `close`."""

    def __init__(self, start: str, model: ModelOptions, asked: GenerationOptions, work: Work) -> None:
        way_out = "lower top_k or max_new_tokens, or take a reader with a longer context"
        writer = ChatWriter(start, model, asked, work, way_out=way_out, greedy=True)
        # The model is told by what it is, not by the name it goes by here.
        settings = model.model_dump(mode="json", exclude={"model", "dtype"}, exclude_defaults=True)
        mark = fingerprint("replies 1", asked, start_identity(start), model.dtype, *settings.items())
        folder = (work.store or work.scratch) / "replies"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(folder / f"{mark}.lock", "these replies")
        self._replies = KeptReplies(writer, folder / f"{mark}.jsonl")

    def __call__(self, chats: Sequence[list[Message]]) -> list[str]:
        return [reply.strip() for reply in self._replies(chats)]

    def figures(self) -> dict[str, int]:
        writer = self._replies.writer
        return {
            "replies_written": writer.written,
            "replies_cut": writer.cut,
            "replies_kept": self._replies.from_file,
        }

    def close(self) -> None:
        self._lock.close()
