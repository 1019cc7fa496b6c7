"""What every request passes before any route sees it: the person's token, the origin, the size, the pace.

A route cannot forget a check, because none of them is made in a route: without a token nothing answers but the door
(`/enter/TOKEN`), and below `/lead` and `/api/lead` nothing answers to anybody but a lead.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.feedback.people import Person, person_by_token
from data.feedback.store import Store

LARGEST_BODY = 2**20
BODY_SECONDS = 30.0
CSRF_HEADER = "x-heliograph"
DOOR = "/enter/"
LEADS_ONLY = ("/lead", "/api/lead")
HEADERS = (
    ("content-security-policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
     "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    ("x-robots-tag", "noindex, nofollow"),
)  # fmt: skip
STRANGER = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Your link, please</title>
<h1>This page opens with your own link</h1>
<p>Open the link that you were given. If it does not work any more, ask the person who gave it to you for a fresh one.
"""


Who = int | str
# Strangers' addresses are not remembered without end.
MOST_REMEMBERED = 10_000


@dataclass
class Pace:
    """So many requests a second for each person, or for a stranger's address, and a reserve for bursts."""

    rate: float = 20.0
    burst: float = 100.0
    _left: dict[Who, tuple[float, float]] = field(default_factory=dict[Who, tuple[float, float]])

    def wait(self, person: Who, now: float) -> float:
        """0 if the person may go on, else the seconds after which."""
        if len(self._left) > MOST_REMEMBERED:
            full = self.burst / self.rate
            self._left = {who: one for who, one in self._left.items() if now - one[1] < full}
        left, since = self._left.get(person, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.rate)
        if left < 1:
            self._left[person] = (left, now)
            return (1 - left) / self.rate
        self._left[person] = (left - 1, now)
        return 0.0


def csrf_token(token: str) -> str:
    """What a page of ours sends along with a change; another site's page can neither read nor make it."""
    return hashlib.sha256(b"page\0" + token.encode("utf-8", "surrogatepass")).hexdigest()


def cookie_name(store: Store, stage_id: int) -> str:
    """One for each stage: cookies do not tell ports apart, and two servers may run on one machine."""
    mark = hashlib.sha256(f"{store.shown}\0{stage_id}".encode()).hexdigest()
    return f"heliograph_{mark[:10]}"


class Guard:
    """The ASGI application around the application."""

    def __init__(self, app: ASGIApp, *, store: Store, cookie: str, pace: Pace) -> None:
        self.app = app
        self.store = store
        self.cookie = cookie
        self.pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _sealed(message["headers"])
            await send(message)

        answer = await self._refused(scope, receive)
        if isinstance(answer, Response):
            await answer(scope, receive, sealed)
        else:
            await self.app(scope, answer, sealed)

    async def _refused(self, scope: Scope, receive: Receive) -> Response | Receive:
        """A response that says no, or the body to go on with."""
        headers = Headers(scope=scope)
        path, method = scope["path"], scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            return told(405, "method", "only GET and POST are answered here")
        now = time.monotonic()
        if path.startswith(DOOR) and method == "GET":
            return self._too_fast(_address(scope), now) or receive
        token = _cookie(headers, self.cookie)
        try:
            person = await run_in_threadpool(person_by_token, self.store, token)
        except DBAPIError:
            return told(503, "busy", "the label store does not answer", "try again in a moment")
        if person is None:
            return self._too_fast(_address(scope), now) or _stranger(path)
        if slow := self._too_fast(person.id, now):
            return slow
        if _leads_only(path) and person.role != "lead":
            return told(403, "not_allowed", f"{person.name} is no lead", "ask a lead of the stage")
        scope.setdefault("state", {})
        scope["state"]["person"] = person
        scope["state"]["token"] = token
        if method != "POST":
            return receive
        if not _from_our_page(headers, token):
            return told(403, "forged", "the request does not come from the page", "reload the page")
        if headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return told(415, "type", "the body is not application/json")
        return await _body(headers, receive)

    def _too_fast(self, who: Who, now: float) -> Response | None:
        wait = self.pace.wait(who, now)
        if wait <= 0:
            return None
        slow = told(429, "pace", "too many requests", "wait a moment")
        slow.headers["retry-after"] = str(max(1, round(wait)))
        return slow


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def told(status: int, error: str, what: str, way_out: str | None = None, **more: Any) -> JSONResponse:
    """A refusal, in the one form that the page reads."""
    return JSONResponse({"error": error, "what": what, "way_out": way_out, **more}, status)


def person_of(state: Mapping[str, Any]) -> Person:
    """Whom the guard let in."""
    person = state["person"]
    if not isinstance(person, Person):
        raise TypeError("the guard was not passed")
    return person


def _sealed(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    more = [(name.encode(), value.encode()) for name, value in HEADERS if name.encode() not in there]
    if b"cache-control" not in there:
        more.append((b"cache-control", b"no-store"))
    return [*headers, *more]


def _stranger(path: str) -> Response:
    if path.startswith("/api/"):
        return told(
            401, "no_token", "your link has not been opened here", "open the link that you were given"
        )
    return HTMLResponse(STRANGER, 401)


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _leads_only(path: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in LEADS_ONLY)


def _from_our_page(headers: Headers, token: str) -> bool:
    # Compared by host alone: behind a TLS proxy the scheme that we see is not the browser's.
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return False
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    given = headers.get(CSRF_HEADER, "").encode("utf-8", "surrogatepass")
    return hmac.compare_digest(given, csrf_token(token).encode())


async def _body(headers: Headers, receive: Receive) -> Response | Receive:
    """The whole body at once, so that a large one is refused before anything reads it."""
    large = told(413, "too_large", f"the request is larger than {LARGEST_BODY} bytes", "shorten the text")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > LARGEST_BODY:
        return large
    parts = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return told(400, "gone", "the connection was closed")
                parts += message.get("body", b"")
                if len(parts) > LARGEST_BODY:
                    return large
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        return told(408, "slow", "the request did not arrive in time", "send it again")
    try:
        json.loads(bytes(parts))
    except (ValueError, RecursionError):
        return told(400, "not_json", "the body is not JSON")
    waiting: list[Message] = [{"type": "http.request", "body": bytes(parts), "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
