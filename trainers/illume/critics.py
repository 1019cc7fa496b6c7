"""Every critic by one call: a sheet of candidates goes in, a verdict for each comes out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from data.chatting.reply_cache import ReplyCache
from data.chatting.server import ChatRequest, ChatServer, ServerOptions
from data.illume.critic import Critic, ModelCritic, PeopleCritic, VotesCritic
from data.illume.model_judge import Chat, by_model
from data.illume.verdicts import Found, Sheet, by_file, by_rule
from trainers.config import GenerationOptions, ModelOptions
from trainers.illume.config import IllumeOptions
from trainers.sampling.asking import answer_seed
from trainers.sampling.chat_writer import ChatWriter, KeptReplies, chat_key
from trainers.work import Work

REPLIES = "judge.jsonl"
"""What a judge replied, in the iteration's scratch folder: a killed stage asks for the rest alone."""


def verdicts_of(
    critic: Critic,
    sheet: Sheet,
    folder: Path,
    base: Path,
    judge: str | None,
    options: IllumeOptions,
    work: Work,
) -> Found:
    """Raises VotesMissing where people have not answered yet. `folder` is the stage's, `work` the iteration's."""
    if isinstance(critic, PeopleCritic):
        from data.illume.people import by_people  # opens a database

        return by_people(critic, folder, base, sheet)
    if isinstance(critic, VotesCritic):
        return Found(by_file(critic, base, sheet))
    if isinstance(critic, ModelCritic):
        work.scratch.mkdir(parents=True, exist_ok=True)
        if critic.server is not None:
            return _by_server(critic, critic.server, sheet, work)
        if judge is None:
            raise ValueError("a model judges, and none is named")
        return _by_model(critic, judge, sheet, options, work)
    rule = by_rule(critic)
    return Found(
        {
            row["id"]: [rule(one["text"], sheet.items[row["id"]]) for one in row["candidates"]]
            for row in sheet.rows
        }
    )


def _by_model(critic: ModelCritic, judge: str, sheet: Sheet, options: IllumeOptions, work: Work) -> Found:
    how = GenerationOptions(
        max_new_tokens=critic.max_reply_tokens, batch_size=options.batch_size, generation_engine="prefill"
    )
    writer = ChatWriter(
        judge,
        ModelOptions(model=judge),
        how,
        work,
        way_out="lower max_new_tokens, or take a judge with a longer context",
        greedy=True,
    )
    return by_model(critic, sheet, KeptReplies(writer, work.scratch / REPLIES))


def _by_server(critic: ModelCritic, server: ServerOptions, sheet: Sheet, work: Work) -> Found:
    cache = ReplyCache(work.scratch / REPLIES)
    with ChatServer(server, cache=cache, say=work.say) as line:

        def generate(chats: Sequence[Chat]) -> list[str]:
            requests = (_request(critic, chat) for chat in chats)
            with closing(line.complete(requests)) as replies:
                found: list[str] = []
                for reply in replies:
                    found.append(reply.text)
                    work.progress(done=len(found), total=len(chats), unit="judgements", requests=line.sent)
            return found

        return by_model(critic, sheet, generate)


def _request(critic: ModelCritic, chat: Chat) -> ChatRequest:
    messages: Sequence[dict[str, Any]] = chat
    return ChatRequest(
        name=f"judgement of {chat[-1]['content'][:60]!r}",
        messages=messages,
        max_tokens=critic.max_reply_tokens,
        temperature=0.0,
        seed=answer_seed(0, chat_key(chat), 0),
    )
