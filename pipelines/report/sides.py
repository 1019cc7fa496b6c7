"""Two runs side by side: what differs in their recipes, and what differs in what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, cast

from pipelines.progress import duration
from pipelines.report.charts import Bar, dots
from pipelines.report.curves import charts
from pipelines.report.gather import Recorded, RunRecord, mapping
from pipelines.report.history import number_of
from pipelines.report.markup import code, folded, number, part, plural_of, section, state_tag, table, tiles
from pipelines.report.page import filled, stand
from pipelines.report.picture import picture
from pipelines.report.results import answered, labels_of
from pipelines.report.samples import card, notable

SAMPLES = 4
SILENT = frozenset({"name", "kind"})
SPENT = ("seconds", "per_second", "reference_measured", "reference_read")
"""How figures end that say what the work cost and not what came out."""
DEEP = 2
Pair = tuple[RunRecord, RunRecord]


def labels(first: RunRecord, second: RunRecord) -> tuple[str, str]:
    """Their names; where these are one, their folders."""
    if first.name != second.name:
        return first.name, second.name
    return str(first.folder), str(second.folder)


def side_by_side(first: RunRecord, second: RunRecord, called: tuple[str, str]) -> str:
    """The whole page."""
    faults: list[str] = []
    runs = (first, second)
    bodies = [
        ("recipe", "Recipe", "What differs in the recipe", recipe(runs, called)),
        ("result", "Result", "What differs in the result", _results(runs, called)),
        ("training", "Training", "Training, one over the other", _training(runs, called)),
        ("samples", "Answers", "What they say", _samples(runs, called, faults)),
        ("stages", "Stages", "The stages", _stages(runs, called)),
    ]
    told = list(
        dict.fromkeys(
            [*faults, *(f"{n}: {x}" for n, run in zip(called, runs, strict=True) for x in _faults(run))]
        )
    )
    missing = "".join(f"<li>{escape(line)}</li>" for line in told)
    if missing:
        listed = f'<ul class="remarks damaged">{missing}</ul>'
        bodies.insert(0, ("missing", "Missing", "What is missing", listed))
    return filled(
        title=f"{called[0]} and {called[1]}",
        header=_header(runs, called),
        sections=[(key, name, section(key, title, body)) for key, name, title, body in bodies if body],
    )


def _faults(run: RunRecord) -> list[str]:
    return [*run.faults, *(f"{stage.name}/{fault}" for stage in run.stages for fault in stage.faults)]


def _header(runs: Pair, called: tuple[str, str]) -> str:
    names = " and ".join(
        f'<span class="value-{side}">{escape(name)}</span> {state_tag(stand(run))}'
        for side, name, run in zip("ab", called, runs, strict=True)
    )
    shown: dict[str, str] = {}
    for name, run in zip(called, runs, strict=True):
        done = [stage.done for stage in run.stages if stage.done]
        shown[f"{name}: time at work"] = duration(sum(one.seconds for one in done)) if done else "–"
    return (
        f"<h1>{names}</h1><p>Two runs side by side. Equal values are left out and counted.</p>{tiles(shown)}"
    )


def _both(runs: Pair) -> Iterator[tuple[str, Recorded | None, Recorded | None]]:
    """Every stage of either run by name, in the first run's order and then the second's."""
    for name in dict.fromkeys(stage.name for run in runs for stage in run.stages):
        yield name, runs[0].stage(name), runs[1].stage(name)


# ---------------------------------------------------------------- recipes


def recipe(runs: Pair, called: tuple[str, str]) -> str:
    lines: list[list[str]] = []
    equal = 0
    for name, one, other in _both(runs):
        if one is None or other is None:
            there = "is there" if one else ""
            here = "is there" if other else ""
            lines.append([f"<b>{escape(name)}</b>", "the stage", *_cells(there or "–", here or "–")])
            continue
        mine, theirs = (dict(flat(stage.config)) for stage in (one, other))
        for key in dict.fromkeys([*mine, *theirs]):
            if key in SILENT and mine.get(key) == theirs.get(key):
                continue
            if mine.get(key) == theirs.get(key):
                equal += 1
            else:
                lines.append(
                    [f"<b>{escape(name)}</b>", code(key), *_cells(_text(mine, key), _text(theirs, key))]
                )
        lines += _files(name, one, other)
    lines += _surroundings(runs)
    heads = ["stage", "setting", *(escape(name) for name in called)]
    body = (
        table(heads, lines, kind="stack") or "<p>Nothing: their recipes, files and versions are the same.</p>"
    )
    return body + f'<p class="missing">{equal:,} settings are equal.</p>'


def _cells(mine: str, theirs: str) -> list[str]:
    return [f'<span class="value-a">{escape(mine)}</span>', f'<span class="value-b">{escape(theirs)}</span>']


def _text(found: Mapping[str, object], key: str) -> str:
    if key not in found:
        return "–"
    value = found[key]
    return "null" if value is None else str(value)


def flat(value: object, key: str = "", depth: int = 9) -> Iterator[tuple[str, object]]:
    """Every value of nested settings under its dotted name."""
    if isinstance(value, Mapping) and value and depth:
        for name, inner in cast("Mapping[object, object]", value).items():
            yield from flat(inner, f"{key}.{name}" if key else str(name), depth - 1)
    elif isinstance(value, list) and value and depth:
        for place, inner in enumerate(cast("list[object]", value)):
            yield from flat(inner, f"{key}[{place}]", depth - 1)
    else:
        yield key, value


def _files(name: str, one: Recorded, other: Recorded) -> list[list[str]]:
    """Input files of the same path and another content."""
    mine, theirs = (stage.begun.files if stage.begun else {} for stage in (one, other))
    return [
        [
            f"<b>{escape(name)}</b>",
            f"content of {code(path)}",
            *_cells(mine[path].sha256[:12], theirs[path].sha256[:12]),
        ]
        for path in mine
        if path in theirs and mine[path].sha256 != theirs[path].sha256
    ]


def _surroundings(runs: Pair) -> list[list[str]]:
    """Versions, machine and commit, as the last finished stage has them."""
    last = [next((stage.done for stage in reversed(run.stages) if stage.done), None) for run in runs]
    found: list[dict[str, str]] = []
    for done in last:
        known = dict(done.versions) if done else {}
        if done:
            known["machine"] = done.device
            known["commit"] = str((done.commit or {}).get("id", ""))[:12]
        found.append(known)
    return [
        ["", escape(key), *_cells(found[0].get(key, "–"), found[1].get(key, "–"))]
        for key in dict.fromkeys([*found[0], *found[1]])
        if found[0].get(key) != found[1].get(key)
    ]


# ---------------------------------------------------------------- results


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a record, nested ones under dotted names."""
    return {
        key: value
        for key, given in flat(metrics, depth=DEEP)
        if (value := number_of(given)) is not None and not key.endswith(SPENT)
    }


def _results(runs: Pair, called: tuple[str, str]) -> str:
    made = ""
    for name, one, other in _both(runs):
        if one is None or other is None or not (one.done and other.done):
            continue
        mine, theirs = figures(one.metrics), figures(other.metrics)
        keys = [key for key in dict.fromkeys([*mine, *theirs]) if mine.get(key) != theirs.get(key)]
        equal = sum(mine[key] == theirs.get(key) for key in mine)
        lines = [[code(key), *_gap(mine.get(key), theirs.get(key))] for key in keys]
        shown = table(["figure", *(escape(n) for n in called), "difference"], lines, kind="figures")
        if len(lines) > 12:
            shown = folded(f"{len(lines)} figures differ", shown)
        chart = scores(one, other, called)
        if lines or chart:
            made += part(name, chart + shown, f"{plural_of(equal, 'figure')} equal." if equal else "")
    return made or "<p>Nothing: every figure of the stages that both have finished is equal.</p>"


def _gap(mine: float | None, theirs: float | None) -> list[str]:
    gap = f"{theirs - mine:+.4g}".replace("-", "−") if mine is not None and theirs is not None else "–"
    return [
        f'<span class="value-a">{number(mine)}</span>',
        f'<span class="value-b">{number(theirs)}</span>',
        gap,
    ]


def scores(one: Recorded, other: Recorded, called: tuple[str, str]) -> str:
    """Held-out scores of both on one axis."""
    if one.kind != "evaluate" or one.config.get("suite", "answers") != "answers":
        return ""
    bars: list[Bar] = []
    for label in dict.fromkeys([*labels_of(one), *labels_of(other)]):
        for name, stage, style in ((called[0], one, 2), (called[1], other, 5)):
            score = number_of(mapping(stage.metrics.get(label)).get("score"))
            if score is not None:
                bars.append(Bar(f"{label}, {name}", score, style=style))
    drawn = dots("Mean score", bars)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _training(runs: Pair, called: tuple[str, str]) -> str:
    made = ""
    for name, one, other in _both(runs):
        if one is None or other is None or not one.history.curves or not other.history.curves:
            continue
        if one.history.curves == other.history.curves:
            made += part(name, "<p>Equal, step for step.</p>")
            continue
        drawn = list(charts([(called[0], one), (called[1], other)]))
        shown = "".join(chart for chart, quiet in drawn if not quiet)
        more = [chart for chart, quiet in drawn if quiet]
        body = f'<div class="charts">{shown}</div>'
        if more:
            body += folded(f"{len(more)} more", f'<div class="charts">{"".join(more)}</div>', kind="more")
        made += part(name, body)
    return made


def _samples(runs: Pair, called: tuple[str, str], faults: list[str]) -> str:
    """The last model of each on the same prompts."""
    made = ""
    for name, one, other in _both(runs):
        if (
            one is None
            or other is None
            or one.kind != "evaluate"
            or one.config.get("suite", "answers") != "answers"
        ):
            continue
        mine, theirs = labels_of(one), labels_of(other)
        if not mine or not theirs:
            continue
        found = [
            answered(stage, [label], faults)[label] for stage, label in ((one, mine[-1]), (other, theirs[-1]))
        ]
        shared = [key for key in found[0] if key in found[1]]
        differ = [key for key in shared if found[0][key].get("answer") != found[1][key].get("answer")]
        by_run = {
            n: [number_of(rows[key].get("score")) for key in differ]
            for n, rows in zip(called, found, strict=True)
        }
        cards = [
            card(
                found[0][differ[place]].get("prompt", ""),
                {
                    f"{n}: {label}": (str(rows[differ[place]].get("answer", "")), by_run[n][place])
                    for n, label, rows in zip(called, (mine[-1], theirs[-1]), found, strict=True)
                },
                tag=tag,
            )
            for place, tag in notable(by_run, min(SAMPLES, len(differ)))
        ]
        told = f"{len(differ):,} of {len(shared):,} shared prompts are answered differently."
        made += part(name, f'<div class="samples">{"".join(cards)}</div>' if cards else " ", told)
    return made


def _stages(runs: Pair, called: Sequence[str]) -> str:
    lines: list[list[str]] = []
    for name, one, other in _both((runs[0], runs[1])):
        cells: list[str] = []
        for stage in (one, other):
            if stage is None:
                cells += ["–", ""]
            else:
                cells += [state_tag(stage.stand), duration(stage.done.seconds) if stage.done else ""]
        lines.append([f"<b>{escape(name)}</b>", *cells])
    heads = ["stage", escape(called[0]), "time", escape(called[1]), "time"]
    drawn = "".join(
        f"<div><h3>{escape(name)}</h3>{picture(run)}</div>" for name, run in zip(called, runs, strict=True)
    )
    return table(heads, lines, kind="figures") + f'<div class="sides">{drawn}</div>'
