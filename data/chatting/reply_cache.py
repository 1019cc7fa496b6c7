"""Replies by the content of what was asked, on disk at once: no interruption makes them be paid for twice."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonl import append_jsonl, iterate_jsonl


class ReplyCache:
    """A file of JSON lines that only grows: each reply is on disk before anybody sees it.

    A line that was being written at a crash is left out and written again. One process at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._replies: dict[str, dict[str, Any]] = {}
        for number, row in iterate_jsonl(path, torn="skip") if path.is_file() else ():
            if not (isinstance(row.get("key"), str) and isinstance(row.get("reply"), dict)):
                raise DataError(
                    "not a line of a cache of replies",
                    where=f"{path}:{number}",
                    way_out="Delete the line: its request is sent again.",
                )
            self._replies[row["key"]] = row["reply"]

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> dict[str, Any] | None:
        with self._lock:
            return self._replies.get(key)

    def put(self, key: str, reply: dict[str, Any]) -> None:
        with self._lock:
            append_jsonl(self.path, [{"key": key, "reply": reply}])
            self._replies[key] = reply
