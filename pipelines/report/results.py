"""What came out: the scores of every `evaluate` stage with their intervals, and samples side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

from pipelines.report.charts import Bar, dots
from pipelines.report.gather import Recorded, RunRecord, listing, mapping, rows, values
from pipelines.report.history import number_of
from pipelines.report.markup import fixed, number, part, percent, table
from pipelines.report.samples import card, notable

SHOWN = 3
READ = 2000
"""Answers of a label that are looked at for notable ones."""


def results(run: RunRecord, faults: list[str]) -> str:
    return "".join(_suite(stage, faults) for stage in run.of("evaluate") if stage.done)


def _suite(stage: Recorded, faults: list[str]) -> str:
    suite = stage.config.get("suite", "answers")
    if suite == "answers":
        return answers(stage, faults)
    return rag(stage, faults) if suite == "rag" else ""


def labels_of(stage: Recorded) -> list[str]:
    """In the recipe's order."""
    return [str(label) for label in mapping(stage.config.get("models"))]


def answers(stage: Recorded, faults: list[str]) -> str:
    """A critic's scores of several models on the same prompts."""
    labels = [label for label in labels_of(stage) if mapping(stage.metrics.get(label))]
    figures = {label: mapping(stage.metrics[label]) for label in labels}
    if not labels:
        return ""
    bars = [Bar(label, number_of(figures[label].get("score")) or 0.0, style=2) for label in labels]
    gaps = _gaps(mapping(stage.metrics.get("differences")))
    parts = list(dict.fromkeys(name for label in labels for name in mapping(figures[label].get("parts"))))
    heads = ["", *(escape(label) for label in labels)]
    lines = [["<b>score</b>", *(f"<b>{fixed(figures[label].get('score'))}</b>" for label in labels)]]
    lines += [
        [
            escape(name),
            *(fixed(mapping(figures[label].get("parts")).get(name)) for label in labels),
        ]
        for name in parts
    ]
    lines.append(["words", *(fixed(figures[label].get("words"), 1) for label in labels)])
    lines.append(["cut", *(percent(number_of(figures[label].get("cut")) or 0.0) for label in labels)])
    count = figures[labels[0]].get("prompts", "?")
    body = (
        f'<div class="charts">{dots("Mean score", bars)}{dots("Difference, with 95 % interval", gaps, zero=True)}</div>'
        + table(heads, lines, kind="figures")
        + _overlap(stage)
        + _samples(stage, labels, faults)
    )
    return part(
        stage.name,
        body,
        f"{number(count)} held-out prompts, greedy answers, scored by the recipe’s critic. A difference whose interval "
        "holds 0 may be chance. The intervals say nothing of other seeds.",
    )


def _gaps(found: Mapping[str, Any]) -> list[Bar]:
    bars: list[Bar] = []
    for name, gap in found.items():
        one = mapping(gap)
        one = mapping(one.get("exact_match")) or one
        mean, low, high = (number_of(one.get(key)) for key in ("mean", "low", "high"))
        if mean is not None and low is not None and high is not None:
            bars.append(
                Bar(name.replace(" - ", " − "), mean, low, high, 3 if low > 0 else 4 if high < 0 else 0)
            )
    return bars


def _overlap(stage: Recorded) -> str:
    lines = [
        f"{escape(name)}: {number(one.get('exact'))} exact and {number(one.get('near'))} near copies"
        for name, given in mapping(stage.metrics.get("overlap")).items()
        if (one := mapping(given))
    ]
    return (
        f'<p class="hint">Held-out prompts found in training data: {"; ".join(lines)}.</p>' if lines else ""
    )


def file_of(stage: Recorded, label: str) -> str:
    """Where `evaluate` keeps a label's answers."""
    return f"answers-{re.sub(r'[^A-Za-z0-9._-]+', '_', label)}.jsonl"


def answered(
    stage: Recorded, labels: Sequence[str], faults: list[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """By label and prompt id."""
    return {
        label: {
            str(row.get("id", i)): row
            for i, row in enumerate(islice(rows(stage.folder / file_of(stage, label), faults), READ))
        }
        for label in labels
    }


def _samples(stage: Recorded, labels: Sequence[str], faults: list[str]) -> str:
    found = answered(stage, labels, faults)
    shared = [key for key in found[labels[0]] if all(key in found[label] for label in labels)]
    if not shared:
        return '<p class="missing">The answers are not in the stage’s folder, so no samples are shown.</p>'
    scores = {label: [number_of(found[label][key].get("score")) for key in shared] for label in labels}
    cards = [
        card(
            found[labels[0]][shared[place]].get("prompt", ""),
            {
                label: (str(found[label][shared[place]].get("answer", "")), scores[label][place])
                for label in labels
            },
            tag=tag,
        )
        for place, tag in notable(scores, min(SHOWN, len(shared)))
    ]
    return (
        '<h4>What they say</h4><p class="hint">Each answer beside the one before it: '
        "<ins>words that came</ins>, <del>words that went</del>; its score at the right.</p>"
        f'<div class="samples">{"".join(cards)}</div>'
    )


def rag(stage: Recorded, faults: list[str]) -> str:
    """Answers from retrieved documents under several rerankers."""
    found = values(stage.folder / "rag.json", faults) or stage.metrics
    labels = [label for label, one in found.items() if "exact_match" in mapping(one)]
    if not labels:
        return ""
    measures = {
        "exact_match": "exact match",
        "f1": "F1",
        "answer_said": "answer said",
        "answer_shown": "answer in the documents shown",
    }
    lines = [
        [escape(label), *(fixed(mapping(found[label]).get(key)) for key in measures)] for label in labels
    ]
    bars = [
        Bar(label, number_of(mapping(found[label]).get("exact_match")) or 0.0, style=2) for label in labels
    ]
    counts = mapping(found.get("counts"))
    body = (
        f'<div class="charts">{dots("Exact match", bars)}'
        f"{dots('Difference in exact match, with 95 % interval', _gaps(mapping(found.get('differences'))), zero=True)}"
        "</div>"
        + table(["", *measures.values()], lines, kind="figures")
        + _read_answers(stage, labels, faults)
    )
    return part(
        stage.name,
        body,
        f"{number(counts.get('questions', 0))} questions, each answered from its first "
        f"{escape(str(stage.config.get('top_k', '?')))} documents in each order. No gold answer goes in.",
    )


def _read_answers(stage: Recorded, labels: Sequence[str], faults: list[str]) -> str:
    found = answered(stage, labels, faults)
    shared = [key for key in found[labels[0]] if all(key in found[label] for label in labels)]
    scores = {label: [number_of(found[label][key].get("exact_match")) for key in shared] for label in labels}
    cards: list[str] = []
    for place, tag in notable(scores, min(SHOWN, len(shared))):
        key = shared[place]
        row = found[labels[0]][key]
        cards.append(
            card(
                row.get("question", ""),
                {label: (str(found[label][key].get("answer", "")), scores[label][place]) for label in labels},
                tag="" if tag.startswith("lost") else tag,
                compare=False,
                right=" / ".join(str(one) for one in listing(row.get("golden_answers"))),
            )
        )
    return f'<h4>What they say</h4><div class="samples">{"".join(cards)}</div>' if cards else ""
