"""One request to an OpenAI-compatible server: sent again while there is hope, and told in plain words when not."""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx2 as httpx

from data.chatting.request import ChatReply, ServerError, ServerOptions, read_reply

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before a request is sent again: twice as long each time, up to a limit."""
LONGEST_RETRY_AFTER = 600.0
"""A server that asks for more patience than this is not waited for."""
SHOWN = 300
_AGAIN = frozenset({408, 409, 425, 429})
_KEPT = "Run the same command again: what was answered is kept."


class Stopped(Exception):  # noqa: N818 - it is no error of its own: another request failed, or the caller left
    """The request was not sent, or not again, because nobody waits for it any more."""


@dataclass(frozen=True)
class _Fault:
    what: str
    way_out: str
    again: bool = False
    wait: float | None = None
    """Seconds that the server asks for."""


class Gate:
    """Lets requests through at the rate that is allowed, and none while the server asks for a pause."""

    def __init__(self, per_minute: float | None) -> None:
        self._step = 60.0 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise Stopped

    def enter(self) -> None:
        self.sleep(0)
        while True:
            with self._lock:
                now = time.monotonic()
                wait = self._next - now
                if wait <= 0:
                    self._next = now + self._step
                    return
            self.sleep(wait)


class Line:
    """The connection: thread-safe, and the only holder of the key."""

    def __init__(self, options: ServerOptions, key: str | None, say: Callable[[str], None]) -> None:
        self.options = options
        self.gate = Gate(options.requests_per_minute)
        self.sent = 0
        self.sent_again = 0
        self._say = say
        self._key = key
        self._counting = threading.Lock()
        self._url = f"{options.base_url}/chat/completions"
        self._client = httpx.Client(
            timeout=options.timeout,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=options.concurrency),
        )

    def close(self) -> None:
        self._client.close()

    def ask(self, body: Mapping[str, Any], name: str) -> ChatReply:
        for attempt in range(self.options.retries + 1):
            self.gate.enter()
            with self._counting:
                self.sent += 1
                self.sent_again += attempt > 0
            found = self._send(body)
            if isinstance(found, ChatReply):
                return found
            if not found.again or attempt == self.options.retries:
                tries = f" ({attempt + 1} tries)" if attempt else ""
                raise ServerError(f"{name}: {found.what}{tries}", where=self._url, way_out=found.way_out)
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.75, 1.25)
            if found.wait is not None:
                # The others would be turned away as well.
                self.gate.pause(found.wait)
                wait = found.wait
            self._say(f"{name}: {found.what}; sent again in {wait:.1f} s")
            self.gate.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, body: Mapping[str, Any]) -> ChatReply | _Fault:
        try:
            response = self._client.post(self._url, json=body)
        except httpx.TimeoutException:
            return _Fault(
                f"no answer within {self.options.timeout:g} s",
                "Raise `timeout`, or lower `concurrency` if the server is slow.",
                again=True,
            )
        except httpx.ConnectError as fault:
            return _Fault(
                f"no connection: {self._safe(str(fault))}",
                "Check that the server runs and that `base_url` has its host and port. " + _KEPT,
                again=True,
            )
        except httpx.RequestError as fault:
            return _Fault(
                f"the connection broke: {self._safe(str(fault)) or type(fault).__name__}", _KEPT, again=True
            )
        if response.status_code != 200:
            return self._refused(response)
        try:
            found: object = json.loads(response.content)
        except ValueError:
            return _Fault(
                f"status 200, but the reply is not JSON: {self._excerpt(response)}",
                "Check that `base_url` is the interface itself, not a web page or a proxy before it.",
                again=True,
            )
        try:
            return read_reply(found)
        except ValueError as fault:
            return _Fault(
                f"status 200, but not the reply of a chat completion: {fault}",
                "Check that the server speaks OpenAI's chat completions at `base_url`.",
            )

    def _refused(self, response: httpx.Response) -> _Fault:
        status, options = response.status_code, self.options
        said = f"status {status}: {self._excerpt(response)}"
        if status in (401, 403):
            # What a server says to a wrong key may hold a part of the key.
            way_out = (
                f"Check the key in the environment variable {options.api_key_env}."
                if options.api_key_env
                else "It wants a key: name the environment variable that holds it in `api_key_env`."
            )
            return _Fault(f"status {status}: the server does not accept the key", way_out)
        if status == 404:
            return _Fault(
                said, f"Check `base_url` (most end in /v1) and `model: {options.model}`.{self._models()}"
            )
        if 300 <= status < 400:
            return _Fault(
                f"status {status}: it points to {response.headers.get('location', 'another place')}",
                "Write the address it points to, without /chat/completions, as `base_url`.",
            )
        if status == 429 and "insufficient_quota" in response.text:
            return _Fault(said, "The account has no credit left. " + _KEPT)
        if status in _AGAIN or status >= 500:
            wait = _retry_after(response.headers.get("retry-after"))
            if wait is not None and wait > LONGEST_RETRY_AFTER:
                return _Fault(f"{said}; it asks to wait {wait:.0f} s", f"Wait so long. {_KEPT}")
            slower = "Lower `concurrency` or set `requests_per_minute`. " if status == 429 else ""
            return _Fault(said, slower + _KEPT, again=True, wait=wait)
        hint = " If it speaks of max_completion_tokens, write `max_tokens_field: max_completion_tokens`."
        hint = hint if "max_completion_tokens" in response.text else ""
        return _Fault(said, f"The server refuses the request: mend what it names.{hint}")

    def _models(self) -> str:
        """The names that the server has, as a sentence; nothing where it does not tell them."""
        try:
            found: object = json.loads(self._client.get(f"{self.options.base_url}/models").content)
        except (httpx.RequestError, ValueError):
            return ""
        entries = _inner(found, "data")
        held = [
            _inner(one, "id") for one in (cast("list[object]", entries) if isinstance(entries, list) else [])
        ]
        names = [name for name in held if isinstance(name, str)]
        return f" The server has: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}." if names else ""

    def _excerpt(self, response: httpx.Response) -> str:
        text = response.text
        try:
            found: object = json.loads(text)
        except ValueError:
            found = None
        for key in ("error", "message"):
            found = _inner(found, key) or found
        told = self._safe(" ".join((found if isinstance(found, str) else text).split()))
        return told[:SHOWN] + ("…" if len(told) > SHOWN else "") or "(nothing)"

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _inner(found: object, key: str) -> object:
    return cast("dict[str, object]", found).get(key) if isinstance(found, dict) else None


def _retry_after(value: str | None) -> float | None:
    """Seconds from now, from either form of the header; None where it is absent or neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
