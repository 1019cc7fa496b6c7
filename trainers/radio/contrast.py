"""Preference pairs for a generator: its answer from a group's positive over its answer from a negative."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonl import replacing, write_jsonl_atomic
from data.radio.groups import read_groups
from data.radio.pairs import answer_pairs
from trainers.config import GenerationOptions, ModelOptions
from trainers.fingerprint import only
from trainers.radio.config import ContrastOptions
from trainers.radio.reading import Replies
from trainers.work import Work

FIGURES = "contrast.json"


def contrast(
    options: ContrastOptions, model: ModelOptions, start: str, groups: Path, out: Path, work: Work
) -> dict[str, Any]:
    """Write the pairs to `out`; return the figures. What was read once for a question is not read again."""
    counts = Counter[str](groups=0, pairs=0, empty_answers=0, equal_answers=0)
    asked = only(GenerationOptions, options)
    with closing(Replies(start, model, asked, work)) as replies:
        rows = answer_pairs(
            read_groups(groups),
            replies,
            counts,
            against=options.against,
            shown=options.shown,
            require_better=options.require_better,
        )
        write_jsonl_atomic(out, rows)
        figures: dict[str, Any] = {**counts, **replies.figures()}
    with replacing(out.with_name(FIGURES)) as file:
        file.write(json.dumps(figures, indent=2).encode() + b"\n")
    if not counts["pairs"]:
        raise DataError(
            f"not one pair: {dict(counts)}",
            where=str(out.with_name(FIGURES)),
            way_out="the model says the same whichever document it sees, or nothing: take another model, or "
            "`against: each`",
        )
    return figures
