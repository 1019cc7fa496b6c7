"""A hub on this machine: as much of its protocol as huggingface_hub and datasets ask for, over folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the only commit").hexdigest()


class Hub:
    """What it serves, by kind and name, and what it was asked."""

    def __init__(self, models: dict[str, Path], datasets: dict[str, Path]) -> None:
        self.held = {"models": models, "datasets": datasets}
        self.asked: list[str] = []
        self.url = ""


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def reply(self, status: int, body: bytes, kind: str = "application/json", **more: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            for name, value in more.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def nothing(self, code: str) -> None:
            self.reply(404, json.dumps({"error": code}).encode(), X_Error_Code=code, X_Error_Message=code)

        def entry(self, folder: Path, name: str) -> dict[str, Any]:
            data = (folder / name).read_bytes()
            return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            form = unquote(self.rfile.read(length).decode())
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            api = re.fullmatch(
                r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(/.*)?)?", path
            )
            if api is not None:
                kind, name, what, revision, below = api.groups()
                folder = hub.held[kind].get(name)
                if folder is None:
                    return self.nothing("RepoNotFound")
                if revision not in (None, "main", COMMIT):
                    return self.nothing("RevisionNotFound")
                found = files(folder)
                if what == "tree":
                    inside = [f for f in found if f.startswith((below or "/").lstrip("/"))]
                    return self.reply(200, json.dumps([self.entry(folder, f) for f in inside]).encode())
                if what == "paths-info":
                    wanted = re.findall(r"paths=([^&]*)", form) or json.loads(form).get("paths", [])
                    return self.reply(
                        200, json.dumps([self.entry(folder, f) for f in wanted if f in found]).encode()
                    )
                told = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in found], "tags": [],
                        "private": False, "downloads": 0, "likes": 0}  # fmt: skip
                return self.reply(200, json.dumps(told).encode())
            file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if file is None:
                return self.nothing("EntryNotFound")
            kind, name, _, inside = file.groups()
            folder = hub.held["datasets" if kind else "models"].get(name)
            if folder is None:
                return self.nothing("RepoNotFound")
            if not (folder / inside).is_file():
                return self.nothing("EntryNotFound")
            data = (folder / inside).read_bytes()
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            return self.reply(200, data, "application/octet-stream", ETag=etag, Accept_Ranges="none")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.do_GET()

    return Handler


@contextmanager
def serving(models: dict[str, Path], datasets: dict[str, Path]) -> Iterator[Hub]:
    hub = Hub(models, datasets)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
