"""Answers from an OpenAI-compatible server: several requests at a time, replies in the order asked, none paid twice."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from data.chatting.http import Line, Stopped
from data.chatting.reply_cache import ReplyCache
from data.chatting.request import ChatReply, ChatRequest, ServerError, ServerOptions
from data.errors import DataError, UserError

__all__ = ["ChatReply", "ChatRequest", "ChatServer", "ServerError", "ServerOptions"]

LOOK_AHEAD = 8
"""Requests handed out for each one under way, so that one slow reply does not make the others wait."""


def _quiet(_: str) -> None:
    """Nobody listens."""


class ChatServer:
    """A server that can be asked many things at once. Use it in a `with` block."""

    def __init__(
        self,
        options: ServerOptions,
        *,
        cache: ReplyCache | None = None,
        say: Callable[[str], None] = _quiet,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.options = options
        self.from_cache = 0
        """Requests of this process that the cache answered."""
        self._cache = cache
        self._line = Line(options, _key(options, environment), say)
        self._failure: UserError | None = None
        self._lock = threading.Lock()

    @property
    def sent(self) -> int:
        """Requests sent over the network, those sent again included."""
        return self._line.sent

    @property
    def sent_again(self) -> int:
        return self._line.sent_again

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()

    def complete(self, requests: Iterable[ChatRequest]) -> Generator[ChatReply]:
        """A reply for each request, in their order. Requests that are alike are sent once.

        When one fails for good, those under way are waited for and kept, no other is sent, and its error is raised.
        """
        pending: deque[Future[ChatReply]] = deque()
        asked: dict[str, Future[ChatReply]] = {}
        with ThreadPoolExecutor(self.options.concurrency, thread_name_prefix="chat") as pool:
            try:
                for request in requests:
                    key = request.key(self.options)
                    if key not in asked:
                        asked[key] = self._known(key) or pool.submit(self._ask, request, key)
                    pending.append(asked[key])
                    while pending and (
                        pending[0].done() or len(pending) >= LOOK_AHEAD * self.options.concurrency
                    ):
                        yield self._result(pending.popleft())
                while pending:
                    yield self._result(pending.popleft())
            finally:
                if pending or self._failure:
                    self._line.gate.stop()
                for future in pending:
                    future.cancel()

    def _known(self, key: str) -> Future[ChatReply] | None:
        found = self._cache.get(key) if self._cache is not None else None
        if found is None:
            return None
        try:
            reply = ChatReply(**found)
        except TypeError as fault:
            raise DataError(
                f"a kept reply is not one of these: {fault}",
                where=str(self._cache.path) if self._cache else None,
                way_out="Delete the file: its requests are sent again.",
            ) from fault
        self.from_cache += 1
        known: Future[ChatReply] = Future()
        known.set_result(reply)
        return known

    def _ask(self, request: ChatRequest, key: str) -> ChatReply:
        try:
            reply = self._line.ask(request.body(self.options), request.name)
            if self._cache is not None:
                self._cache.put(key, reply.to_json())
        except UserError as fault:  # A disk that is full ends it too: what cannot be kept is not asked for.
            with self._lock:
                self._failure = self._failure or fault
            self._line.gate.stop()
            raise
        return reply

    def _result(self, future: Future[ChatReply]) -> ChatReply:
        try:
            return future.result()
        except Stopped:
            if self._failure is None:
                raise
            raise self._failure from None


def _key(options: ServerOptions, environment: Mapping[str, str]) -> str | None:
    if options.api_key_env is None:
        return None
    key = environment.get(options.api_key_env, "").strip()
    if not key:
        raise ServerError(
            f"the environment variable {options.api_key_env} is not set or empty",
            where="api_key_env",
            way_out=f"export {options.api_key_env}=…, or leave api_key_env out if the server wants no key",
        )
    if not (key.isascii() and key.isprintable()):
        raise ServerError(
            f"the environment variable {options.api_key_env} holds no key: a key is plain letters and signs",
            where="api_key_env",
            way_out="copy the key again, without line breaks",
        )
    return key
