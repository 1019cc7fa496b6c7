"""The stages as a picture: layers from left to right where there is room, and a list with lanes on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from pipelines.progress import duration
from pipelines.report.gather import Recorded, RunRecord
from pipelines.report.markup import MARK

WIDE, HIGH, GAP, ACROSS, THIN = 186, 56, 16, 54, 14
ROW, LANE, NARROW = 50, 17, 362
SWEEPS = 4


def anchor(stage: str) -> str:
    return f"stage-{stage}"


def picture(run: RunRecord) -> str:
    """Both drawings; the style sheet shows the one that fits."""
    return f'<div class="picture">{_layers(run)}{_lanes(run)}</div>' if run.stages else ""


def took(stage: Recorded) -> str:
    return duration(stage.done.seconds) if stage.done else MARK[stage.stand][1]


# ---------------------------------------------------------------- layers


@dataclass(eq=False)
class _Place:
    """A stage in its layer, or a bend of an edge that passes through the layer."""

    stage: Recorded | None
    layer: int
    before: list[_Place] = field(default_factory=list["_Place"])
    after: list[_Place] = field(default_factory=list["_Place"])
    y: float = 0.0

    @property
    def height(self) -> int:
        return HIGH if self.stage else THIN


def _layers(run: RunRecord) -> str:
    layers, edges = _placed(run)
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            near = [one.before if sweep % 2 == 0 else one.after for one in layer]
            wish = {
                id(one): sum(n.y + n.height / 2 for n in found) / len(found)
                if found
                else one.y + one.height / 2
                for one, found in zip(layer, near, strict=True)
            }
            layer.sort(key=lambda one: wish[id(one)])
            _stack(layer)
    high = max(layer[-1].y + layer[-1].height for layer in layers)
    for layer in layers:
        down = (high - layer[-1].y - layer[-1].height) / 2
        for one in layer:
            one.y += down
    width = len(layers) * (WIDE + ACROSS) - ACROSS + 4
    lines = "".join(f'<path class="edge {kind}" d="{_way(way)}"/>' for way, kind in edges)
    boxes = "".join(_box(one) for layer in layers for one in layer if one.stage)
    words = escape(f"{len(run.stages)} stages, each drawn to the right of those it reads")
    return (
        f'<svg class="layers" viewBox="-2 -2 {width} {high + 4:.0f}" width="{width}" role="group" '
        f'aria-label="{words}"><g aria-hidden="true">{lines}</g>{boxes}</svg>'
    )


def _placed(run: RunRecord) -> tuple[list[list[_Place]], list[tuple[list[_Place], str]]]:
    """Every stage one layer behind the last of those it reads, and each edge as the places it goes through."""
    places: dict[str, _Place] = {}
    layers: list[list[_Place]] = []
    edges: list[tuple[list[_Place], str]] = []

    def put(stage: Recorded | None, layer: int) -> _Place:
        while len(layers) <= layer:
            layers.append([])
        made = _Place(stage, layer)
        layers[layer].append(made)
        return made

    for stage in run.stages:
        sources = [places[name] for name in stage.inputs if name in places]
        here = places[stage.name] = put(stage, max((one.layer + 1 for one in sources), default=0))
        for source in sources:
            way = [source, *(put(None, layer) for layer in range(source.layer + 1, here.layer)), here]
            for one, following in pairwise(way):
                one.after.append(following)
                following.before.append(one)
            edges.append((way, "open" if stage.stand == "pending" else ""))
    for layer in layers:
        _stack(layer)
    return layers, edges


def _stack(layer: Sequence[_Place]) -> None:
    y = 0.0
    for one in layer:
        one.y = y
        y += one.height + GAP


def _way(places: Sequence[_Place]) -> str:
    def x(one: _Place) -> float:
        return one.layer * (WIDE + ACROSS)

    def y(one: _Place) -> float:
        return round(one.y + one.height / 2, 1)

    first = places[0]
    d = f"M{x(first) + WIDE} {y(first)}"
    for one, following in pairwise(places):
        start, end, half = x(one) + WIDE, x(following), ACROSS / 2
        d += f"C{start + half} {y(one)} {end - half} {y(following)} {end} {y(following)}"
        if following.stage is None:
            d += f"H{end + WIDE}"
    return d


def _box(one: _Place) -> str:
    stage = one.stage
    assert stage is not None
    sign, words = MARK[stage.stand]
    told = escape(f"{stage.name}, {stage.kind}, {words}, {took(stage)}")
    return (
        f'<a class="node {stage.stand}" href="#{escape(anchor(stage.name))}" aria-label="{told}" '
        f'transform="translate({one.layer * (WIDE + ACROSS)} {one.y:.1f})"><title>{told}</title>'
        f'<rect width="{WIDE}" height="{HIGH}" rx="10"/><circle cx="22" cy="{HIGH / 2}" r="11"/>'
        f'<text class="sign" x="22" y="{HIGH / 2 + 5}">{sign}</text>'
        f'<text class="name" x="42" y="24">{escape(_short(stage.name, 15))}</text>'
        f'<text class="sub" x="42" y="43">{escape(_short(f"{stage.kind} · {took(stage)}", 21))}</text></a>'
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# ---------------------------------------------------------------- lanes


def _lanes(run: RunRecord) -> str:
    row = {stage.name: i for i, stage in enumerate(run.stages)}
    last = {
        stage.name: max((row[s.name] for s in run.stages if stage.name in s.inputs), default=row[stage.name])
        for stage in run.stages
    }
    lane: dict[str, int] = {}
    for i, stage in enumerate(run.stages):
        taken = {lane[other] for other in lane if last[other] > i}
        lane[stage.name] = next(free for free in range(len(run.stages) + 1) if free not in taken)
    left = (max(lane.values()) + 1) * LANE + 20
    drawn = [
        _descent(lane[name], row[name], lane[stage.name], row[stage.name])
        for stage in run.stages
        for name in stage.inputs
        if name in row
    ]
    nodes = "".join(_line(stage, lane[stage.name], row[stage.name], left) for stage in run.stages)
    return (
        f'<svg class="lanes" viewBox="0 0 {NARROW} {len(run.stages) * ROW}" role="group" '
        f'aria-label="{len(run.stages)} stages in their order, with lines to those that they read">'
        f'<g aria-hidden="true">{"".join(drawn)}</g>{nodes}</svg>'
    )


def _descent(from_lane: int, from_row: int, lane: int, row: int) -> str:
    x1, y1, x2, y2 = _lane_x(from_lane), _row_y(from_row), _lane_x(lane), _row_y(row)
    return f'<path class="edge" d="M{x1} {y1}V{y2 - ROW * 0.7:.0f}C{x1} {y2 - 12} {x2} {y2 - 28} {x2} {y2}"/>'


def _lane_x(lane: int) -> int:
    return 14 + lane * LANE


def _row_y(row: int) -> float:
    return row * ROW + ROW / 2


def _line(stage: Recorded, lane: int, row: int, left: int) -> str:
    y = _row_y(row)
    reads = f"{stage.kind} ← {', '.join(stage.inputs)}" if stage.inputs else stage.kind
    return (
        f'<a class="node {stage.stand}" href="#{escape(anchor(stage.name))}"><rect class="touch" x="0" '
        f'y="{y - ROW / 2}" width="{NARROW}" height="{ROW}"/><circle cx="{_lane_x(lane)}" cy="{y}" r="8.5"/>'
        f'<text class="sign" x="{_lane_x(lane)}" y="{y + 4}">{MARK[stage.stand][0]}</text>'
        f'<text class="name" x="{left}" y="{y - 3}">{escape(_short(stage.name, 22))}</text>'
        f'<text class="sub" x="{left}" y="{y + 15}">{escape(_short(reads, (NARROW - left) // 7))}</text>'
        f'<text class="sub took" x="{NARROW - 4}" y="{y - 3}">{escape(took(stage))}</text></a>'
    )
