"""Small pieces of HTML that every part of the report is put together from; whatever comes in as data is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, cast

from data.errors import DataError

MARK = {
    "done": ("✓", "done"),
    "running": ("▸", "running"),
    "failed": ("✗", "failed"),
    "waiting": ("⏸", "waits for people"),
    "interrupted": ("‖", "interrupted"),
    "damaged": ("!", "damaged"),
    "pending": ("·", "not yet"),
}
"""Sign and words of each state of a stage."""


def section(key: str, title: str, body: str, hint: str = "") -> str:
    """Nothing where there is no body. `hint` is HTML."""
    if not body:
        return ""
    told = f'<p class="hint">{hint}</p>' if hint else ""
    return f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{escape(title)}</h2>{told}{body}</section>'


def part(title: str, body: str, hint: str = "", key: str = "") -> str:
    """A section's own part, under a smaller title."""
    if not body:
        return ""
    told = f'<p class="hint">{hint}</p>' if hint else ""
    mark = f' id="{key}"' if key else ""
    return f'<div class="part"{mark}><h3>{escape(title)}</h3>{told}{body}</div>'


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Cells and heads are HTML. The first cell of each line heads it; a wide table scrolls by itself, and a `stack` is
    put one under the other on a phone, each cell after its head."""
    body = [_line(heads, line, named="stack" in kind) for line in lines]
    if not body:
        return ""
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="table"><table class="{kind}">'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _line(heads: Sequence[str], line: Sequence[str], *, named: bool) -> str:
    cells = "".join(
        f'<td data-label="{head}">{cell}</td>' if named else f"<td>{cell}</td>"
        for head, cell in zip(heads[1:], line[1:], strict=True)
    )
    return f'<tr><th scope="row">{line[0]}</th>{cells}</tr>'


def facts(found: Mapping[str, str]) -> str:
    """Name and value, where there is a value. Both are HTML."""
    lines = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in found.items() if value)
    return f'<dl class="facts">{lines}</dl>' if lines else ""


def tiles(found: Mapping[str, str], kind: str = "") -> str:
    """Figures to be seen at once: label and value, both plain text."""
    made = "".join(
        f"<li><span>{escape(key)}</span><b>{escape(value)}</b></li>" for key, value in found.items() if value
    )
    return f'<ul class="tiles {kind}">{made}</ul>' if made else ""


def folded(summary: str, body: str, *, opened: bool = False, kind: str = "") -> str:
    """`summary` and `body` are HTML."""
    return f'<details class="{kind}"{" open" if opened else ""}><summary>{summary}</summary>{body}</details>'


def state_tag(stand: str) -> str:
    sign, words = MARK.get(stand, ("?", stand))
    return f'<span class="state {escape(stand)}"><i aria-hidden="true">{sign}</i> {escape(words)}</span>'


def code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>"


def clipped(text: str, most: int) -> str:
    """Escaped, and what is left away counted."""
    if len(text) <= most:
        return escape(text)
    return f'{escape(text[:most])}<span class="cut"> … {len(text) - most:,} more characters</span>'


def number(value: object, digits: int = 4) -> str:
    """As people write numbers: thousands apart, four figures, a real minus sign."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not math.isfinite(value):
        return "not finite"
    if value and (abs(value) < 1e-4 or abs(value) >= 1e7):
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{min(places, 6)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


def fixed(value: object, digits: int = 3) -> str:
    """So many digits behind the point, for columns that are compared."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return number(value)
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    close = 0 < share < 0.1 or 0.9 < share < 1
    return f"{share:.1%}".replace("%", " %") if close else f"{share:.0%}".replace("%", " %")


def asked(prompt: Any) -> str:
    """A prompt as one text: the conversation's turns with who speaks, where there are several."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise DataError(f"a prompt is text or messages, and this is {type(prompt).__name__}")
    turns = _turns(cast("list[object]", prompt))
    if len(turns) == 1:
        return _content(turns[0])
    return "\n".join(f"{turn.get('role', '?')}: {_content(turn)}" for turn in turns)


def said(answer: Any) -> str:
    """An answer as text, whether it is text or messages."""
    if isinstance(answer, list):
        return "\n".join(_content(turn) for turn in _turns(cast("list[object]", answer)))
    return "" if answer is None else str(answer)


def _turns(found: list[object]) -> list[dict[str, Any]]:
    return [cast("dict[str, Any]", turn) for turn in found if isinstance(turn, dict)]


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if not isinstance(content, list):
        return "" if content is None else str(content)
    pieces = cast("list[object]", content)
    return " ".join(
        str(cast("dict[str, Any]", piece).get("text", "[picture]")) if isinstance(piece, dict) else str(piece)
        for piece in pieces
    )


def plural_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
