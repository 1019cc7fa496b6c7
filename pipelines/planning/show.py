"""A stage's estimate in lines for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.planning.changes import Change, changes, cheapest
from pipelines.planning.estimate import Estimate, Here
from pipelines.planning.gpus import Proposal
from pipelines.planning.measure import Measured
from pipelines.planning.rows import Lengths
from pipelines.progress import duration
from pipelines.summary import plural

NEVER = "a prediction that was never measured on a GPU"


def lines(
    found: Estimate, here: Here, proposal: Proposal | None, measured: Measured | None, *, alone: bool
) -> Iterator[str]:
    """`alone`: with everything; else what a person needs at a glance."""
    yield f"{found.stage.name} ({getattr(found.stage, 'kind', '')}) on {found.model or '?'}"
    if found.unknown is not None and found.memory is None:
        yield f"  not predicted: {found.unknown}"
        return
    yield "  " + ", ".join(f"{key}: {value}" for key, value in found.choices.items())
    yield from _rows(found.rows)
    if found.steps is not None and found.seconds is not None:
        turns = found.steps
        yield (
            f"  {plural(turns.total, 'step')} of {turns.rows_per_step} rows ({turns.epochs:.3g} epochs), "
            f"{_count(found.tokens)} tokens through the layers, about {duration(found.seconds)} ({found.pace})"
        )
    memory = found.memory
    assert memory is not None
    parts = ", ".join(f"{name} {size(value)}" for name, value in memory.parts.items() if value >= 1e6)
    yield f"  peak {size(found.total)}: {parts}, the program {size(found.program)}"
    yield f"    when most is in use: {_MOMENTS[memory.moment]}; the heaviest batch is {_batch(found)}"
    yield from _fit(found, here)
    if measured is not None:
        yield from measured.lines(found)
    if proposal is not None and alone:
        card = (
            f"a card of {size(proposal.card)}" if proposal.card else "more than one GPU; how is not counted"
        )
        asked = ", ".join(f"{key}: {value:g}" for key, value in proposal.resources.items())
        yield (
            f"  on a cluster: resources: {{{asked}}}, {card} (peak {size(proposal.estimate.total)}; {NEVER})"
        )


_MOMENTS = {
    "head": "at the head, with all activations kept",
    "block": "in the backward of the last block",
    "update": "when all gradients are there",
}


def _rows(rows: Lengths) -> Iterator[str]:
    if rows.problem is not None:
        yield f"  rows: {rows.problem}; the memory is that of rows of max_length"
        return
    spread = ", ".join(f"≤{bound}: {count:,}" for bound, count in rows.histogram().items())
    how = "" if rows.exact else f" ({rows.looked_at} of {rows.of:,} looked at)"
    if rows.upper:
        how = ", at most"
    yield f"  rows: {round(rows.count):,}{how}, {_count(rows.tokens)} tokens by {rows.counted_with}; lengths {spread}"
    ledger = rows.ledger
    told = [f"{entry.count} dropped: {reason}" for reason, entry in ledger.dropped.items()]
    if ledger.cut.rows:
        told.append(f"{ledger.cut.rows} cut to max_length, {ledger.cut.tokens:,} tokens lost")
    if rows.repeated:
        told.append(f"{plural(rows.repeated, 'row')} there before")
    if told:
        among = "" if rows.exact else " (among those looked at)"
        yield f"  ledger: {'; '.join(told)}{among}"


def _batch(found: Estimate) -> str:
    lengths = [row.tokens for row in found.heaviest]
    return f"{plural(len(lengths), 'row')} of {min(lengths)} to {max(lengths)} tokens" if lengths else "empty"


def _fit(found: Estimate, here: Here) -> Iterator[str]:
    where = f"the {here.name}'s" if here.device == "cuda" else "this machine's"
    if here.device == "cuda":
        yield f"  ({NEVER})"
    if found.total <= here.free:
        yield f"  fits into {where} {size(here.memory)}"
        return
    if found.total <= here.memory:
        yield f"  fits into {where} {size(here.memory)}, but not into the {size(here.free)} that are free now"
    else:
        yield f"  DOES NOT FIT into {where} {size(here.memory)}"
    best = cheapest(found, min(here.memory, here.free))
    for change in changes(found):
        mark = "  <- the cheapest that fits" if change == best else ""
        yield f"    {change.text()}: {size(change.total)} ({change.price}){mark}"
    if best is None:
        yield "    nothing that a plan knows makes it fit: take a smaller model or a larger machine"


def as_json(
    found: Estimate, here: Here, proposal: Proposal | None, measured: Measured | None
) -> dict[str, Any]:
    made: dict[str, Any] = {"model": found.model, "unknown": found.unknown}
    if found.memory is None:
        return made
    rows, turns = found.rows, found.steps
    best = cheapest(found, min(here.memory, here.free))
    return made | {
        "choices": dict(found.choices),
        "rows": {
            "count": round(rows.count), "looked_at": rows.looked_at, "of": rows.of, "exact": rows.exact,
            "at_most": rows.upper, "tokens": round(rows.tokens), "counted_with": rows.counted_with,
            "lengths": {str(bound): count for bound, count in rows.histogram().items()},
            "dropped": {reason: entry.count for reason, entry in rows.ledger.dropped.items()},
            "cut": rows.ledger.cut.rows, "repeated": rows.repeated, "problem": rows.problem,
        },
        "heaviest_batch": [[row.prompt, *row.answers] for row in found.heaviest],
        "memory": {name: round(value) for name, value in found.memory.parts.items()},
        "program": round(found.program),
        "peak": round(found.total),
        "moment": found.memory.moment,
        "fits": found.total <= here.memory,
        "fits_now": found.total <= here.free,
        "machine": {"device": here.device, "name": here.name, "memory": here.memory, "free": here.free},
        "measured_on_this_device": here.device == "cpu",
        "steps": None if turns is None else turns.total,
        "steps_per_epoch": None if turns is None else turns.per_epoch,
        "tokens": round(found.tokens),
        "seconds": found.seconds,
        "pace": found.pace,
        "changes": [_change(change, here, change == best) for change in changes(found)],
        "resources": None if proposal is None else proposal.resources,
        "gpu": None if proposal is None else {
            "peak": round(proposal.estimate.total), "card": proposal.card, "note": NEVER,
        },
        "measured": None if measured is None else measured.as_json(),
    }  # fmt: skip


def _change(change: Change, here: Here, best: bool) -> dict[str, Any]:
    fits = change.total <= min(here.memory, here.free)
    return {"settings": change.settings, "price": change.price, "peak": round(change.total), "fits": fits,
            "cheapest": best}  # fmt: skip


def size(value: float) -> str:
    return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"


def _count(value: float) -> str:
    return f"{value / 1e6:,.1f} million" if value >= 1e6 else f"{round(value):,}"
