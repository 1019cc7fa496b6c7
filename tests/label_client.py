"""A person at the label server, as tests and the benchmark play one: over HTTP, with cookie and mark."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from data.feedback.web.guard import csrf_token
from tests.handmade import environment


class Client:
    """A person's browser: cookies, and the mark that the page sends along."""

    def __init__(self, http: httpx.Client, token: str) -> None:
        self.http = http
        self.token = token
        self.keys = 0

    def enter(self) -> Client:
        answer = self.http.get(f"/enter/{self.token}")
        assert answer.status_code == 303, answer.text
        return self

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers={"x-heliograph": csrf_token(self.token), **headers})

    def next(self, *holding: int) -> dict[str, Any]:
        answer = self.post("/api/next", {"holding": list(holding)})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def vote(self, item: dict[str, Any], choice: int = 0, **more: Any) -> httpx.Response:
        self.keys += 1
        body = {
            "item_id": item["id"],
            "key": f"press-{self.keys:04}",
            "kind": "best",
            "choice": choice,
            **more,
        }
        return self.post("/api/vote", body)


def serve(folder: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "pipelines.cli", "label", "serve", str(folder), "--port", "0", *more]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"is at (http://\S+);", line)
        if found:
            url = found[1]
            break
    else:
        raise AssertionError(f"the server ended with {process.wait()}")
    for _ in range(200):
        try:
            httpx.get(url, timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        break
    return process, url
