"""Line charts as inline SVG that are whole without scripts, and carry the values that the page's script reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipelines.forgetting.plots import Axis, around
from pipelines.report.history import Point, thinned
from pipelines.report.markup import fixed, number

WIDTH, HEIGHT = 520, 270
TOP, RIGHT, BOTTOM, LEFT = 14, 14, 34, 62
STYLES = 8
WHOLE = ("step", "iteration")
"""What is counted one by one."""


@dataclass(frozen=True)
class Curve:
    """One line: its name in the legend, its colour, and whether it is the second run's."""

    label: str
    style: int
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True)
class Flag:
    """A mark at a step: what a watchdog said, where an attempt went on."""

    step: float
    text: str
    kind: str = "watchdog"


@dataclass(frozen=True)
class Level:
    """A value that is known beforehand."""

    value: float
    text: str


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    x_label: str = "step",
    flags: Sequence[Flag] = (),
    level: Level | None = None,
    whole: tuple[float, float] | None = None,
    note: str = "",
    last: bool = True,
) -> str:
    """A figure with caption, chart and legend. `whole`: the value axis from where to where, at least; `last`: whether
    the last value is worth telling."""
    drawn = [
        Curve(one.label, one.style, thinned(list(one.points)), one.dashed) for one in curves if one.points
    ]
    if not drawn:
        return ""
    xs = [p[0] for one in drawn for p in one.points]
    ys = [p[1] for one in drawn for p in one.points] + ([level.value] if level else []) + list(whole or ())
    x = Axis(x_label, min(0.0, min(xs)), max(xs) if max(xs) > min(0.0, min(xs)) else min(xs) + 1)
    y = around("", ys)
    parts = [_grid(x, y)]
    if level is not None:
        at = _y(y, level.value)
        parts.append(
            f'<g class="level"><line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text x="{WIDTH - RIGHT - 4}" y="{at - 5 if at > TOP + 18 else at + 14}">{escape(level.text)}</text></g>'
        )
    parts += [_flag(flag, x) for flag in flags]
    parts += [_curve(one, x, y) for one in drawn]
    many = len(drawn) > 1
    words = f"{title} over {x_label}: " + "; ".join(
        f"{one.label} from {number(one.points[0][1])} to {number(one.points[-1][1])}" for one in drawn
    )
    legend = (
        "".join(
            f'<li class="s{one.style % STYLES}{" dashed" if one.dashed else ""}"><i></i>{escape(one.label)} '
            f"<b>{number(one.points[-1][1])}</b></li>"
            for one in drawn
        )
        if many
        else ""
    )
    end = "" if many or not last else f" <b>{number(drawn[0].points[-1][1])}</b>"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{end}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}" data-x="{x.low:g} {x.high:g}" '
        f'data-y="{y.low:.8g} {y.high:.8g}" data-box="{LEFT} {TOP} {WIDTH - RIGHT} {HEIGHT - BOTTOM}" '
        f'data-unit="{escape(x_label)}">{"".join(parts)}</svg>'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + (f'<p class="note">{note}</p>' if note else "")
        + "</figure>"
    )


def _curve(one: Curve, x: Axis, y: Axis) -> str:
    places = [f"{_x(x, a)} {_y(y, b)}" for a, b in one.points]
    values = " ".join(f"{a:g},{b:.6g}" for a, b in one.points)
    path = "M" + "L".join(places)
    alone = len(places) == 1
    dot = places[-1].split()
    return (
        f'<g class="curve s{one.style % STYLES}{" dashed" if one.dashed else ""}" data-label="{escape(one.label)}" '
        f'data-points="{values}"><path d="{path}"/>'
        f'<circle cx="{dot[0]}" cy="{dot[1]}" r="{5 if alone else 3.2}"/></g>'
    )


def _flag(flag: Flag, x: Axis) -> str:
    at = _x(x, flag.step)
    return (
        f'<g class="flag {escape(flag.kind)}" data-step="{flag.step:g}"><title>{escape(flag.text)}</title>'
        f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<path d="M{at} {TOP}l9 5l-9 5z"/></g>'
    )


def _grid(x: Axis, y: Axis) -> str:
    drawn: list[str] = []
    for value, text in y.ticks():
        at = _y(y, value)
        drawn.append(f'<line x1="{LEFT}" y1="{at}" x2="{WIDTH - RIGHT}" y2="{at}"/>')
        drawn.append(f'<text class="y" x="{LEFT - 7}" y="{at + 4}">{text}</text>')
    for value, text in _steps(x):
        at = _x(x, value)
        drawn.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 17}">{text}</text>')
    drawn.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}">{escape(x.label)}</text>')
    return f'<g class="grid">{"".join(drawn)}</g>'


def _steps(x: Axis) -> list[tuple[float, str]]:
    """Ticks at whole steps where the axis counts steps."""
    if x.label.startswith(WHOLE) and x.high - x.low < 6:
        return [(float(i), str(i)) for i in range(math.ceil(x.low), math.floor(x.high) + 1)]
    return x.ticks()


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM), 1)


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart with an interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    style: int = 0


def dots(title: str, bars: Sequence[Bar], *, zero: bool = False, unit: str = "") -> str:
    """Values side by side on one axis, each a dot with its interval; `zero` draws the line of no difference."""
    if not bars:
        return ""
    ends = [v for b in bars for v in (b.value, b.low, b.high) if v is not None] + ([0.0] if zero else [])
    axis = around(unit, ends)
    longest = max(len(bar.label) for bar in bars)
    left, width, row = min(230, 24 + round(7.6 * longest)), 520, 27
    height = row * len(bars) + 34

    def at(value: float) -> float:
        return round(left + axis.share(value) * (width - left - 62), 1)

    drawn = [
        f'<line x1="{at(v)}" x2="{at(v)}" y1="4" y2="{height - 28}"/><text x="{at(v)}" y="{height - 11}">{text}</text>'
        for v, text in axis.ticks()
    ]
    if zero:
        drawn.append(f'<line class="zero" x1="{at(0)}" x2="{at(0)}" y1="2" y2="{height - 26}"/>')
    lines: list[str] = []
    for i, bar in enumerate(bars):
        y = 4 + row * i + row / 2
        span = (
            f'<line x1="{at(bar.low)}" x2="{at(bar.high)}" y1="{y}" y2="{y}"/>'
            if bar.low is not None and bar.high is not None
            else ""
        )
        value = f"{bar.value:+.3f}".replace("-", "−") if zero else fixed(bar.value)
        label = bar.label if len(bar.label) <= 28 else bar.label[:27] + "…"
        lines.append(
            f'<g class="dot s{bar.style % STYLES}"><title>{escape(bar.label)}: {value}</title>'
            f'<text class="name" x="{left - 10}" y="{y + 4.5}">{escape(label)}</text>{span}'
            f'<circle cx="{at(bar.value)}" cy="{y}" r="5"/>'
            f'<text class="value" x="{width - 4}" y="{y + 4.5}">{value}</text></g>'
        )
    words = f"{title}: " + "; ".join(f"{b.label} {number(b.value, 3)}" for b in bars)
    return (
        f'<figure class="chart dots"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(words)}"><g class="grid">{"".join(drawn)}</g>{"".join(lines)}</svg></figure>'
    )
