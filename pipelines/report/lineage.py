"""From the final model back to each vote: what it was made from, and why each pair is the way round that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any, cast

from pipelines.report.gather import Recorded, RunRecord, listing, mapping, rows
from pipelines.report.history import number_of
from pipelines.report.markup import (
    asked,
    clipped,
    code,
    fixed,
    folded,
    number,
    part,
    percent,
    said,
    state_tag,
    table,
)
from pipelines.report.picture import anchor
from pipelines.report.samples import difference

MODELS = ("sft", "prefer", "unlearn", "merge", "illume")
JUDGES = ("judge", "illume")
SHORT = 160


def final_model(run: RunRecord) -> Recorded | None:
    """The last stage that makes a model, whose model no later stage trains on; the longest way down wins."""
    used = {name for stage in run.of(*MODELS) for name in stage.inputs}
    ends = [stage for stage in run.of(*MODELS) if stage.name not in used]
    return max(ends, key=lambda stage: (len(run.reached(stage)), run.stages.index(stage)), default=None)


def lineage(run: RunRecord, most: int, faults: list[str]) -> str:
    """`most` pairs of each stage are shown; the others are counted."""
    last = final_model(run)
    if last is None:
        return ""
    others = [stage.name for stage in run.of(*MODELS) if stage not in run.reached(last)]
    beside = (
        f'<p class="hint">Not on the way to it: {", ".join(code(name) for name in others)}.</p>'
        if others
        else ""
    )
    chain = f'<ol class="chain">{_step(run, last, set())}</ol>{beside}'
    votes = "".join(_votes(run, stage, most, faults) for stage in run.reached(last) if stage.kind in JUDGES)
    return part(f"Where {last.name} comes from", chain) + votes


def _step(run: RunRecord, stage: Recorded, seen: set[str]) -> str:
    if stage.name in seen:
        return f"<li>{code(stage.name)} <small>as above</small></li>"
    seen.add(stage.name)
    made = stage.done.build if stage.done else ""
    inner = ""
    for name in stage.inputs:
        source = run.stage(name)
        if source is None:
            continue
        known = stage.begun.inputs.get(name) if stage.begun else None
        other = source.done is not None and known is not None and known != source.done.build
        inner += _step(run, source, seen)
        if other:
            inner += f'<li class="watchdog">read build {code(known)} of {code(name)}, which is another one by now</li>'
    outside = "".join(f"<li>{line}</li>" for line in _outside(run, stage))
    build = f" <small>build {code(made)}</small>" if made else ""
    return (
        f'<li><a href="#{escape(anchor(stage.name))}"><b>{escape(stage.name)}</b></a> {escape(stage.kind)} '
        f"{state_tag(stage.stand)}{build}<ol>{inner}{outside}</ol></li>"
    )


def _outside(run: RunRecord, stage: Recorded) -> list[str]:
    """What it read that no stage made: files with their sums, and models by name."""
    names = {one.name for one in run.stages}
    lines = [
        f"model {code(stage.config[key])}"
        for key in ("model", "encoder")
        if isinstance(stage.config.get(key), str)
        and stage.config[key] not in names
        and key in stage.config
        and (key == "model" or stage.kind == "retrieve")
    ]
    files = stage.begun.files if stage.begun else {}
    lines += [
        f"file {code(path)} <small>sha256 {code(mark.sha256[:12])}, {mark.size:,} bytes</small>"
        for path, mark in islice(files.items(), 12)
    ]
    if len(files) > 12:
        lines.append(f"and {len(files) - 12} more files")
    return lines


def _votes(run: RunRecord, stage: Recorded, most: int, faults: list[str]) -> str:
    if not stage.done:
        return ""
    name = "pairs.jsonl" if stage.kind == "illume" else "rows.jsonl"
    found = list(rows(stage.folder / name, faults))
    if not found:
        return ""
    shown = found[:most]
    judged = _by_candidate(rows(stage.folder / "judged.jsonl", faults), {str(row.get("id")) for row in shown})
    votes = {str(row.get("id")): row for row in rows(stage.folder / "votes.jsonl", faults)}
    cards = "".join(_pair(row, judged, votes.get(str(row.get("id")))) for row in shown)
    rest = (
        f'<p class="missing">{len(found) - most:,} more pairs are in {code(f"{stage.name}/{name}")}.</p>'
        if len(found) > most
        else ""
    )
    users = ", ".join(
        escape(one.name) for one in run.stages if stage.name in one.inputs and one.kind == "prefer"
    )
    learned = f", learned by {users}" if users else ""
    hint = f"{len(found):,} pairs{learned}. Each opens to who or what decided it, and why."
    return part(f"{stage.name}: the pairs, one by one", f'<div class="pairs">{cards}</div>{rest}', hint)


def _by_candidate(found: Any, wanted: set[str]) -> dict[tuple[str, object], Mapping[str, Any]]:
    return {(key, row.get("index")): row for row in found if (key := str(row.get("id"))) in wanted}


def _pair(
    row: Mapping[str, Any],
    judged: Mapping[tuple[str, object], Mapping[str, Any]],
    item: Mapping[str, Any] | None,
) -> str:
    prompt = row.get("prompt")
    last = listing(cast("object", prompt))[-1:] or prompt
    question = asked(last if last is not None else "")
    chosen, rejected = said(row.get("chosen")).strip(), said(row.get("rejected")).strip()
    margin = number_of(row.get("margin", row.get("weight")))
    mark = f'<span class="score">{fixed(margin)}</span>' if margin is not None else ""
    summary = f"{mark}<span>{escape(' '.join(question.split())[:SHORT])}</span>"
    body = (
        f'<p class="asked">{clipped(question, 800)}</p><div class="columns">'
        + _side("rejected", _score(row, "score_rejected"), clipped(rejected, 1200))
        + _side("chosen", _score(row, "score_chosen"), difference(rejected, chosen))
        + f"</div>{_why(row, judged, item)}"
    )
    return folded(summary, body, kind="pair")


def _side(name: str, score: str, text: str) -> str:
    return f'<div class="said"><h5>{name} {score}</h5><p>{text or "<i>nothing</i>"}</p></div>'


def _score(row: Mapping[str, Any], key: str) -> str:
    value = number_of(row.get(key))
    return f'<span class="score">{fixed(value)}</span>' if value is not None else ""


def _why(
    row: Mapping[str, Any],
    judged: Mapping[tuple[str, object], Mapping[str, Any]],
    item: Mapping[str, Any] | None,
) -> str:
    if item is not None:
        return _people(row, item)
    key = str(row.get("id"))
    sides = {side: judged.get((key, row.get(f"{side}_index"))) for side in ("rejected", "chosen")}
    parts = {side: mapping(one.get("parts")) for side, one in sides.items() if one is not None}
    names = list(dict.fromkeys(name for found in parts.values() for name in found))
    if names:
        lines = [
            [escape(name), *(fixed(parts.get(side, {}).get(name)) for side in ("rejected", "chosen"))]
            for name in names
        ]
        return table(["check", "rejected", "chosen"], lines, kind="figures")
    judge = row.get("judge")
    return f"<p>Decided by {escape(str(judge))}.</p>" if judge else ""


def _people(row: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """Every vote on the item, as words about the two texts."""
    candidates = [mapping(one) for one in listing(item.get("candidates"))]
    places = {one.get("index"): place for place, one in enumerate(candidates)}
    names = {
        places.get(row.get("chosen_index")): "the chosen one",
        places.get(row.get("rejected_index")): "the rejected one",
    }
    lines: list[list[str]] = []
    for given in listing(item.get("votes")):
        vote = mapping(given)
        strength = vote.get("strength")
        lines.append(
            [
                escape(str(vote.get("person", "?"))),
                escape(_meant(vote, names)) + (f", strength {number(strength)}" if strength else ""),
                escape(str(vote.get("comment") or "")),
                f"{number(vote['seconds'], 2)} s" if number_of(vote.get("seconds")) is not None else "",
            ]
        )
    agreed = number_of(row.get("agreement"))
    told = (
        f"<p>{number(row.get('n_votes'))} votes count; {percent(agreed)} of them say this.</p>"
        if agreed
        else ""
    )
    return told + table(["person", "says", "comment", "took"], lines, kind="stack")


def _meant(vote: Mapping[str, Any], names: Mapping[int | None, str]) -> str:
    kind, choice = vote.get("kind"), vote.get("choice")

    def name(place: object) -> str:
        return names.get(place, f"candidate {place}") if isinstance(place, int) else str(place)

    if kind == "best":
        return f"{name(choice)} is best"
    if kind == "choose":
        chosen: Sequence[object] = listing(choice)
        return f"fits: {', '.join(map(name, chosen)) or 'none'}"
    if kind == "rank":
        ranks: Sequence[object] = listing(choice)
        return "ranks " + ", ".join(f"{name(place)} {rank}" for place, rank in enumerate(ranks))
    if kind == "tie":
        return "no difference"
    return str(kind)
