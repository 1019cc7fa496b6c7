"""Candidates from an OpenAI-compatible server: every answer is a request with its own seed, and is paid for once.

Replies lie in a cache in the stage's scratch folder as they come. The same call sends only what is not in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from data.chatting.reply_cache import ReplyCache
from data.chatting.server import ChatReply, ChatRequest, ChatServer, ServerOptions
from data.sources import Mixture
from trainers.config import SamplingOptions
from trainers.fingerprint import fingerprint, only
from trainers.sampling.candidates import figures, finished, write
from trainers.sampling.prompts import Prompt, read_prompts
from trainers.work import Work

REPLIES = "replies.jsonl"
"""The cache, in the scratch folder."""


def ask(
    options: SamplingOptions, server: ServerOptions, prompts: Mixture, base: Path, out: Path, work: Work
) -> dict[str, Any]:
    """Write one row of candidates for each prompt to `out`; return the figures."""
    found, ledger = read_prompts(
        prompts, base, None, None, work, room=options.max_new_tokens, reserved=("candidates",)
    )
    mark = fingerprint(only(SamplingOptions, options), server, [[prompt.key, prompt.row] for prompt in found])
    if (earlier := finished(out, mark)) is not None:
        return earlier
    plain = sum(isinstance(prompt.row["prompt"], str) for prompt in found)
    if plain:
        work.say(f"{plain:,} prompts are plain text: each is sent as one user message")
    path = work.scratch / REPLIES
    cache = ReplyCache(path)
    samples = options.num_return_sequences
    total = len(found) * samples
    rows: list[dict[str, Any]] = []
    with ChatServer(server, cache=cache, say=work.say) as line:
        if len(cache):
            work.say(f"goes on: {len(cache):,} replies were kept, and are not paid for again")
        with closing(line.complete(_requests(found, options))) as replies:
            for prompt in found:
                candidates: list[dict[str, Any]] = []
                for index in range(samples):
                    candidates.append(_candidate(next(replies), index, options.stop_strings))
                    work.progress(
                        done=len(rows) * samples + index + 1,
                        total=total,
                        unit="answers",
                        requests=line.sent,
                        sent_again=line.sent_again,
                    )
                row = {"id": prompt.key, "prompt": prompt.row["prompt"], "candidates": candidates}
                rows.append(row | prompt.row)
        counted = figures(rows, ledger.rows_dropped) | {
            "requests": line.sent,
            "requests_sent_again": line.sent_again,
            "replies_from_cache": line.from_cache,
        }
    return write(out, rows, counted, mark, options, work, path)


def answer_seed(seed: int, key: str, index: int) -> int:
    """31 bits: servers differ in how large a seed may be, and none takes fewer."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}\0{index}".encode()).digest()[:4], "big") >> 1


def _requests(found: list[Prompt], options: SamplingOptions) -> Iterator[ChatRequest]:
    for prompt in found:
        asked: Any = prompt.row["prompt"]
        extra: dict[str, Any] = {"top_k": options.top_k} if options.top_k else {}
        if prompt.row.get("chat_template_kwargs"):
            extra["chat_template_kwargs"] = prompt.row["chat_template_kwargs"]
        for index in range(options.num_return_sequences):
            yield ChatRequest(
                name=f"prompt {prompt.key}, answer {index + 1}",
                messages=[{"role": "user", "content": asked}] if isinstance(asked, str) else asked,
                max_tokens=options.max_new_tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=answer_seed(options.seed, prompt.key, index),
                stop=options.stop_strings,
                extra=extra,
            )


def _candidate(reply: ChatReply, index: int, stops: tuple[str, ...]) -> dict[str, Any]:
    text, ended_by = reply.text, _ended_by(reply, stops)
    # Some servers leave the stop string in the text, or do not know stop strings at all.
    starts = [text.find(stop) for stop in stops if stop in text]
    if starts:
        text, ended_by = text[: min(starts)], "stop"
    return {
        "text": text,
        "index": index,
        "finished": ended_by in ("eos", "stop", "eos_or_stop"),
        "ended_by": ended_by,
        "logprob": None,
        "tokens": reply.completion_tokens,
    }


def _ended_by(reply: ChatReply, stops: tuple[str, ...]) -> str:
    """As for a model's answers; where the server does not tell an end token from a stop string, both."""
    if reply.finish_reason != "stop":
        return reply.finish_reason
    if not stops or reply.stopped_at == "":
        return "eos"
    return "stop" if reply.stopped_at else "eos_or_stop"
