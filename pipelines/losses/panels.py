"""The parts of the lattice page that are readable without scripts: the graph, the curves, one panel per loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, Literal

from pipelines.losses import mathml as loss_mathml
from trainers.logic import describe, links
from trainers.logic.english import reading
from trainers.logic.named import LATTICE, NamedLoss
from trainers.logic.render import short

CURVES: dict[str, Any] = {
    "width": 520,
    "height": 300,
    "margin": [14, 12, 34, 40],  # top, right, bottom, left
    "rho": [-6, 6],
    "loss": [0, 6],
    "slope": [-3, 1],
    "beta": 1.0,
    "points": 240,
}
_TICKS = {"rho": range(-6, 7, 2), "loss": range(7), "slope": range(-3, 2)}
_NODE = (92, 48)
_SIZE = (600, 560)
_MARKS = {
    "check": ("✓", "for"),
    "cross": ("✗", "against"),
    "both": ("✓✗", "on both sides"),
    "neither": ("–", "not at all"),
}
_ROWS = {(True, True): "both valid", (False, False): "neither valid"}
_SIGNS = {
    "+": "rises with {}",
    "-": "falls with {}",
    "0": "does not depend on {}",
    "mixed": "rises and falls with {}",
}
# Which way a step goes in the drawing: from the row that it changes and whether the row then counts for the
# formula, or no longer against it. Parallel edges change the same thing.
_STEPS = {("both", "for"): -3, ("both", "not against"): -1, ("none", "not against"): 1, ("none", "for"): 3}


def anchor(name: str) -> str:
    return f"loss-{name}"


def _step(a: NamedLoss, b: NamedLoss) -> tuple[str, str]:
    """What changes on the edge from a to the weaker b."""
    atoms = ("Winner", "Loser")
    (before, after) = (loss.structure.marks(atoms) for loss in (a, b))
    (row,) = (r for r in range(4) if before[r] != after[r])
    gained = before[row] in ("cross", "neither") and after[row] in ("both", "check")
    return ("both" if row == 3 else "none"), ("for" if gained else "not against")


def positions(
    edges: Sequence[tuple[str, str]], losses: Mapping[str, NamedLoss]
) -> dict[str, tuple[float, float]]:
    """Layers by the number of steps from the most constrained loss, which stands at the bottom."""
    (start,) = set(losses) - {b for _, b in edges}
    place = {start: (0, 0)}
    # Edges come from below: each name is reached by all its ways before it is left.
    for name in (layer := [start]):
        for a, b in edges:
            if a == name and b not in place:
                rank, across = place[a]
                place[b] = (rank + 1, across + _STEPS[_step(losses[a], losses[b])])
                layer.append(b)
    top = max(rank for rank, _ in place.values())
    found: dict[str, tuple[float, float]] = {}
    for rank in range(top + 1):
        row = sorted((name for name in place if place[name][0] == rank), key=lambda n: (place[n][1], n))
        for i, name in enumerate(row):
            x = _SIZE[0] / 2 + (i - (len(row) - 1) / 2) * (_SIZE[0] - _NODE[0] - 6) / 5
            y = _SIZE[1] - _NODE[1] / 2 - 8 - rank * (_SIZE[1] - _NODE[1] - 16) / top
            found[name] = (round(x, 1), round(y, 1))
    return found


def lattice_svg(
    edges: Sequence[tuple[str, str]],
    plain: Mapping[str, NamedLoss],
    ref: Mapping[str, NamedLoss],
    known: Collection[str],
) -> str:
    at = positions(edges, plain)
    lines: list[str] = []
    for a, b in edges:
        row, change = _step(plain[a], plain[b])
        style = f"edge {row} {'gain' if change == 'for' else 'drop'}"
        (x1, y1), (x2, y2) = at[a], at[b]
        lines.append(
            f'<line class="{style}" data-a="{a}" data-b="{b}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
        )
    nodes = [_node(name, at[name], plain[name], ref[name], known) for name in _reading_order(at)]
    return (
        f'<svg id="lattice" viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" role="group" aria-label="Lattice of '
        f'{len(at)} losses: the most constrained stands at the bottom, {len(edges)} edges lead to weaker ones">'
        f"{''.join(lines)}{''.join(nodes)}</svg>"
    )


def _reading_order(at: Mapping[str, tuple[float, float]]) -> list[str]:
    return sorted(at, key=lambda name: (at[name][1], at[name][0]))


def _node(
    name: str, at: tuple[float, float], plain: NamedLoss, ref: NamedLoss, known: Collection[str]
) -> str:
    core = LATTICE[name][0].replace("->", "→").replace("&", "∧").replace("~", "¬")
    collapses = plain.structure.collapses
    drawn: list[str] = []
    for form, loss in (("plain", plain), ("ref", ref)):
        label = loss.name + (", known" if loss.name in known else "") + (", collapses" if collapses else "")
        box = f'<rect x="{-_NODE[0] / 2}" y="{-_NODE[1] / 2}" width="{_NODE[0]}" height="{_NODE[1]}" rx="9"/>'
        text = (
            f'<text class="name" y="-2">{loss.name}</text><text class="sub" y="15">{core}</text>'
            if form == "plain"
            else _reference_label(loss.name)
        )
        warn = (
            f'<text class="warn" x="{_NODE[0] / 2 - 9}" y="{-_NODE[1] / 2 + 14}">!</text>'
            if collapses
            else ""
        )
        drawn.append(
            f'<a class="node {form}{" known" if loss.name in known else ""}" href="#{anchor(loss.name)}" '
            f'data-loss="{name}" transform="translate({at[0]} {at[1]})" aria-label="{label}">'
            f"{box}{text}{warn}</a>"
        )
    return "".join(drawn)


def _reference_label(name: str) -> str:
    """On two lines: `ref-unCPO` on one is wider than a node on a phone."""
    prefix, dash, bare = name.rpartition("-")
    if not dash:
        return f'<text class="name" y="6">{name}</text>'
    return f'<text class="sub" y="-7">{prefix}-</text><text class="name" y="13">{bare}</text>'


def panel(
    name: str,
    loss: NamedLoss,
    form: Literal["plain", "ref"],
    *,
    known: bool,
    names: Mapping[str, str],
    covers: Sequence[tuple[str, str]],
) -> str:
    """Everything there is to say about one loss; `name` is its place in the lattice."""
    told = describe.description(loss.structure, loss)
    up = [names[b] for a, b in covers if a == name]
    down = [names[a] for a, b in covers if b == name]
    tags = ['<span class="tag">known</span>'] if known else []
    tags += (
        [f'<span class="tag plain">also {escape(", ".join(told["aliases"]))}</span>']
        if told["aliases"]
        else []
    )
    same = ", ".join(told["same_structure"])
    facts = {
        "P, asked for": f"<code>{escape(told['formula'])}</code>",
        "P<sub>C</sub>, given": f"<code>{escape(told['given'])}</code>",
        "P<sub>A</sub>, on both sides": f"<code>{escape(told['also'])}</code>",
        "Closed form": loss_mathml.rho(loss.structure) + _copyable(told),
        "Stable in log space": f"<code>ρ = {escape(told['stable'])}</code>",
        "Loss": f"<code>{escape(told['loss'])}</code>, β {told['beta']:g}"
        + (f", <code>sft_weight: {told['sft_weight']:g}</code>" if told["sft_weight"] else ""),
        "Needs": _needs(told["needs"]),
        "At step 0": _step0(told["step0"]),
        "Gradient": "; ".join(
            "ρ " + _SIGNS[told["gradient"][key]].format(f"<i>{key}</i>") for key in ("w", "l")
        ),
        "Same structure": f"{escape(same)}, with other links or defaults" if same else "",
        "Weaker": _steps(up),
        "More constrained": _steps(down),
    }
    rows = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts.items() if value)
    warnings = "".join(f'<li class="warning">{escape(text)}</li>' for text in told["warnings"])
    notes = "".join(f"<li>{escape(text)}</li>" for text in told["notes"])
    remarks = f'<ul class="remarks">{warnings}{notes}</ul>' if warnings or notes else ""
    sentences = " ".join(escape(sentence) for sentence in reading(loss.structure))
    return (
        f'<article class="panel {form}" id="{anchor(loss.name)}" data-loss="{name}" tabindex="-1" '
        f'aria-labelledby="h-{loss.name}"><h3 id="h-{loss.name}">{loss.name} {" ".join(tags)}</h3>'
        f'<p class="english">{sentences}</p>{remarks}<dl>{rows}</dl>{truth_table(told)}</article>'
    )


def _copyable(told: Mapping[str, Any]) -> str:
    return (
        f"<details><summary>as text and LaTeX</summary><code>{escape(told['closed_form'])}</code><br>"
        f"<code>{escape(told['latex']['rho'])}</code></details>"
    )


def _needs(needs: Mapping[str, bool]) -> str:
    words = {"reference": "a reference model", "length_normalisation": "per-token averages"}
    return " and ".join(words[key] for key, needed in needs.items() if needed) or "nothing but the model"


def _step0(step0: Mapping[str, Any]) -> str:
    if step0["value"] is None:
        return "depends on the log-probs"
    value = f'<data value="{step0["value"]!r}">{step0["value"]:.6g}</data>'
    if step0["constant"]:
        return f"{value}, whatever the model"
    at = ", ".join(f"log <i>{key}</i> = {x:g}".replace("-", "−") for key, x in step0["at"].items())
    return f"{value} at {at}"


def _steps(names: Sequence[str]) -> str:
    return ", ".join(f'<a href="#{anchor(name)}">{name}</a>' for name in names) or "none of the sixteen"


def truth_table(told: Mapping[str, Any]) -> str:
    heads = "".join(f'<th scope="col">{_symbol(name)}</th>' for name in told["atoms"])
    rows: list[str] = []
    for line in told["table"]:
        sign, words = _MARKS[line["mark"]]
        cells = "".join(f"<td>{'T' if value else 'F'}</td>" for value in line["row"].values())
        rows.append(
            f'<tr class="{line["mark"]}">{cells}<td><b aria-hidden="true">{sign}</b> {words}</td></tr>'
        )
    return (
        '<table class="truth"><caption>Truth table: how each case counts</caption>'
        f'<thead><tr>{heads}<th scope="col">counts</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _symbol(name: str) -> str:
    letters = short(name)
    return f"<i>{letters[0]}<sub>{letters[1]}</sub></i>" if len(letters) == 2 else f"<i>{letters}</i>"


def curves_svg(quantity: Literal["loss", "slope"]) -> str:
    """The four links over rho at the beta that the page starts with."""
    width, height = CURVES["width"], CURVES["height"]
    top, right, bottom, left = CURVES["margin"]
    what = "loss" if quantity == "loss" else "slope of the loss, d loss / d ρ"
    grid: list[str] = []
    for tick in _TICKS["rho"]:
        x = _x(tick)
        grid.append(f'<line x1="{x}" y1="{top}" x2="{x}" y2="{height - bottom}"/>')
        grid.append(f'<text x="{x}" y="{height - bottom + 16}">{tick}</text>'.replace(">-", ">−"))
    for tick in _TICKS[quantity]:
        y = _y(quantity, tick)
        grid.append(f'<line x1="{left}" y1="{y}" x2="{width - right}" y2="{y}"/>')
        grid.append(f'<text class="y" x="{left - 8}" y="{y + 4}">{tick}</text>'.replace(">-", ">−"))
    box = f'x="{left}" y="{top}" width="{width - left - right}" height="{height - top - bottom}"'
    lines = "".join(
        f'<path class="link {link}" data-link="{link}" d="{_path(link, quantity)}"/>' for link in links.LINKS
    )
    middle = (left + width - right) / 2
    return (
        f'<svg class="curves" id="curve-{quantity}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{what} over the log ratio ρ for the links {", ".join(links.LINKS)}">'
        f'<clipPath id="clip-{quantity}"><rect {box}/></clipPath><g class="grid">{"".join(grid)}'
        f'<text x="{middle}" y="{height - 4}">ρ</text></g>'
        f'<g clip-path="url(#clip-{quantity})">{lines}'
        f'<line class="here" x1="-9" x2="-9" y1="{top}" y2="{height - bottom}"/></g></svg>'
    )


def _x(rho: float) -> float:
    low, high = CURVES["rho"]
    _, right, _, left = CURVES["margin"]
    return round(left + (rho - low) / (high - low) * (CURVES["width"] - left - right), 2)


def _y(quantity: str, value: float) -> float:
    low, high = CURVES[quantity]
    top, _, bottom, _ = CURVES["margin"]
    # A curve that leaves the picture is cut there by the clip path; far outside, renderers lose precision.
    inside = min(max(value, low - 10), high + 10)
    return round(top + (high - inside) / (high - low) * (CURVES["height"] - top - bottom), 2)


def _path(link: links.Link, quantity: str) -> str:
    low, high = CURVES["rho"]
    n = CURVES["points"]
    of = links.value if quantity == "loss" else links.derivative
    steps = [low + (high - low) * i / n for i in range(n + 1)]
    return "M" + "L".join(f"{_x(rho):g} {_y(quantity, of(link, rho, CURVES['beta'])):g}" for rho in steps)
