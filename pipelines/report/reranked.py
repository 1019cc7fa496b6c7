"""RADIO: which documents the rationale moved, and what lambda does to the figures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.report.charts import Curve, line_chart
from pipelines.report.gather import Recorded, RunRecord, listing, mapping, rows, values
from pipelines.report.history import Point, number_of
from pipelines.report.markup import clipped, folded, number, part, percent, tiles

READ = 2000
SHOWN = 4


def reranked(run: RunRecord, faults: list[str]) -> str:
    done = [stage for stage in run.of("radio") if stage.done]
    opened = next(
        (s for s in done if not s.config.get("placebo") and s.config.get("rationale_weight", 0.5)), None
    )
    return _weights(run, faults) + "".join(_moved(run, stage, stage is opened, faults) for stage in done)


def _weights(run: RunRecord, faults: list[str]) -> str:
    """Lambda against what it is to raise: positives that hold an answer, and exact match downstream."""
    charts: list[str] = []
    swept: list[Curve] = []
    for stage in run.of("radio"):
        points = sorted(
            (weight, share)
            for key, given in mapping(stage.metrics.get("sweep")).items()
            if (weight := _float(key)) is not None and (share := number_of(given)) is not None
        )
        if points:
            swept.append(Curve(stage.name, len(swept) + 2, points))
    if swept:
        charts.append(
            line_chart(
                "Positives that hold a gold answer",
                swept,
                x_label="λ",
                whole=(0.0, 1.0),
                note="λ is the rationale’s share in the blend: 0 is the retriever’s order, 1 the rationale’s.",
            )
        )
    charts += [
        _downstream(run, stage, faults)
        for stage in run.of("evaluate")
        if stage.config.get("suite") == "rag" and stage.done
    ]
    made = "".join(charts)
    return part("λ against the figures", f'<div class="charts">{made}</div>') if made else ""


def _downstream(run: RunRecord, stage: Recorded, faults: list[str]) -> str:
    found = values(stage.folder / "rag.json", faults) or stage.metrics
    curves: dict[str, list[Point]] = {"exact match": [], "answer in the documents shown": []}
    for label, name in mapping(stage.config.get("rerankers")).items():
        reranker = run.stage(name)
        groups = run.stage(reranker.config.get("groups")) if reranker else None
        if groups is None or groups.kind != "radio" or groups.config.get("placebo"):
            continue
        weight = number_of(groups.config.get("rationale_weight", 0.5))
        for words, key in (("exact match", "exact_match"), ("answer in the documents shown", "answer_shown")):
            value = number_of(mapping(found.get(label)).get(key))
            if weight is not None and value is not None:
                curves[words].append((weight, value))
    lines = [Curve(words, i + 2, sorted(points)) for i, (words, points) in enumerate(curves.items())]
    if max(len(line.points) for line in lines) < 2:
        return ""
    return line_chart(
        f"{stage.name}: what the tuned reranker is worth",
        lines,
        x_label="λ of the groups it learned",
        whole=(0, 0),
    )


def _float(text: str) -> float | None:
    try:
        return number_of(float(text))
    except ValueError:
        return None


def _moved(run: RunRecord, stage: Recorded, first: bool, faults: list[str]) -> str:
    """`first`: what it moved is unfolded."""
    found = list(islice(rows(stage.folder / "rows.jsonl", faults), READ))
    m = stage.metrics
    share = number_of(m.get("pos_with_answer_share"))
    shown = {
        "λ": number(stage.config.get("rationale_weight", 0.5)),
        "groups": number(m.get("groups")),
        "negatives": number(m.get("negatives")),
        "positives with an answer": percent(share) if share is not None else "",
        "negatives with an answer": number(m.get("neg_with_answer")),
        "placebo": "yes: rationales of other questions" if stage.config.get("placebo") else "",
    }
    body = tiles(shown, "small")
    # Under a placebo it was another question's rationale that moved the documents.
    rising = [] if stage.config.get("placebo") else [row for row in found if _rise(row) > 0]
    rising.sort(key=lambda row: (-_rise(row), str(row.get("id"))))
    if rising:
        reasons = _reasons(run, stage, faults)
        cards = [_group(row, reasons) for row in rising[:SHOWN]]
        moved = (
            '<p class="hint">Where the group’s documents stood after retrieval (left) '
            f"and after the blend (right): the questions whose positive rose most. Of {len(found):,} positives, "
            f"{len(rising):,} stood lower before.</p>"
            f'<div class="groups">{"".join(cards)}</div>'
        )
        body += folded("What the rationale moved", moved, opened=first)
    return part(stage.name, body)


def _rise(row: Mapping[str, Any]) -> float:
    before, after = listing(row.get("retrieval_ranks")), listing(row.get("pos_ranks"))
    if not before or not after:
        return 0.0
    return (number_of(before[0]) or 0.0) - (number_of(after[0]) or 0.0)


def _reasons(run: RunRecord, stage: Recorded, faults: list[str]) -> dict[str, str]:
    given = str(stage.config.get("rationales", ""))
    source = run.stage(given)
    path = source.folder / "rows.jsonl" if source else Path(run.base) / given
    return {str(row.get("id")): str(row.get("reason", "")) for row in rows(path, faults)}


def _group(row: Mapping[str, Any], reasons: Mapping[str, str]) -> str:
    before = [number_of(one) or 0.0 for one in listing(row.get("retrieval_ranks"))]
    after = [
        number_of(one) or 0.0 for one in [*listing(row.get("pos_ranks")), *listing(row.get("neg_ranks"))]
    ]
    texts = [str(one) for one in [*listing(row.get("pos")), *listing(row.get("neg"))]]
    reason = reasons.get(str(row.get("question_id", row.get("id"))), "")
    answers = [str(one) for one in listing(row.get("golden_answers"))]
    why = (
        f"<p><b>rationale</b> {_marked(reason, answers)}</p>"
        if reason
        else '<p class="missing">The rationale is not at hand: its file lies elsewhere.</p>'
    )
    order = sorted(range(min(len(texts), len(after))), key=lambda i: after[i])
    documents = "".join(
        f'<li class="{"pos" if i == 0 else ""}"><span>{int(after[i]) + 1}</span> {_marked(texts[i], answers)}</li>'
        for i in order
    )
    return (
        f'<article class="group"><div class="asked"><p>{clipped(str(row.get("query", "")), 400)}</p>{why}</div>'
        f'<div class="moved">{_slopes(before, after)}<ol>{documents}</ol></div></article>'
    )


def _marked(text: str, answers: list[str]) -> str:
    """The text with the gold answers in it marked."""
    shown = clipped(text, 400)
    for answer in answers:
        one = clipped(answer, 400)
        if one.strip():
            shown = shown.replace(one, f"<mark>{one}</mark>")
    return shown


def _slopes(before: list[float], after: list[float]) -> str:
    lowest = max([*before, *after, 1.0])
    high = 200.0

    def y(rank: float) -> float:
        return round(16 + rank / lowest * (high - 32), 1)

    lines = "".join(
        f'<g class="{"pos" if i == 0 else ""}"><title>rank {old + 1:g} → {new + 1:g}</title>'
        f'<line x1="34" x2="126" y1="{y(old)}" y2="{y(new)}"/><circle cx="34" cy="{y(old)}" r="3.5"/>'
        f'<circle cx="126" cy="{y(new)}" r="3.5"/>'
        + (
            f'<text x="26" y="{y(old) + 4}" class="y">{old + 1:g}</text>'
            f'<text x="134" y="{y(new) + 4}">{new + 1:g}</text>'
            if i == 0 or old == lowest
            else ""
        )
        + "</g>"
        for i, (old, new) in reversed(list(enumerate(zip(before, after, strict=False))))
    )
    told = f"the positive moved from rank {before[0] + 1:g} to {after[0] + 1:g}" if before and after else ""
    return (
        f'<svg class="slopes" viewBox="0 0 160 {high:g}" role="img" aria-label="{escape(told)}">{lines}</svg>'
    )
