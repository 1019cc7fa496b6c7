"""The loss of each preference stage as a sentence, a formula, a graph, a place in the lattice and a truth table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from data.errors import UserError
from pipelines.losses import explore, mathml
from pipelines.losses.panels import positions, truth_table
from pipelines.report.charts import Curve, Flag, Level, line_chart
from pipelines.report.curves import words_of
from pipelines.report.gather import Recorded, RunRecord, listing, mapping
from pipelines.report.history import number_of
from pipelines.report.markup import code, facts, number, part
from trainers.config import SymbolicLoss
from trainers.logic import describe, links
from trainers.logic.english import reading
from trainers.logic.named import NamedLoss, registry
from trainers.logic.stated import state
from trainers.logic.structure import Structure

TRL: Mapping[str, str] = {
    "sigmoid": "DPO", "cdpo": "DPO", "sigmoid_norm": "DPO", "ipo": "IPO", "cpo": "CPO", "cpo_ipo": "CPO",
    "simpo": "SimPO", "orpo": "ORPO", "sft": "CE",
}  # fmt: skip
"""TRL's names for losses that a sentence states."""
LINKS: Mapping[str, links.Link] = {"ipo": "squared", "cpo_ipo": "squared"}
SPAN = 120


@dataclass(frozen=True)
class Shown:
    """A loss with what it takes to draw it."""

    title: str
    structure: Structure
    named: NamedLoss | None
    link: links.Link
    beta: float
    offset: float = 0.0
    scale: float = 1.0
    said: str = ""
    """What beside the sentence belongs to it, as HTML."""


def losses(run: RunRecord, faults: list[str]) -> str:
    """One part for each preference stage."""
    return "".join(_stage(stage, faults) for stage in run.of("prefer"))


def _stage(stage: Recorded, faults: list[str]) -> str:
    try:
        found, without = stated(stage.config)
    except (UserError, ValueError) as fault:
        faults.append(f"{stage.name}: its loss cannot be read: {fault}")
        return ""
    body = "".join(_loss(one, stage) for one in found)
    for name in without:
        body += f"<p>{code(name)} has no sentence of logic that is the same loss.</p>"
    return part(stage.name, body)


def stated(config: Mapping[str, Any]) -> tuple[list[Shown], list[str]]:
    """The losses of a stage that a sentence states, and the names of the others."""
    given = config.get("loss")
    if given:
        one = state(SymbolicLoss.model_validate(given), number_of(config.get("sft_weight")))
        extra = "".join(
            f"<li>{code(key)} {escape(str(v))}: {escape(why)}</li>" for key, v, why in one.choices
        )
        extra = f'<ul class="remarks">{extra}</ul>' if extra else ""
        shown = Shown(one.name, one.structure, one.named, one.link, one.beta, one.offset, one.scale, extra)
        return [shown], []
    kind = config.get("loss_type", "sigmoid")
    names = [str(name) for name in (listing(kind) or [kind])]
    weights = [number_of(w) for w in listing(config.get("loss_weights"))] or [1.0] * len(names)
    beta = number_of(config.get("beta")) or 0.1
    found: list[Shown] = []
    for name, weight in zip(names, weights, strict=False):
        if name not in TRL:
            continue
        named = registry()[TRL[name]]
        own = beta if name not in ("sft", "orpo") else 1.0
        said = f"<p>Its weight in the sum is {number(weight)}.</p>" if len(names) > 1 else ""
        if name == "cdpo":
            said += f"<p>With label smoothing {number(config.get('label_smoothing'))}.</p>"
        offset = (number_of(config.get("simpo_gamma")) or 0.0) / beta if name == "simpo" else 0.0
        title = TRL[name] if name == TRL[name].lower() else f"{name}: {TRL[name]}"
        found.append(
            Shown(title, named.structure, named, LINKS.get(name, "logistic"), own, offset, said=said)
        )
    return found, [name for name in names if name not in TRL]


def _loss(one: Shown, stage: Recorded) -> str:
    told = describe.description(one.structure, one.named, link=one.link, beta=one.beta)
    sentences = " ".join(escape(sentence) for sentence in reading(one.structure))
    step0 = told["step0"]
    known = facts(
        {
            "P, asked for": code(told["formula"]),
            "P<sub>C</sub>, given": code(told["given"]),
            "P<sub>A</sub>, on both sides": code(told["also"]),
            "ρ": mathml.rho(one.structure),
            "Loss": code(told["loss"]) + f", β {number(one.beta)}",
            "Needs": _needs(told["needs"]),
            "At step 0": words_of(step0["value"]) if step0["constant"] and not one.offset else "",
        }
    )
    warnings = "".join(f'<li class="watchdog">{escape(text)}</li>' for text in told["warnings"])
    beware = f'<ul class="remarks">{warnings}</ul>' if warnings else ""
    return (
        f'<div class="loss"><div><h4>{escape(one.title)}</h4><p class="english">{sentences}</p>{one.said}{beware}'
        f"{known}{truth_table(told)}</div><div>{_graph(one, stage)}{_lattice(one)}</div></div>"
    )


def _needs(needs: Mapping[str, bool]) -> str:
    words = {"reference": "a reference model", "length_normalisation": "per-token averages"}
    return " and ".join(words[key] for key, needed in needs.items() if needed) or "nothing but the model"


def _graph(one: Shown, stage: Recorded) -> str:
    """The loss over rho, with where training began and ended where the run logged it."""
    ends = _rho(stage, one)
    reach = max(
        [6.0 / one.beta if one.link == "logistic" else 2.0 / one.beta, *(abs(end) * 1.15 for end in ends)]
    )
    points = [
        (rho, one.scale * links.value(one.link, rho - one.offset, one.beta))
        for rho in (reach * (2 * i / SPAN - 1) for i in range(SPAN + 1))
    ]
    flags = [
        Flag(rho, f"{words}: ρ = {number(rho, 3)}", kind)
        for rho, words, kind in zip(
            ends, ("training began", "training ended"), ("start", "end"), strict=False
        )
    ]
    start = one.scale * links.value(one.link, -one.offset, one.beta)
    note = (
        "The flags stand where training began and ended: the mean ρ of a batch."
        if len(flags) == 2
        else "ρ is 0 while the model is its own reference."
        if one.structure.needs_reference
        else ""
    )
    level = Level(start, f"at ρ = 0: {words_of(start)}")
    return line_chart(
        "The loss over ρ",
        [Curve("loss", 2, points)],
        x_label="ρ",
        flags=flags,
        level=level,
        note=note,
        last=False,
    )


def _rho(stage: Recorded, one: Shown) -> list[float]:
    """Mean rho at the first and at the last logged step; from the margin where the loss is DPO's."""
    curve = stage.history.curves.get("rho")
    scale = 1.0
    if not curve and one.named is not None and one.named.name in ("DPO", "IPO"):
        curve, scale = stage.history.curves.get("rewards/margins"), one.beta
    if not curve or not scale:
        return []
    return [curve[0][1] / scale, curve[-1][1] / scale]


def _lattice(one: Shown) -> str:
    """Where the loss stands among the sixteen of one model, or among their reference forms."""
    names = (
        {one.named.name}
        if one.named
        else set(mapping(describe.summary(one.structure)).get("same_structure") or ())
    )
    for form in explore.FORMS:
        losses = explore.named_in(form)
        here = next((key for key, loss in losses.items() if loss.name in names), None)
        if here is not None:
            return _drawn(here, losses, explore.covers())
    return ""


def _drawn(here: str, losses: Mapping[str, NamedLoss], edges: Sequence[tuple[str, str]]) -> str:
    plain = explore.named_in("plain")
    at = positions(edges, plain)
    near = {a if b == here else b for a, b in edges if here in (a, b)}
    lines = "".join(
        f'<line class="{"near" if here in (a, b) else ""}" x1="{at[a][0]}" y1="{at[a][1]}" x2="{at[b][0]}" '
        f'y2="{at[b][1]}"/>'
        for a, b in edges
    )
    nodes = "".join(
        f'<g class="{"here" if name == here else "near" if name in near else ""}" '
        f'transform="translate({x} {y})"><rect x="-47" y="-19" width="94" height="38" rx="9"/>'
        f'<text y="6">{escape(losses[name].name)}</text></g>'
        for name, (x, y) in at.items()
    )
    return (
        f'<figure class="chart"><figcaption>Its place among the sixteen</figcaption><svg class="lattice" '
        f'viewBox="-4 0 608 570" role="img" aria-label="{escape(losses[here].name)} in the lattice of losses; '
        f'its neighbours are {escape(", ".join(losses[name].name for name in sorted(near)))}">{lines}{nodes}</svg>'
        '<p class="note">Weaker losses stand above, more constrained ones below; '
        "<code>heliograph loss explore</code> draws it to walk through.</p></figure>"
    )
