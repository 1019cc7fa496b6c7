"""The results as the table in docs/planning.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BEGIN, END = "<!-- benchmarks.plan: begin -->", "<!-- benchmarks.plan: end -->"


def table(found: Mapping[str, Any]) -> str:
    """Markdown, between the marks that a test looks for."""
    lines = ["| stage | model | batch | predicted | measured | error |", "|---|---|---|---|---|---|"]
    for one in found["configurations"]:
        rows = one["rows"]
        same = all(row == rows[0] for row in rows)
        batch = f"{len(rows)} x ({_lengths(rows[0])})" if same else f"{len(rows)} of unlike lengths"
        lines.append(
            f"| {one['name']} | {one['model']} | {batch} | {one['predicted'] / 1e6:,.0f} MB "
            f"| {one['measured'] / 1e6:,.0f} MB | {one['error']:+.1%} |"
        )
    errors = sorted(abs(one["error"]) for one in found["configurations"])
    lines += ["", f"{len(errors)} configurations: the largest error is {errors[-1]:.1%}, the median "
              f"{errors[len(errors) // 2]:.1%}."]  # fmt: skip
    return "\n".join([BEGIN, "", *lines, "", END])


def _lengths(row: list[int]) -> str:
    return " + ".join(map(str, row))
