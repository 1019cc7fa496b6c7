"""Models side by side: paired bootstrap intervals of their differences, and the table that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def compare(
    scores: Mapping[str, Sequence[float]], *, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """Every later label minus the first and minus the one before it: mean and 95 % interval.

    Paired: prompts are resampled, and both models keep their scores on a prompt. All differences see the same
    resamples. The interval holds the middle 95 % of the resampled means (numpy's linear percentiles).
    """
    labels = list(scores)
    prompts = len(scores[labels[0]])
    picks = np.random.default_rng(seed).integers(0, prompts, size=(resamples, prompts))
    found: dict[str, dict[str, float]] = {}
    for place, later in enumerate(labels[1:], start=1):
        for earlier in dict.fromkeys((labels[0], labels[place - 1])):
            gaps = np.asarray(scores[later], dtype=float) - np.asarray(scores[earlier], dtype=float)
            low, high = np.percentile(gaps[picks].mean(axis=1), [2.5, 97.5])
            found[f"{later} - {earlier}"] = {
                "mean": round(float(gaps.mean()), 6),
                "low": round(float(low), 6),
                "high": round(float(high), 6),
            }
    return found


def lines(labels: Sequence[str], figures: Mapping[str, Any], max_new_tokens: int) -> list[str]:
    """A table with a column for each label, the differences, and the sampled answers."""
    first = figures[labels[0]]
    rows: list[tuple[str, list[str]]] = [("score", [f"{figures[label]['score']:.3f}" for label in labels])]
    rows += [
        (f"  {name}", [f"{figures[label]['parts'][name]:.3f}" for label in labels]) for name in first["parts"]
    ]
    rows.append(("words", [f"{figures[label]['words']:.1f}" for label in labels]))
    rows.append((f"cut at {max_new_tokens} tokens", [f"{figures[label]['cut']:.1%}" for label in labels]))
    title = f"{first['prompts']} held-out prompts"
    left = max(len(title), *(len(name) for name, _ in rows))
    wide = [max(len(label), 6) for label in labels]

    def line(name: str, cells: Sequence[str]) -> str:
        return name.ljust(left) + "".join("  " + cell.rjust(w) for cell, w in zip(cells, wide, strict=True))

    made = [line(title, labels), *(line(name, cells) for name, cells in rows)]
    for name, gap in figures["differences"].items():
        unclear = "" if gap["low"] > 0 or gap["high"] < 0 else "; 0 lies inside"
        made.append(
            f"{name}: {gap['mean']:+.3f} (95 % interval {gap['low']:+.3f} to {gap['high']:+.3f}{unclear})"
        )
    for sample in figures["samples"]:
        made += ["", f"> {_asked(sample['prompt'])}"]
        made += [f"  {label}: {_flat(sample['answers'][label])}" for label in labels]
    return made


def _asked(prompt: Any) -> str:
    return _flat(prompt if isinstance(prompt, str) else str(prompt[-1]["content"]))


def _flat(text: str) -> str:
    return " ⏎ ".join(text.strip().splitlines())
