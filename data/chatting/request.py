"""What is asked of an OpenAI-compatible server, and what comes back: plain values, no connection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from data.errors import UserError

# As in trainers.config: what changes the cost and never the result.
_COSMETIC: Any = {"cosmetic": True}


class ServerError(UserError):
    """A server cannot be reached, refuses, or answers otherwise than its interface says."""


class ServerOptions(BaseModel):
    """An OpenAI-compatible server: a hosted one, or vLLM, llama.cpp, Ollama and their like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Annotated[str, Field(min_length=1)]
    """Where its interface begins, such as `http://127.0.0.1:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """Its name for the model."""
    api_key_env: Annotated[str | None, Field(min_length=1, json_schema_extra=_COSMETIC)] = None
    """The environment variable that holds the key; the key itself is never written anywhere. null: no key is sent."""
    concurrency: Annotated[int, Field(ge=1, le=1024, json_schema_extra=_COSMETIC)] = 8
    """Requests under way at the same time."""
    retries: Annotated[int, Field(ge=0, le=100, json_schema_extra=_COSMETIC)] = 3
    """How often a request is sent again after 429, 5xx, a timeout or a broken connection, ever later."""
    timeout: Annotated[float, Field(gt=0, json_schema_extra=_COSMETIC)] = 60.0
    """Seconds without a byte from the server after which a request is given up."""
    requests_per_minute: Annotated[float | None, Field(gt=0, json_schema_extra=_COSMETIC)] = None
    """Requests are spaced so that no minute has more, those sent again included. null: no limit."""
    max_tokens_field: Annotated[str, Field(pattern="^max_(completion_)?tokens$")] = "max_tokens"
    """The server's name for the longest answer: `max_tokens`, or `max_completion_tokens` where it says so."""

    @field_validator("base_url")
    @classmethod
    def _plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must begin with http:// or https:// and a host")
        try:
            _ = parts.port
        except ValueError as fault:
            raise ValueError(f"base_url has no such port: {fault}") from fault
        if parts.username or parts.password:
            raise ValueError("base_url must not hold a password: name its variable in api_key_env")
        if parts.query or parts.fragment:
            raise ValueError("base_url must end before ? and #")
        return value.rstrip("/")


@dataclass(frozen=True)
class ChatRequest:
    """One answer that is wanted. `name` is for messages and does not make it another request."""

    name: str
    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields that only some servers know, such as top_k."""

    def body(self, options: ServerOptions) -> dict[str, Any]:
        told: dict[str, Any] = {
            "model": options.model,
            "messages": [dict(message) for message in self.messages],
            options.max_tokens_field: self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.seed is not None:
            told["seed"] = self.seed
        if self.stop:
            told["stop"] = list(self.stop)
        return told | dict(self.extra)

    def key(self, options: ServerOptions) -> str:
        """What the answer depends on: where it is asked, and everything that is sent but the key."""
        content = json.dumps([options.base_url, self.body(options)], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class ChatReply:
    """One answer."""

    text: str
    finish_reason: str
    """As the server says: `stop`, `length`, `content_filter`, …"""
    stopped_at: str | None = None
    """The stop string that ended it, where the server tells; "" where it tells that none did."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """None where the server does not count."""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def read_reply(found: object) -> ChatReply:
    """The first choice of a reply; a ValueError names what is missing."""
    reply = _mapping(found, "the reply")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError("`choices` is missing or empty")
    choice = _mapping(cast("list[object]", choices)[0], "`choices[0]`")
    message = _mapping(choice.get("message"), "`choices[0].message`")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise ValueError(f"`choices[0].message.content` is a {type(content).__name__}, not text")
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        raise ValueError(f"`choices[0].finish_reason` is {reason!r}, not text")
    stopped: str | None = None
    if "stop_reason" in choice:  # vLLM's: the string, a token's number, or null at the model's own end
        told = choice["stop_reason"]
        stopped = told if isinstance(told, str) else ""
    usage = reply.get("usage")
    counts = cast("dict[str, object]", usage) if isinstance(usage, dict) else {}
    return ChatReply(
        content or "", reason, stopped, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    )  # fmt: skip


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {'missing' if value is None else f'a {type(value).__name__}'}")
    return cast("dict[str, Any]", value)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
