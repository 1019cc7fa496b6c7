"""Charts of the forget report as inline SVG: axes, lines with bands, points with intervals, and their legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 330
TOP, RIGHT, BOTTOM, LEFT = 12, 16, 48, 68
STYLES = 8
"""Colours there are; from the ninth model on they come again, with another dash and another mark."""
_MARKS = (
    "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "M-4.6-4.6H4.6V4.6H-4.6Z",
    "M0-6L5.6 4H-5.6Z",
    "M0-6.4L6.4 0L0 6.4L-6.4 0Z",
    "M0 6L-5.6-4H5.6Z",
    "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "M-6-5H6L-6 5H6Z",
    "M0-6L5.7-1.9L3.5 4.9H-3.5L-5.7-1.9Z",
)
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4")


@dataclass(frozen=True)
class Axis:
    """What it counts, and from where to where."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; what lies outside is put on the edge."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            found = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
        else:
            found = (value - self.low) / (self.high - self.low)
        return min(max(found, 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        if self.log:
            low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((high - low) / 6))
            return [(10.0**power, _power(power)) for power in range(high, low - 1, -step)]
        step = _nice((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(i * step, f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


def around(label: str, values: Sequence[float], *, zero: bool = False, log: bool = False) -> Axis:
    """An axis that holds all values, with a little room; `zero`: from 0 on."""
    if log:
        least = min((value for value in values if value > 0), default=0.1)
        return Axis(label, 10.0 ** math.floor(math.log10(least)), 1.0, log=True)
    low, high = (0.0 if zero else min(values)), max(values)
    room = (high - low) * 0.06 or 0.5
    return Axis(label, low if zero else low - room, high + room)


@dataclass(frozen=True)
class Mark:
    """A point, and its intervals where it has some."""

    x: float
    y: float
    across: tuple[float, float] | None = None
    """From where to where along x."""
    up: tuple[float, float] | None = None
    """From where to where along y."""


@dataclass(frozen=True)
class Series:
    """One model's marks, in their order; `style` is its number among all of them, the same in every chart."""

    label: str
    style: int
    marks: Sequence[Mark]


def chart(
    name: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    told: str,
    *,
    line: bool,
    guide: float | None = None,
) -> str:
    """`line`: marks are joined, with a band for their intervals and a mark at the end alone; else each has its cross.
    `guide` is a value of y that a line is drawn at; `told` says in words what the chart shows."""
    drawn = [_grid(x, y)]
    if guide is not None:
        at = _y(y, guide)
        drawn.append(f'<line class="guide" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
    drawn += [_line(one, x, y) if line else _points(one, x, y) for one in series]
    return (
        f'<svg class="chart" id="{name}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">'
        f"{''.join(drawn)}</svg>"
    )


def legend(series: Sequence[Series], *, line: bool) -> str:
    items = [
        f'<li><svg viewBox="0 0 34 14" aria-hidden="true"><g class="{_style(one)}">'
        + (f'<line x1="1" x2="33" y1="7" y2="7"{_dash(one)}/>' if line else "")
        + f'<path class="mark" transform="translate(17 7)" d="{_mark(one)}"/></g></svg> {escape(one.label)}</li>'
        for one in series
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _line(one: Series, x: Axis, y: Axis) -> str:
    places = [(_x(x, m.x), _y(y, m.y)) for m in one.marks]
    banded = [m for m in one.marks if m.up is not None]
    band = ""
    if banded:
        upper = [f"{_x(x, m.x)} {_y(y, m.up[1])}" for m in banded if m.up]
        lower = [f"{_x(x, m.x)} {_y(y, m.up[0])}" for m in reversed(banded) if m.up]
        band = f'<path class="band" d="M{"L".join([*upper, *lower])}Z"/>'
    path = "L".join(f"{a} {b}" for a, b in places)
    end = places[-1]
    return (
        f'<g class="{_style(one)}"><title>{escape(one.label)}</title>{band}<path class="line" d="M{path}"{_dash(one)}/>'
        f'<path class="mark" transform="translate({end[0]} {end[1]})" d="{_mark(one)}"/></g>'
    )


def _points(one: Series, x: Axis, y: Axis) -> str:
    drawn: list[str] = []
    for m in one.marks:
        a, b = _x(x, m.x), _y(y, m.y)
        if m.across:
            drawn.append(f'<line x1="{_x(x, m.across[0])}" x2="{_x(x, m.across[1])}" y1="{b}" y2="{b}"/>')
        if m.up:
            drawn.append(f'<line x1="{a}" x2="{a}" y1="{_y(y, m.up[0])}" y2="{_y(y, m.up[1])}"/>')
        drawn.append(f'<path class="mark" transform="translate({a} {b})" d="{_mark(one)}"/>')
    return f'<g class="{_style(one)}"><title>{escape(one.label)}</title>{"".join(drawn)}</g>'


def _grid(x: Axis, y: Axis) -> str:
    drawn: list[str] = []
    for value, text in x.ticks():
        at = _x(x, value)
        drawn.append(f'<line x1="{at}" y1="{TOP}" x2="{at}" y2="{HEIGHT - BOTTOM}"/>')
        drawn.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 17}">{text}</text>')
    for value, text in y.ticks():
        at = _y(y, value)
        drawn.append(f'<line x1="{LEFT}" y1="{at}" x2="{WIDTH - RIGHT}" y2="{at}"/>')
        drawn.append(f'<text class="y" x="{LEFT - 7}" y="{at + 4}">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    half = (TOP + HEIGHT - BOTTOM) / 2
    drawn.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 8}">{escape(x.label)}</text>')
    drawn.append(f'<text class="axis" transform="translate(18 {half}) rotate(-90)">{escape(y.label)}</text>')
    return f'<g class="grid">{"".join(drawn)}</g>'


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM), 1)


def _style(one: Series) -> str:
    return f"series s{one.style % STYLES}"


def _mark(one: Series) -> str:
    return _MARKS[(one.style + 3 * (one.style // STYLES)) % len(_MARKS)]


def _dash(one: Series) -> str:
    dash = _DASHES[(one.style + 2 * (one.style // STYLES)) % len(_DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _nice(step: float) -> float:
    scale = 10.0 ** math.floor(math.log10(step))
    return scale * next(i for i in (1, 2, 5, 10) if i * scale >= step * 0.999)


def _power(power: int) -> str:
    if power == 0:
        return "1"
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if power != 1 else "10"
