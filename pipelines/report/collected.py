"""How preferences came about: critics and people, how far people agree, and ILLUME's acceptance by iteration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from data.pictures import COLUMN
from pipelines.report.charts import Curve, line_chart
from pipelines.report.gather import Recorded, RunRecord, listing, mapping, rows, values
from pipelines.report.history import number_of
from pipelines.report.markup import number, part, percent, table, tiles
from pipelines.report.samples import card, picture

READ = 20_000
BINS = 10
_MARGINS = {
    False: "margin: score of the chosen minus score of the rejected",
    True: "weight: how far people lean to the chosen one",
}
CRITICS = {
    "rubric": "a rubric of the recipe",
    "file": "a file of votes",
    "people": "people on the label page",
}


def collected(run: RunRecord, faults: list[str]) -> str:
    return "".join(
        _judged(stage, faults) if stage.kind == "judge" else _illume(stage, faults)
        for stage in run.of("judge", "illume")
    )


def _judged(stage: Recorded, faults: list[str]) -> str:
    if not stage.done:
        return ""
    m = stage.metrics
    kind = str(mapping(stage.config.get("critic")).get("kind", "?"))
    shown = {
        "prompts": number(m.get("prompts")),
        "pairs": number(m.get("pairs")),
        "votes": number(m["votes"]) if "votes" in m else "",
        "people": number(m["people"]) if "people" in m else "",
        "agreement (α)": number(_alpha(m), 3) if _alpha(m) is not None else "",
        "mean share that agrees": percent(share)
        if (share := number_of(m.get("mean_agreement"))) is not None
        else "",
        "mean margin": number(m.get("mean_margin"), 3) if m.get("mean_margin") is not None else "",
        "no pair: no margin": number(m["no_margin"]) if m.get("no_margin") else "",
        "no pair: identical": number(m["identical"]) if m.get("identical") else "",
        "undecided": number(m["undecided"]) if m.get("undecided") else "",
        "candidates unjudged": number(m["unjudged"]) if m.get("unjudged") else "",
    }
    body = tiles(shown, "small") + _margins(stage, kind == "people", faults)
    if kind == "people":
        body += _people(stage, faults)
    return part(stage.name, body, f"Judged by {escape(CRITICS.get(kind, kind))}.")


def _alpha(metrics: Mapping[str, Any]) -> float | None:
    return next((number_of(v) for k, v in metrics.items() if k.startswith("alpha_")), None)


def _margins(stage: Recorded, people: bool, faults: list[str]) -> str:
    found = [
        margin
        for row in islice(rows(stage.folder / "rows.jsonl", faults), READ)
        if (margin := number_of(row.get("margin", row.get("weight")))) is not None
    ]
    if not found:
        return ""
    counts = Counter(min(BINS - 1, int(max(0.0, margin) * BINS)) for margin in found)
    most, wide = max(counts.values()), 520 / BINS
    bars = "".join(
        f"<g><title>margin {i / BINS:.1f} to {(i + 1) / BINS:.1f}: {counts[i]} pairs</title>"
        f'<rect class="s2" x="{i * wide + 3:.1f}" y="{116 - 92 * counts[i] / most:.1f}" width="{wide - 6:.1f}" '
        f'height="{92 * counts[i] / most:.1f}" rx="2"/>'
        + (
            f'<text class="value" x="{(i + 0.5) * wide:.1f}" y="{110 - 92 * counts[i] / most:.1f}">{counts[i]}</text>'
            if counts[i]
            else ""
        )
        + f'<text x="{(i + 0.5) * wide:.1f}" y="133">{i / BINS:.1f}</text></g>'
        for i in range(BINS)
    )
    return (
        f'<figure class="chart narrow"><figcaption>Pairs by {_MARGINS[people]}'
        f'</figcaption><svg class="lengths" viewBox="0 0 520 140" role="img" aria-label="{len(found)} pairs by margin, '
        f'mean {fmean(found):.3f}">{bars}</svg></figure>'
    )


def _people(stage: Recorded, faults: list[str]) -> str:
    """Who voted how often and how quickly, and how far the votes on an item agree."""
    votes: dict[str, list[Mapping[str, Any]]] = {}
    unanimous = judged = 0
    for row in islice(rows(stage.folder / "votes.jsonl", faults), READ):
        said = [mapping(vote) for vote in listing(row.get("votes"))]
        for vote in said:
            votes.setdefault(str(vote.get("person", "?")), []).append(vote)
        counted = [
            str(vote.get("choice")) + str(vote.get("kind")) for vote in said if vote.get("kind") != "skip"
        ]
        judged += len(counted) > 1
        unanimous += len(counted) > 1 and len(set(counted)) == 1
    if not votes:
        return ""
    lines: list[list[str]] = []
    for person, theirs in sorted(votes.items()):
        kinds = Counter(str(vote.get("kind")) for vote in theirs)
        seconds = [s for vote in theirs if (s := number_of(vote.get("seconds"))) is not None]
        lines.append(
            [
                escape(person),
                number(len(theirs)),
                escape(", ".join(f"{kind} {count}" for kind, count in kinds.most_common())),
                f"{number(fmean(seconds), 3)} s" if seconds else "–",
            ]
        )
    told = (
        f'<p class="hint">Of {judged} items that several people judged, {unanimous} got the same vote from all '
        f"({percent(unanimous / judged)}). α is Krippendorff’s: 1 is full agreement, 0 what chance would give.</p>"
        if judged
        else ""
    )
    return "<h4>People</h4>" + told + table(["", "votes", "kinds", "time a vote"], lines, kind="stack")


def _illume(stage: Recorded, faults: list[str]) -> str:
    folder = stage.folder / "iterations"
    base = values(folder / "base.json", faults)
    found = [
        one
        for path in sorted(folder.glob("[0-9]*"))
        if path.is_dir() and (one := values(path / "done.json", faults))
    ]
    if not found:
        return ""
    best = stage.metrics.get("chosen_iteration")
    body = f'<div class="charts">{_acceptance(base, found)}{_covered(found)}</div>'
    measured = [
        key for key in _HELD if any(key in mapping(one.get("held_out")) for one in found) or key in base
    ]
    heads = ["iteration", "judged", "accepted", "share", "new", "prompts covered", "explanations learned", "steps",
             *(_HELD[key] for key in measured)]  # fmt: skip
    lines = [["before", *["–"] * 7, *(number(base.get(k), 3) for k in measured)]] if base else []
    for one in found:
        held = mapping(one.get("held_out"))
        mark = ' <span class="tag">taken</span>' if one.get("iteration") == best else ""
        lines.append(
            [
                number(one.get("iteration")) + mark,
                *(number(one.get(k), 3) for k in ("judged", "accepted", "acceptance", "new", "covered")),
                number(one.get("explanations")),
                number(one.get("steps")),
                *(number(held.get(k), 3) for k in measured),
            ]
        )
    stop = stage.metrics.get("stopped")
    hint = "The model explains, a critic or people accept what fits, the model learns it, and again."
    if stop:
        hint += f" It stopped: {escape(str(stop))}."
    return part(
        stage.name, body + table(heads, lines, kind="figures") + _explained(stage.folder, base, found), hint
    )


_HELD = {
    "acceptance": "held out: accepted",
    "second": "second measure",
    "answer_accuracy": "right answers",
}


def _acceptance(base: Mapping[str, Any], found: list[Mapping[str, Any]]) -> str:
    lines: list[Curve] = []
    drawn = [
        (float(i), v) for i, one in enumerate(found) if (v := number_of(one.get("acceptance"))) is not None
    ]
    lines.append(Curve("accepted of what was drawn", 5, drawn))
    for key, label, style in (
        ("acceptance", "held out: accepted", 2),
        ("second", "held out: second measure", 6),
        ("answer_accuracy", "held out: right answers", 3),
    ):
        points = [
            (float(i), v)
            for i, one in enumerate([base, *(mapping(done.get("held_out")) for done in found)])
            if (v := number_of(one.get(key))) is not None
        ]
        lines.append(Curve(label, style, points))
    note = "0 is the model before anything is learned; drawn in iteration k is what the model after k iterations wrote."
    return line_chart("Acceptance", lines, x_label="iterations learned", whole=(0.0, 1.0), note=note)


def _covered(found: list[Mapping[str, Any]]) -> str:
    lines = [
        Curve(
            label,
            style,
            [(float(i + 1), v) for i, one in enumerate(found) if (v := number_of(one.get(key))) is not None],
        )
        for key, label, style in (("covered", "prompts covered", 2), ("explanations", "explanations", 3))
    ]
    return line_chart("What there is to learn from", lines, x_label="iterations learned", whole=(0.0, 0.0))


def _explained(folder: Path, base: Mapping[str, Any], found: list[Mapping[str, Any]]) -> str:
    """Explanations of held-out prompts, before and after each iteration."""
    steps = {"before": base} | {
        f"iteration {one.get('iteration')}": mapping(one.get("held_out")) for one in found
    }
    told = {label: [mapping(s) for s in listing(one.get("samples"))] for label, one in steps.items()}
    told = {label: samples for label, samples in told.items() if samples}
    if not told:
        return ""
    if len(told) > 4:
        labels = list(told)
        told = {label: told[label] for label in (labels[0], labels[1], labels[-2], labels[-1])}
    last = list(told.values())[-1]
    cards = [
        card(
            last[i].get("prompt", ""),
            {
                label: (str(samples[i].get("explanation", "")), 1.0 if samples[i].get("accepted") else 0.0)
                for label, samples in told.items()
                if i < len(samples)
            },
            picture=picture(folder, last[i].get(COLUMN)),
        )
        for i in range(len(last))
    ]
    return f'<h4>Explanations of held-out prompts</h4><div class="samples">{"".join(cards)}</div>'
