"""The client of a chat server against a real one: order, retries, limits, errors in plain words, paid once."""

from __future__ import annotations

import email.utils
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import data.chatting.http
from data.chatting.reply_cache import ReplyCache
from data.chatting.server import ChatReply, ChatRequest, ChatServer, ServerError, ServerOptions
from data.errors import DataError
from tests.chat_service import Answer, Service, completion, echo, failure, serving

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.chatting.http, "FIRST_WAIT", 0.02)


def asked(count: int, **more: Any) -> list[ChatRequest]:
    return [
        ChatRequest(f"q{i}", [{"role": "user", "content": f"question {i}"}], max_tokens=7, seed=i, **more)
        for i in range(count)
    ]


def ask(
    service: Service | str, requests: list[ChatRequest], cache: ReplyCache | None = None, **options: Any
) -> tuple[list[ChatReply], list[str], ChatServer]:
    said: list[str] = []
    url = service if isinstance(service, str) else service.base_url
    with ChatServer(
        ServerOptions.model_validate({"base_url": url, "model": "small", **options}),
        cache=cache,
        say=said.append,
        environment={"THE_KEY": KEY},
    ) as server:
        return list(server.complete(requests)), said, server


def test_replies_come_in_the_order_asked_with_everything_sent_on() -> None:
    def slow_first(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.2 if body["seed"] == 0 else 0.01)
        return echo(number, body)

    with serving(slow_first) as service:
        requests = asked(30, temperature=0.7, top_p=0.9, stop=["\n\n"], extra={"top_k": 5})
        replies, said, server = ask(service, requests, concurrency=6, api_key_env="THE_KEY")
    assert [reply.text for reply in replies] == [f"question {i} seed {i}" for i in range(30)]
    assert replies[0] == ChatReply("question 0 seed 0", "stop", None, 5, 4)
    first = next(body for body in service.bodies if body["seed"] == 3)
    assert first == {
        "model": "small", "messages": [{"role": "user", "content": "question 3"}], "max_tokens": 7,
        "temperature": 0.7, "top_p": 0.9, "seed": 3, "stop": ["\n\n"], "top_k": 5,
    }  # fmt: skip
    assert {headers["authorization"] for headers in service.headers} == {f"Bearer {KEY}"}
    assert 1 < service.most_open <= 6
    assert (service.count, server.sent, server.sent_again, said) == (30, 30, 0, [])


def test_without_a_key_none_is_sent_and_the_token_field_is_the_server_s() -> None:
    with serving() as service:
        ask(service, asked(1), max_tokens_field="max_completion_tokens")
    assert "authorization" not in service.headers[0]
    assert service.bodies[0]["max_completion_tokens"] == 7
    assert "max_tokens" not in service.bodies[0]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (failure(500, "out of breath"), "status 500: out of breath"),
        (failure(503, "loading"), "status 503: loading"),
        (failure(429, "too fast"), "status 429: too fast"),
        (None, "the connection broke: "),
        ((200, {}, b"<html>busy</html>"), "status 200, but the reply is not JSON: <html>busy</html>"),
        ((200, {}, b'{"choices": [{"mess'), 'status 200, but the reply is not JSON: {"choices": [{"mess'),
    ],
)
def test_what_may_pass_is_sent_again(bad: Answer, told: str) -> None:
    with serving(lambda number, body: bad if number < 2 else echo(number, body)) as service:
        replies, said, server = ask(service, asked(1), retries=2)
        assert replies[0].text == "question 0 seed 0"
        assert (service.count, server.sent, server.sent_again) == (3, 3, 2)
        assert [line.startswith(f"q0: {told}") for line in said] == [True, True]
    with serving(lambda number, body: bad) as service:
        with pytest.raises(ServerError) as fault:
            ask(service, asked(1), retries=1)
        assert fault.value.where == f"{service.base_url}/chat/completions"
        assert fault.value.what.startswith(f"q0: {told}")
        assert fault.value.what.endswith("(2 tries)")
        assert fault.value.way_out
        assert service.count == 2


def test_a_timeout_is_sent_again_and_told() -> None:
    def hangs(number: int, body: dict[str, Any]) -> Answer:
        if number == 0:
            time.sleep(1.0)
        return echo(number, body)

    with serving(hangs) as service:
        replies, said, _ = ask(service, asked(1), timeout=0.2)
    assert replies[0].text == "question 0 seed 0"
    assert said[0].startswith("q0: no answer within 0.2 s; sent again in ")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all_requests(form: str) -> None:
    began: list[float] = []

    def turns_away(number: int, body: dict[str, Any]) -> Answer:
        if number == 0:
            began.append(time.monotonic())
            # A date has whole seconds, so up to one of its two is lost.
            wait = "0.6" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
            return failure(429, "slow down", Retry_After=wait)
        return echo(number, body)

    with serving(turns_away) as service:
        replies, said, _ = ask(service, asked(4), concurrency=1)
    assert [reply.text for reply in replies] == [f"question {i} seed {i}" for i in range(4)]
    assert service.times[1] - began[0] >= 0.59
    assert len(said) == 1
    # The server would turn the others away too: none of them tries before its time.
    with serving(turns_away) as service:
        began.clear()
        ask(service, asked(12), concurrency=3)
        # Those under way when the reply arrives are through; from then on nobody knocks.
        assert [t for t in service.times if began[0] + 0.2 < t < began[0] + 0.55] == []


def test_a_server_that_asks_for_too_much_patience_is_not_waited_for() -> None:
    with serving(lambda *_: failure(429, "daily limit", Retry_After="3600")) as service:
        with pytest.raises(ServerError, match="daily limit; it asks to wait 3600 s") as fault:
            ask(service, asked(1))
        assert service.count == 1
    assert "what was answered is kept" in str(fault.value)


def test_requests_per_minute_spaces_them() -> None:
    with serving() as service:
        ask(service, asked(6), requests_per_minute=600, concurrency=6)
    gaps = [b - a for a, b in zip(service.times, service.times[1:], strict=False)]
    assert service.times[-1] - service.times[0] >= 5 * 0.1 - 0.05
    assert min(gaps) > 0.03


@pytest.mark.parametrize(
    ("answer", "options", "what", "way_out"),
    [
        (failure(401, f"Incorrect API key provided: {KEY}"), {"api_key_env": "THE_KEY"},
         "status 401: the server does not accept the key", "environment variable THE_KEY"),
        (failure(401, "no key"), {}, "status 401", "name the environment variable that holds it in `api_key_env`"),
        (failure(404, "The model `small` does not exist"), {}, "status 404: The model `small` does not exist",
         "`model: small`. The server has: small, large."),
        (failure(400, f"bad field, {KEY}"), {"api_key_env": "THE_KEY"}, "status 400: bad field, [key]",
         "The server refuses the request"),
        (failure(400, "use max_completion_tokens"), {}, "status 400", "max_tokens_field: max_completion_tokens"),
        (failure(429, "insufficient_quota: pay"), {}, "status 429", "no credit left"),
        ((308, {"Location": "https://elsewhere/v1"}, b""), {}, "it points to https://elsewhere/v1", "`base_url`"),
        ((200, {}, b"[]"), {}, "not the reply of a chat completion: the reply is a list", "chat completions"),
        ((200, {}, b'{"choices": []}'), {}, "`choices` is missing or empty", "chat completions"),
        ((200, {}, b'{"choices": [{"message": {"content": [1]}, "finish_reason": "stop"}]}'), {},
         "content` is a list, not text", "chat completions"),
        ((200, {}, b'{"choices": [{"message": {"content": "x"}}]}'), {}, "finish_reason` is None", "chat"),
    ],
)  # fmt: skip
def test_what_cannot_pass_fails_at_once_in_plain_words_without_the_key(
    answer: Answer, options: dict[str, Any], what: str, way_out: str
) -> None:
    with serving(lambda *_: answer) as service:
        with pytest.raises(ServerError) as fault:
            ask(service, asked(40), concurrency=2, **options)
        assert service.count <= 4  # those under way; none of the others was sent
    assert what in fault.value.what
    assert way_out in (fault.value.way_out or "")
    assert KEY not in str(fault.value)


def test_nobody_there_is_told_with_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match=r"q0: no connection: .* \(2 tries\)") as fault:
        ask(url, asked(1), retries=1)
    assert fault.value.where == f"{url}/chat/completions"


@pytest.mark.parametrize(("value", "what"), [("", "is not set or empty"), ("a\nb", "holds no key")])
def test_a_key_that_is_none_is_refused_before_anything_is_sent(value: str, what: str) -> None:
    options = ServerOptions(base_url="http://127.0.0.1:9/v1", model="m", api_key_env="THE_KEY")
    with pytest.raises(ServerError, match=f"THE_KEY {what}"):
        ChatServer(options, environment={"THE_KEY": value})


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "must begin with http"),
        ({"base_url": "http://me:word@host/v1"}, "must not hold a password"),
        ({"base_url": "http://host/v1?key=1"}, "must end before"),
        ({"base_url": "http://host:99999/v1"}, "no such port"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"api_key": "x"}, "Extra inputs"),
    ],
)
def test_options_that_cannot_work_are_refused(given: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        ServerOptions.model_validate({"base_url": "http://host/v1", "model": "m", **given})


def test_requests_that_are_alike_are_sent_once_and_those_that_differ_are_not() -> None:
    same = ChatRequest("a", [{"role": "user", "content": "x"}], max_tokens=5)
    again = ChatRequest("b", [{"role": "user", "content": "x"}], max_tokens=5)
    other = ChatRequest("c", [{"role": "user", "content": "x"}], max_tokens=6)
    with serving(lambda number, body: completion(f"reply {number}")) as service:
        replies, _, server = ask(service, [same, again, other, same], concurrency=1)
    assert [reply.text for reply in replies] == ["reply 0", "reply 0", "reply 1", "reply 0"]
    assert (service.count, server.sent) == (2, 2)
    options = ServerOptions(base_url=service.base_url, model="small")
    for changed in ({"model": "large"}, {"base_url": "http://elsewhere/v1"}):
        assert same.key(options) != same.key(options.model_copy(update=changed))
    assert same.key(options) == again.key(options.model_copy(update={"concurrency": 1, "timeout": 5.0}))


def test_failing_half_way_keeps_what_was_answered_and_sends_only_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "scratch" / "replies.jsonl"
    down = threading.Event()

    def fails_at_question_12(number: int, body: dict[str, Any]) -> Answer:
        if body["seed"] == 12 and not down.is_set():
            return failure(400, "no")
        return echo(number, body)

    with serving(fails_at_question_12) as service:
        with pytest.raises(ServerError, match="q12: status 400"):
            ask(service, asked(40), ReplyCache(path), concurrency=3)
        answered = {body["seed"] for body in service.bodies} - {12}
        kept = len(path.read_bytes().splitlines())
        assert 12 <= kept < 40
        assert kept == len(answered)  # what was under way was waited for: it is paid
        # The process died while it wrote: the torn line is asked for again.
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        down.set()
        before = service.count
        replies, _, server = ask(service, asked(40), ReplyCache(path), concurrency=3)
        assert [reply.text for reply in replies] == [f"question {i} seed {i}" for i in range(40)]
        assert service.count - before == 40 - (kept - 1)
        assert server.from_cache == kept - 1
        before = service.count
        again, _, server = ask(service, asked(40), ReplyCache(path))
        assert (again, service.count, server.from_cache) == (replies, before, 40)
    assert KEY not in path.read_text()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == 40


def test_leaving_early_sends_no_more() -> None:
    with serving(lambda number, body: time.sleep(0.02) or echo(number, body)) as service:
        options = ServerOptions(base_url=service.base_url, model="small", concurrency=2)
        with ChatServer(options) as server:
            replies = server.complete(asked(500))
            assert next(replies).text == "question 0 seed 0"
            replies.close()
            seen = service.count
            time.sleep(0.1)
            assert service.count == seen < 30


def test_a_reply_that_cannot_be_kept_ends_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serving() as service:
        with pytest.raises(DataError, match="cannot be written"):
            ask(service, asked(200), ReplyCache(tmp_path / "file" / "replies.jsonl"), concurrency=2)
        assert service.count < 10


def test_a_line_that_is_no_reply_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"key": "a", "reply": {}}\n{"id": 1}\n')
    with pytest.raises(DataError, match="not a line of a cache of replies"):
        ReplyCache(path)
    options = ServerOptions(base_url="http://127.0.0.1:9/v1", model="small")
    path.write_text(json.dumps({"key": asked(1)[0].key(options), "reply": {"answer": "x"}}) + "\n")
    with pytest.raises(DataError, match="a kept reply is not one of these"):
        ask(options.base_url, asked(1), ReplyCache(path))
