"""What became of every row that was read: kept, left out, dropped and cut, and how long the kept ones are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from pydantic import ValidationError

from data.errors import DataError
from data.ledger import Ledger
from pipelines.report.gather import Recorded, RunRecord, mapping
from pipelines.report.markup import number, percent, plural_of

PARTS = (
    ("kept", "kept", 3),
    ("cut", "kept, but cut", 5),
    ("left", "left out by weights", 0),
    ("dropped", "dropped", 4),
)


def ledgers(run: RunRecord, faults: list[str]) -> str:
    """A figure for each ledger of each stage."""
    made = [
        _ledger(f"{stage.name}: {name}", ledger)
        for stage in run.stages
        if stage.ledgers
        for name, ledger in read(stage, faults)
    ]
    return f'<div class="charts">{"".join(made)}</div>' if made else ""


def read(stage: Recorded, faults: list[str]) -> Iterator[tuple[str, Ledger]]:
    """A stage has one ledger, or several by name."""
    found: Mapping[str, Any] = stage.ledgers
    each = {"": found} if "kept" in found and "name" in found else {k: mapping(v) for k, v in found.items()}
    for name, value in each.items():
        try:
            ledger = Ledger.from_json(value)
        except (DataError, ValidationError) as fault:
            faults.append(f"{stage.name}/ledger.json: {getattr(fault, 'what', fault)}")
            continue
        yield name or ledger.name, ledger


def _ledger(name: str, ledger: Ledger) -> str:
    counts = {
        "kept": ledger.kept - ledger.cut.rows,
        "cut": ledger.cut.rows,
        "left": ledger.rows_left_out,
        "dropped": ledger.rows_dropped,
    }
    total = max(1, ledger.rows_read)
    x = 0.0
    bars: list[str] = []
    for key, words, style in PARTS:
        width = 520 * counts[key] / total
        if width:
            bars.append(
                f'<rect class="s{style}" x="{x:.1f}" y="0" width="{max(width, 1.5):.1f}" height="22">'
                f"<title>{words}: {counts[key]:,} of {ledger.rows_read:,}</title></rect>"
            )
        x += width
    legend = "".join(
        f'<li class="s{style} block"><i></i>{words} <b>{counts[key]:,}</b> {percent(counts[key] / total)}</li>'
        for key, words, style in PARTS
        if counts[key] or key == "kept"
    )
    return (
        f'<figure class="chart ledger"><figcaption>{escape(name)} <b>{plural_of(ledger.rows_read, "row")} read</b>'
        f'</figcaption><svg viewBox="0 0 520 22" preserveAspectRatio="none" role="img" '
        f'aria-label="{counts["kept"] + counts["cut"]:,} of {ledger.rows_read:,} rows kept">{"".join(bars)}</svg>'
        f'<ul class="legend">{legend}</ul>{_lengths(ledger)}{_remarks(ledger)}</figure>'
    )


def _lengths(ledger: Ledger) -> str:
    if not ledger.lengths or not ledger.kept:
        return ""
    spread = sorted(ledger.lengths.items())
    most = max(count for _, count in spread)
    wide = min(86.0, 520 / len(spread))
    bars = "".join(
        f"<g><title>{_between(spread, i)} tokens: {count:,} rows</title>"
        f'<rect class="s2" x="{i * wide + 3:.1f}" y="{78 - 58 * count / most:.1f}" width="{wide - 6:.1f}" '
        f'height="{58 * count / most:.1f}" rx="2"/>'
        f'<text class="value" x="{i * wide + wide / 2:.1f}" y="{72 - 58 * count / most:.1f}">{count:,}</text>'
        f'<text x="{i * wide + wide / 2:.1f}" y="95">≤ {bound:,}</text></g>'
        for i, (bound, count) in enumerate(spread)
    )
    return (
        f'<svg class="lengths" viewBox="0 0 520 100" role="img" aria-label="rows by length in tokens; the longest has '
        f'{ledger.longest:,}">{bars}</svg><p class="note">rows by length in tokens; the longest has '
        f"<b>{ledger.longest:,}</b>. In all {ledger.tokens:,} tokens"
        f"{f', {ledger.loss_tokens:,} of them learned' if ledger.loss_tokens else ''}.</p>"
    )


def _between(spread: list[tuple[int, int]], i: int) -> str:
    low = spread[i][0] // 2 + 1
    return f"{low:,} to {spread[i][0]:,}"


def _remarks(ledger: Ledger) -> str:
    lines = [
        f"dropped {entry.count:,}: {escape(reason)} <small>({escape(', '.join(entry.examples))}"
        f"{', …' if entry.count > len(entry.examples) else ''})</small>"
        for reason, entry in ledger.dropped.items()
    ]
    if ledger.cut.rows:
        lines.append(
            f"cut to max_length: {ledger.cut.tokens:,} tokens lost, at most {ledger.cut.longest:,} in one row"
        )
    if ledger.identical:
        lines.append(f"chosen and rejected are the same in {ledger.identical:,} pairs")
    if ledger.prompt_ends_moved:
        lines.append(f"prompt and answer share a token in {ledger.prompt_ends_moved:,} rows")
    if ledger.prompts:
        lines.append(f"grouped: {ledger.prompts:,} prompts with {ledger.answers:,} different answers")
    lines += [
        f"{escape(name)}: {shared.exact:,} exact and {shared.near:,} near copies among {shared.prompts:,} prompts"
        for name, shared in ledger.overlap.items()
    ]
    if ledger.unaccounted:
        lines.append(f"<b>not accounted for: {number(ledger.unaccounted)} rows</b>")
    return f'<ul class="remarks">{"".join(f"<li>{line}</li>" for line in lines)}</ul>' if lines else ""
