"""Answers before and after, side by side, with the words that came and went marked."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import Any, cast

from data.errors import DataError
from data.pictures import read_picture
from pipelines.report.markup import asked, clipped, number

MOST = 1200
"""Characters of a text that are shown."""
LARGEST_PICTURE = 200_000
"""Bytes of a picture that the page carries along."""
VARIED = 0.12
"""The share of different words below which a text repeats itself, and comparing would take long and mark noise."""
ALIKE = 0.3
"""The share of a text that must stand in the one before it for what went to be shown in it too."""
WORDS = re.compile(r"\s+|[\w'’-]+|[^\w\s]+", re.UNICODE)


def difference(before: str, after: str) -> str:
    """`after` as HTML: what `before` did not have is marked as inserted, what is gone is shown struck out."""
    if before == after:
        return escape(after)
    old, new = WORDS.findall(before[:MOST]), WORDS.findall(after[:MOST])
    if min(len(set(old)) / max(1, len(old)), len(set(new)) / max(1, len(new))) < VARIED:
        return clipped(after, MOST)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    blocks = [
        m for m in matcher.get_matching_blocks() if _worth_keeping(new[m.b : m.b + m.size]) or not m.size
    ]
    alike = sum(len(piece) for m in blocks for piece in new[m.b : m.b + m.size])
    made: list[str] = []
    i = j = 0
    for m in blocks:
        gone, came = escape("".join(old[i : m.a])), escape("".join(new[j : m.b]))
        if gone.strip() and alike >= ALIKE * len(after[:MOST]):
            made.append(f"<del>{gone}</del>")
        made.append(f"<ins>{came}</ins>" if came.strip() else came)
        made.append(escape("".join(new[m.b : m.b + m.size])))
        i, j = m.a + m.size, m.b + m.size
    rest = f'<span class="cut"> … {len(after) - MOST:,} more characters</span>' if len(after) > MOST else ""
    return "".join(made) + rest


def _worth_keeping(pieces: Sequence[str]) -> bool:
    """Two words in common, or one long one: a lone `the` between changes only breaks them up."""
    words = [piece for piece in pieces if piece[0].isalnum()]
    return len(words) > 1 or any(len(word) > 3 for word in words)


def card(
    prompt: Any,
    answers: Mapping[str, tuple[str, float | None]],
    *,
    tag: str = "",
    right: str = "",
    compare: bool = True,
    picture: str = "",
) -> str:
    """One prompt and what each said to it, each compared with the one before it.

    `tag` and `right` are plain text, `picture` is what `picture()` makes of a file.
    """
    columns: list[str] = []
    before: str | None = None
    for label, (text, score) in answers.items():
        shown = text.strip()
        body = clipped(shown, MOST) if before is None or not compare else difference(before, shown)
        mark = f'<span class="score">{number(score, 3)}</span>' if score is not None else ""
        columns.append(
            f'<div class="said"><h5>{escape(label)} {mark}</h5><p>{body or "<i>nothing</i>"}</p></div>'
        )
        before = shown
    word = f'<span class="tag">{escape(tag)}</span>' if tag else ""
    gold = f'<p class="right">right: {escape(right)}</p>' if right else ""
    return (
        f'<article class="sample"><div class="asked">{word}{picture}{_prompt(prompt)}{gold}</div>'
        f'<div class="columns{" many" if len(columns) > 5 else ""}">{"".join(columns)}</div></article>'
    )


def picture(folder: Path, name: object) -> str:
    """A prompt's picture within the page; its name where it is not in the folder, or too large to carry along."""
    if not isinstance(name, str):
        return ""
    try:
        content, kind = read_picture(folder, name, LARGEST_PICTURE)
    except (DataError, OSError):
        return f'<p class="right">with the picture {escape(name)}</p>'
    coded = b64encode(content).decode()
    return f'<img alt="the picture {escape(name)}" src="data:{kind};base64,{coded}">'


def _prompt(prompt: Any) -> str:
    """The last thing asked is in sight; a system turn that all prompts share is not worth a screen."""
    if isinstance(prompt, list) and prompt:
        turns = cast("list[Any]", prompt)
        last = asked(turns[-1:])
        rest = asked(turns[:-1])
        lead = f"<small>{clipped(rest.strip(), 300)}</small>" if rest.strip() else ""
        return f"{lead}<p>{clipped(last, MOST)}</p>"
    return f"<p>{clipped(asked(prompt), MOST)}</p>"


def notable(scores: Mapping[str, Sequence[float | None]], first: int) -> list[tuple[int, str]]:
    """The first few places, then where the last label gained and lost most against the first."""
    chosen: list[tuple[int, str]] = [(i, "") for i in range(first)]
    labels = list(scores)
    if len(labels) < 2:
        return chosen
    gaps = [
        (after - before, i)
        for i, (before, after) in enumerate(zip(scores[labels[0]], scores[labels[-1]], strict=True))
        if before is not None and after is not None and i >= first
    ]
    if gaps:
        gain, best = max(gaps, key=lambda found: (found[0], -found[1]))
        loss, worst = min(gaps)
        if gain > 0:
            chosen.append((best, f"gained most: {gain:+.3f}".replace("-", "−")))
        if loss < 0:
            chosen.append((worst, f"lost most: {loss:+.3f}".replace("-", "−")))
    return chosen
