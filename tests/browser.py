"""A real browser for the tests of pages: `with chromium() as browser`, skipped with a reason where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Debian's and others' names of the program.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium of this machine; none is downloaded. CHROMIUM names another program."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed (apt-get install chromium)")
    # Containers run tests as root, whom Chromium's sandbox refuses, and often without shared memory.
    arguments = ["--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page that remembers what it asked the network for and what it complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    @property
    def beyond_the_page(self) -> list[str]:
        """Requests other than for the file itself and for what it holds as data."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]


@contextmanager
def opened(browser: Browser, target: Path | str, **context: Any) -> Iterator[Watched]:
    """The page in a context of its own; `context` is Playwright's: viewport, color_scheme, java_script_enabled."""
    made = browser.new_context(**context)
    try:
        watched = Watched(made.new_page())
        watched.page.goto(target.resolve().as_uri() if isinstance(target, Path) else target)
        yield watched
    finally:
        made.close()
