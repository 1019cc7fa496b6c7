"""What the site needs beyond mkdocs: a link to a file of the checkout, outside docs/, becomes the file's name."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\((?:\.\./)+(?P<path>[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The site is made of docs/ alone; from decisions/, `../` still leads to a page of it."""

    def plain(found: re.Match[str]) -> str:
        if page.file.src_uri.count("/") >= found[0].count("../"):
            return found[0]
        return found["text"] if found["path"] in found["text"] else f"{found['text']} (`{found['path']}`)"

    return _OUTSIDE.sub(plain, markdown)
