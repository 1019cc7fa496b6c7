"""What is not there, and why: stages that failed, wait or were never begun, and files that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipelines.plan import how_far
from pipelines.report.gather import Recorded, RunRecord
from pipelines.report.markup import code, state_tag
from pipelines.report.picture import anchor


def missing(run: RunRecord, faults: Sequence[str]) -> str:
    """Nothing where the run is whole."""
    cards = [_stage(stage) for stage in run.stages if stage.stand not in ("done", "pending")]
    pending = [stage for stage in run.stages if stage.stand == "pending"]
    if pending:
        names = ", ".join(code(stage.name) for stage in pending)
        cards.append(f"<li>{state_tag('pending')} {names}</li>")
    damaged = [f"{stage.name}/{fault}" for stage in run.stages for fault in stage.faults]
    told = list(dict.fromkeys([*run.faults, *damaged, *faults]))
    files = "".join(f"<li>{escape(line)}</li>" for line in told)
    body = f'<ul class="open">{"".join(cards)}</ul>' if cards else ""
    if files:
        body += f'<h3>Damaged or not as expected</h3><ul class="remarks damaged">{files}</ul>'
    return body


def _stage(stage: Recorded) -> str:
    head = f'<a href="#{escape(anchor(stage.name))}"><b>{escape(stage.name)}</b></a> {state_tag(stage.stand)}'
    lines: list[str] = []
    if stage.stand == "failed" and stage.failed:
        place = f"{escape(stage.failed.where)}: " if stage.failed.where else ""
        lines.append(f'<p class="what">{place}{escape(stage.failed.what)}</p>')
        if stage.failed.way_out:
            lines.append(f'<pre class="line">{escape(stage.failed.way_out)}</pre>')
        if stage.failed.trace:
            lines.append(f"<p>The traceback is in {code(stage.failed.trace)}.</p>")
    elif stage.stand == "waiting" and stage.waiting:
        lines.append(
            f'<p class="what">{escape(stage.waiting.what)}</p><pre class="line">{escape(stage.waiting.how)}</pre>'
        )
    elif stage.stand == "damaged":
        lines.append("<p>Its record cannot be read; see below.</p>")
    if stage.progress and stage.progress.unit and stage.stand in ("running", "interrupted", "failed"):
        lines.append(f"<p>It came to {escape(how_far(stage.progress))}.</p>")
    return f'<li class="{stage.stand}">{head}{"".join(lines)}</li>'
