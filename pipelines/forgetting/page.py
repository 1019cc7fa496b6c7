"""The forget report: one page, from the files in the stage's folder, that needs no network and no scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from data.errors import RunError
from data.jsonl import replacing
from pipelines.forgetting.plots import Axis, Mark, Series, around, chart, legend
from pipelines.forgetting.steps import STEPS

FIGURES = "forgetting.json"
PAGE = "forgetting.html"
GENERATOR = '<meta name="generator" content="heliograph forget report">'
UNTOLD = 0.05
"""Above it the forget quality's test does not tell a model from the retrained one."""
COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("forget quality", ("forget_quality",)),
    ("model utility", ("utility",)),
    ("probability", ("sets", "forget", "probability")),
    ("ROUGE-L", ("sets", "forget", "rouge")),
    ("truth ratio", ("sets", "forget", "truth_ratio")),
    ("extraction strength", ("extraction_strength",)),
    ("exact memorisation", ("exact_memorisation",)),
    ("MIN-K", ("min_k",)),
    ("AUC", ("auc",)),
    ("privacy leak, %", ("privacy_leak",)),
)
KEPT = {"retain": "what was to stay", "real_authors": "real authors", "world_facts": "world facts"}


def write(folder: Path) -> Path:
    """`forgetting.html` beside the figures it shows."""
    path = folder / PAGE
    with replacing(path) as file:
        file.write(page(_read(folder / FIGURES), _read(folder / STEPS)).encode())
    return path


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as fault:
        raise RunError(
            f"the report cannot be made: {fault}", where=str(file), way_out="run the stage again"
        ) from fault


def page(found: Mapping[str, Any], steps: Mapping[str, Any]) -> str:
    """The whole page; the same text for the same figures."""
    folder = resources.files("pipelines") / "pages"
    style = {label: i for i, label in enumerate(found["models"])}
    sections = [
        _section("Forget quality against utility", _trade_off(found, style)),
        _section("On the way there", _paths(steps, style)),
        _section("What NPO still pushes on", _weights(steps, style)),
        _section("Attacks", _attacks(found, style)),
        _section("What they say", _samples(found)),
        _section("All measures", _table(found) + _kept(found) + _notes(found)),
    ]
    slots = {
        "generator": GENERATOR,
        "style": (folder / "forgetting.css").read_text(encoding="utf-8"),
        "verdicts": _verdicts(found),
        "questions": ", ".join(
            f"{count} {name.replace('_', ' ')}" for name, count in found["questions"].items()
        ),
        "start": escape(found["start"]),
        "sections": "\n".join(section for section in sections if section),
    }
    text = (folder / "forgetting.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], text)


def _section(title: str, body: str) -> str:
    name = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{body}</section>' if body else ""


def _verdicts(found: Mapping[str, Any]) -> str:
    models, start = found["models"], found["start"]
    before = models[start]["utility"]["value"]
    items: list[str] = []
    for label, one in models.items():
        if label in (start, found["retrained"]):
            continue
        share = one["utility"]["value"] / before if before else 0.0
        kept = f"{share:.0%} of {escape(start)}’s utility is left"
        if one["forget_quality"] is None:
            said, grade = kept, ""
        else:
            forgot = one["forget_quality"]["value"] > UNTOLD
            retrained = escape(found["retrained"])
            told = f"not told from {retrained}" if forgot else f"told from {retrained}"
            said, grade = f"{told} (forget quality {number(one['forget_quality']['value'])}); {kept}", ""
            grade = "good" if forgot and share >= 0.9 else "bad" if share < 0.5 or not forgot else ""
        items.append(f'<li class="{grade}"><b>{escape(label)}</b> {said}.</li>')
    return f'<ul class="verdicts">{"".join(items)}</ul>' if items else ""


# ---------------------------------------------------------------- charts


def _trade_off(found: Mapping[str, Any], style: Mapping[str, int]) -> str:
    models = found["models"]
    if found["retrained"] is None:
        why = next(iter(models.values()))["without"]["forget_quality"]
        return f'<p class="missing">Forget quality is not had: {escape(why)}.</p>'
    series = [
        Series(
            label,
            style[label],
            [
                Mark(
                    one["utility"]["value"],
                    one["forget_quality"]["value"],
                    _span(one["utility"]),
                    _span(one["forget_quality"]),
                )
            ],
        )
        for label, one in models.items()
    ]
    qualities = [max(one["forget_quality"]["value"], 1e-12) for one in models.values()]
    x = Axis("model utility", 0, max(one["utility"]["high"] for one in models.values()) * 1.06 or 1)
    y = around("forget quality", [*qualities, 0.01], log=True)
    drawn = chart(
        "trade-off",
        series,
        x,
        y,
        "Forget quality over model utility, a point for each model",
        line=False,
        guide=UNTOLD,
    )
    return (
        '<p class="hint">Up and to the right is better: forgotten as if never learned, and everything else still '
        f"known. Above the dashed line, {UNTOLD}, a model is not told from <b>{escape(found['retrained'])}</b>, "
        "which never saw what was forgotten. A model that says nothing sensible at all can stand there too, on the "
        "left: forget quality means nothing without utility. Bars hold the middle 95 % of resampled questions.</p>"
        f"<figure>{drawn}{legend(series, line=False)}</figure>"
    )


def _paths(steps: Mapping[str, Any], style: Mapping[str, int]) -> str:
    series: list[Series] = []
    over: list[Series] = []
    for label, one in steps.items():
        marks = list(_way(one))
        if len(marks) > 1:
            series.append(Series(label, style[label], [Mark(x, y) for _, x, y in marks]))
            over.append(Series(label, style[label], [Mark(step, y) for step, _, y in marks]))
    if not series:
        return ""
    ways = [mark for one in series for mark in one.marks]
    x = around("log-probability of a forget answer", [mark.x for mark in ways])
    y = around("utility (probe)", [mark.y for mark in ways], zero=True)
    first = chart(
        "paths", series, x, y, "Utility over the log-probability of forget answers, step by step", line=True
    )
    last = max(mark.x for one in over for mark in one.marks)
    second = chart("utility-steps", over, Axis("step", 0, last), y, "Utility over the steps", line=True)
    return (
        '<p class="hint">Every method starts at the upper right and goes left as answers become unlikely; it should '
        "not sink. Utility is here what the stages watched as they went: the probability per token of their probe "
        "rows. Marks stand at the end.</p>"
        f'<div class="pair"><figure>{first}</figure><figure>{second}</figure></div>{legend(series, line=True)}'
    )


def _way(one: Mapping[str, Any]) -> Iterator[tuple[float, float, float]]:
    """(step, forget log-probability, utility) at each measurement: the mean of the batches since the one before."""
    since: float = 0
    first = next((s["logps/forget"] for s in one["steps"] if "logps/forget" in s), None)
    if first is not None and one["utility_start"] is not None:
        # The first batch is measured before the first step changes anything.
        yield 0, first, one["utility_start"]
    for at in one["watched"]:
        if "watch/utility" not in at:
            continue
        batches = [
            s["logps/forget"] for s in one["steps"] if since < s["step"] <= at["step"] and "logps/forget" in s
        ]
        if batches:
            yield at["step"], sum(batches) / len(batches), at["watch/utility"]
        since = at["step"]


def _weights(steps: Mapping[str, Any], style: Mapping[str, int]) -> str:
    key = "weights/forget"
    key = "weights/forget"
    series = [
        Series(label, style[label], [Mark(at["step"], at[key]) for at in one["steps"] if key in at])
        for label, one in steps.items()
    ]
    series = [one for one in series if len(one.marks) > 1]
    if not series:
        return ""
    marks = [mark for one in series for mark in one.marks]
    x = Axis("step", 0, max(mark.x for mark in marks))
    y = Axis("weight W", 0, max(1.0, max(mark.y for mark in marks)) * 1.04)
    drawn = chart("weights", series, x, y, "The weight W of forget answers over the steps", line=True)
    return (
        '<p class="hint">NPO’s gradient is gradient ascent’s times W: 1 while an answer is as likely as at the '
        "start, towards 0 once it is forgotten. That is why it ends where gradient ascent goes on. SimNPO’s W is "
        "divided by the answer’s length, and knows no start to compare with.</p>"
        f"<figure>{drawn}{legend(series, line=True)}</figure>"
    )


def _attacks(found: Mapping[str, Any], style: Mapping[str, int]) -> str:
    return _relearned(found, style) + _requantised(found) + _refused(found)


def _relearned(found: Mapping[str, Any], style: Mapping[str, int]) -> str:
    curves = {
        label: one["relearn"]["curve"]
        for label, one in found["attacks"].items()
        if "curve" in one.get("relearn", {})
    }
    if not curves:
        return ""
    charts: list[str] = []
    drawn: list[Series] = []
    for name, words in (("taught", "taught answers"), ("others", "untaught answers")):
        series = [
            Series(label, style[label], [_back(point, name) for point in curve])
            for label, curve in curves.items()
            if name in curve[0]
        ]
        if series:
            drawn = drawn or series
            x = Axis("step", 0, max(mark.x for one in series for mark in one.marks))
            y = Axis(f"probability of {words}", 0, 1)
            told = f"Probability of {words} over the steps of relearning"
            charts.append(f"<figure>{chart(f'relearn-{name}', series, x, y, told, line=True)}</figure>")
    return (
        '<h3>Taught again</h3><p class="hint">A part of the forgotten answers is taught again, the others are only '
        "watched. What rises faster than in the model that never knew was hidden, not gone. A model that "
        "was broken learns slowly too: read this beside its utility.</p>"
        f'<div class="pair">{"".join(charts)}</div>{legend(drawn, line=True)}'
    )


def _back(point: Mapping[str, Any], name: str) -> Mark:
    return Mark(point["step"], point[name]["value"], up=_span(point[name]))


def _requantised(found: Mapping[str, Any]) -> str:
    rows: list[str] = []
    code = ""
    for label, one in found["attacks"].items():
        after = one.get("requantised", {})
        if "code" not in after:
            continue
        before, code = found["models"][label], after["code"]
        cells = [
            f"<td>{_value(side, path)}</td>"
            for path in (("sets", "forget", "probability"), ("forget_quality",), ("utility",))
            for side in (before, after)
        ]
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
    if not rows:
        return ""
    heads = "".join(
        f'<th scope="col">{words}</th><th scope="col">in {code}</th>'
        for words in ("forget probability", "forget quality", "utility")
    )
    return (
        f'<h3>Rounded to {code}</h3><p class="hint">If forgetting is a small change of the weights, rounding them '
        "can undo it.</p>"
        f'<div class="wide" tabindex="0"><table><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}'
        "</tbody></table></div>"
    )


def _refused(found: Mapping[str, Any]) -> str:
    told = [
        f"<li><b>{escape(label)}</b>, {name}: {escape(one[name]['refused'])}</li>"
        for label, one in found["attacks"].items()
        for name in ("relearn", "requantised")
        if "refused" in one.get(name, {})
    ]
    return f'<ul class="missing">{"".join(told)}</ul>' if told else ""


# ---------------------------------------------------------------- words and tables


def _samples(found: Mapping[str, Any]) -> str:
    made: list[str] = []
    for name, title in (("forget", "To be forgotten"), ("retain", "To be kept")):
        cards = [_sample(one, found) for one in found["samples"] if one["set"] == name]
        if cards:
            made.append(f'<h3>{title}</h3><div class="samples">{"".join(cards)}</div>')
    return "".join(made)


def _sample(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(label)}{' (before)' if label == found['start'] else ''}</dt>"
        f"<dd>{escape(text.strip()) or '<i>nothing</i>'}</dd>"
        for label, text in one["said"].items()
    )
    return (
        f'<article><p class="asked">{escape(one["question"])}</p><dl><dt class="right">right</dt>'
        f'<dd class="right">{escape(one["answer"])}</dd>{rows}</dl></article>'
    )


def _table(found: Mapping[str, Any]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name, _ in COLUMNS)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{_value(one, path)}</td>" for _, path in COLUMNS)
        + "</tr>"
        for label, one in found["models"].items()
    )
    return (
        '<h3>What was to be forgotten</h3><div class="wide" tabindex="0"><table>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _kept(found: Mapping[str, Any]) -> str:
    models = found["models"]
    names = [name for name in KEPT if name in next(iter(models.values()))["sets"]]
    parts = ("probability", "rouge", "truth_ratio")
    heads = "".join(f'<th scope="colgroup" colspan="3">{KEPT[name]}</th>' for name in names)
    below = "".join(
        '<th scope="col">probability</th><th scope="col">ROUGE-L</th><th scope="col">truth ratio</th>'
        for _ in names
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{_value(one, ('sets', name, part))}</td>" for name in names for part in parts)
        + "</tr>"
        for label, one in models.items()
    )
    return (
        '<h3>Everything else: what utility is the harmonic mean of</h3><div class="wide" tabindex="0"><table>'
        f"<thead><tr><td></td>{heads}</tr><tr><td></td>{below}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _notes(found: Mapping[str, Any]) -> str:
    told = {
        f"{name.replace('_', ' ')}: {why}"
        for one in found["models"].values()
        for name, why in one["without"].items()
    }
    items = "".join(f"<li>{escape(one)}</li>" for one in sorted(told))
    return f'<ul class="missing">{items}</ul>' if items else ""


def _value(one: Mapping[str, Any], path: Sequence[str]) -> str:
    found: Any = one
    for key in path:
        found = found[key]
    if found is None:
        return '<span aria-label="not had">–</span>'
    if found["low"] is None:
        return number(found["value"])
    return f"{number(found['value'])}<small>{number(found['low'])} to {number(found['high'])}</small>"


def _span(found: Mapping[str, float]) -> tuple[float, float]:
    return found["low"], found["high"]


def number(value: float) -> str:
    """Three digits behind the point, or a power of ten for what they would not show."""
    if 0 < abs(value) < 0.0005:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "−")
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return text.replace("-", "−")
