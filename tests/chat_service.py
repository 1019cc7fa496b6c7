"""A real HTTP server on the loopback that speaks chat completions, counts what it is asked, and fails as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers, body; None: the connection is cut."""


def completion(text: str, **choice: Any) -> Answer:
    told = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | choice
    usage = {"prompt_tokens": 5, "completion_tokens": len(text.split())}
    return 200, {}, json.dumps({"id": "x", "choices": [told], "usage": usage}).encode()


def failure(status: int, message: str, **headers: str) -> Answer:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


def echo(number: int, body: dict[str, Any]) -> Answer:
    """An answer that depends on the request alone."""
    return completion(f"{body['messages'][-1]['content']} seed {body.get('seed')}")


class Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[int, dict[str, Any]], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.open = 0
        self.most_open = 0
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def count(self) -> int:
        return len(self.bodies)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        self._send((200, {}, json.dumps({"data": [{"id": "small"}, {"id": "large"}]}).encode()))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        service = self.server
        with service.lock:
            number = len(service.bodies)
            service.bodies.append(body)
            service.headers.append({key.lower(): value for key, value in self.headers.items()})
            service.times.append(time.monotonic())
            service.open += 1
            service.most_open = max(service.most_open, service.open)
        try:
            assert self.path == "/v1/chat/completions"
            self._send(service.answer(number, body))
        finally:
            with service.lock:
                service.open -= 1

    def _send(self, answer: Answer) -> None:
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers, content = answer
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def serving(answer: Callable[[int, dict[str, Any]], Answer] = echo) -> Generator[Service]:
    service = Service(answer)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()
