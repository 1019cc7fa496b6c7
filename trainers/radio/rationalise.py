"""Rationales from a model that is loaded here, or from a server; what was asked once is kept, whichever run asked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from data.chatting.reply_cache import ReplyCache
from data.chatting.server import ChatRequest, ChatServer, ServerOptions
from data.errors import DataError
from data.jsonl import replacing, write_jsonl_atomic
from data.ledger import Ledger
from data.radio.options import RationalePeople
from data.radio.rationales import (
    Message,
    collect_rationales,
    kept_rationales,
    question_fields,
    read_rationales,
    request,
    request_mark,
)
from data.sources import Mixture, read
from trainers.config import ModelOptions, SamplingOptions
from trainers.fingerprint import fingerprint, only, start_identity
from trainers.radio.config import RationaleOptions
from trainers.radio.locking import lock_file
from trainers.sampling.asking import answer_seed
from trainers.sampling.chat_writer import ChatWriter, chat_key
from trainers.work import Work

FIGURES = "rationales.json"
PEOPLE = "people.json"
DRAFTS = "drafts.jsonl"
"""What a model or a server wrote, where people have the last word."""
SENT_TOGETHER = 512
"""Requests between two looks at what is kept; the server's own cache keeps each reply as it comes."""


def by_model(
    options: RationaleOptions,
    model_options: ModelOptions,
    start: str,
    questions: Mixture,
    base: Path,
    out: Path,
    work: Work,
) -> dict[str, Any]:
    """Write a row `{id, question, golden_answers, reason}` for every question; return the figures."""
    asked = _questions(questions, base)
    mark = fingerprint(
        "rationales 1",
        only(RationaleOptions, options),
        only(ModelOptions, model_options),
        start_identity(start),
    )
    sampling = {key: getattr(options, key) for key in RationaleOptions.model_fields}
    drawn = SamplingOptions.model_validate({**sampling, "num_return_sequences": 1})
    writer = ChatWriter(start, only(ModelOptions, model_options), drawn, work, way_out="lower max_new_tokens")
    with closing(_Kept(work, mark)) as kept:
        figures = collect_rationales(asked, writer, kept.path, batch_size=4 * options.batch_size)
        return _finish(asked, kept.path, out, work, {**figures, "asked_and_cut": writer.cut})


def by_server(
    options: RationaleOptions, server: ServerOptions, questions: Mixture, base: Path, out: Path, work: Work
) -> dict[str, Any]:
    """The same from an OpenAI-compatible server: a reply is on disk before anybody sees it."""
    asked = _questions(questions, base)
    mark = fingerprint("rationales 1", only(RationaleOptions, options), server)
    cut = 0
    with (
        closing(_Kept(work, mark)) as kept,
        ChatServer(server, cache=ReplyCache(kept.path.with_suffix(".replies.jsonl")), say=work.say) as line,
    ):

        def generate(chats: Sequence[list[Message]]) -> list[str]:
            nonlocal cut
            found: list[str] = []
            with closing(line.complete(_requests(chats, options))) as replies:
                for reply in replies:
                    cut += reply.finish_reason == "length"
                    found.append(reply.text)
                    work.progress(done=len(found), total=len(chats), unit="rationales", requests=line.sent)
            return found

        figures = collect_rationales(asked, generate, kept.path, batch_size=SENT_TOGETHER)
        told = {
            **figures,
            "asked_and_cut": cut,
            "requests": line.sent,
            "requests_sent_again": line.sent_again,
        }
        return _finish(asked, kept.path, out, work, told)


def mended(people: RationalePeople, questions: Mixture, base: Path, out: Path, work: Work) -> dict[str, Any]:
    """What people made of the drafts in `out`, which it takes the place of; VotesMissing until they are done."""
    from data.radio.people import by_people

    drafts = out.with_name(DRAFTS)
    if out.is_file():
        os.replace(out, drafts)
    reasons = read_rationales(drafts) if drafts.is_file() else {}
    made = by_people(people, _questions(questions, base), reasons, out.parent)
    write_jsonl_atomic(out, made.rows)
    with replacing(out.with_name(PEOPLE)) as file:
        file.write(json.dumps(made.figures, indent=2).encode() + b"\n")
    without = made.figures["questions"] - len(made.rows)
    if without:
        work.say(f"{without:,} questions got no rationale from people; `kind: radio` leaves them out")
    return made.figures


class _Kept:
    """The file that one way of asking writes, and its lock."""

    def __init__(self, work: Work, mark: str) -> None:
        folder = (work.store or work.scratch) / "rationales"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{mark}.jsonl"
        self._lock = lock_file(folder / f"{mark}.lock", "these rationales")

    def close(self) -> None:
        self._lock.close()


def _questions(mixture: Mixture, base: Path) -> list[dict[str, Any]]:
    """All questions, checked before anything is asked or paid for."""
    found: dict[str, dict[str, Any]] = {}
    for where, row in read(mixture, base, Ledger(name="questions")):
        key, text, answers = question_fields(row, where)
        if key in found:
            raise DataError(
                f"the question id {key!r} stands twice", where=where, way_out="give each question its own id"
            )
        found[key] = {"id": key, "question": text, "golden_answers": list(answers)}
    if not found:
        raise DataError("there are no questions", where=", ".join(s.path for s in mixture.sources))
    return list(found.values())


def _finish(
    questions: list[dict[str, Any]], kept: Path, out: Path, work: Work, figures: dict[str, Any]
) -> dict[str, Any]:
    reasons = kept_rationales(kept)

    def rows() -> Iterator[dict[str, Any]]:
        for row in questions:
            chat = request(row["question"], row["golden_answers"])
            yield {**row, "reason": reasons[request_mark(row["id"], chat)]}

    write_jsonl_atomic(out, rows())
    with replacing(out.with_name(FIGURES)) as file:
        file.write(json.dumps(figures, indent=2).encode() + b"\n")
    if figures["found"]:
        work.say(f"{figures['found']:,} of {figures['questions']:,} rationales were kept from before")
    if figures["empty"]:
        work.say(f"{figures['empty']:,} rationales are empty; `kind: radio` leaves their questions out")
    if figures["asked_and_cut"]:
        work.say(f"{figures['asked_and_cut']:,} rationales were cut at max_new_tokens")
    return figures


def _requests(chats: Sequence[list[Message]], options: RationaleOptions) -> Iterator[ChatRequest]:
    extra: dict[str, Any] = {"top_k": options.top_k} if options.top_k else {}
    for chat in chats:
        yield ChatRequest(
            name=f"rationale for {chat[1]['content'][:60]!r}",
            messages=chat,
            max_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=answer_seed(options.seed, chat_key(chat), 0),
            stop=options.stop_strings,
            extra=extra,
        )
