"""What to ask first: items whose critics disagree, whose best candidates lie close, whose prompt is yet uncovered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, pstdev

Scores = Mapping[str, Sequence[float | None]]
# Each further item of one prompt is worth this share of the one before it.
COVERAGE = 0.5


@dataclass(frozen=True)
class Askable:
    key: str
    prompt: object
    scores: Scores
    """For each critic a score, or None, for each candidate."""


def usefulness(asked: Sequence[Askable]) -> list[float]:
    """A figure from 0 to 1 for each item: (disagreement + closeness) / 2, halved with each item of its prompt."""
    spreads = _spreads(asked)
    plain = [(disagreement(one.scores) + closeness(one.scores, spreads)) / 2 for one in asked]
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(asked):
        groups.setdefault(json.dumps(one.prompt, sort_keys=True), []).append(index)
    found = [0.0] * len(asked)
    for group in groups.values():
        for nth, index in enumerate(sorted(group, key=lambda i: (-plain[i], asked[i].key))):
            found[index] = plain[index] * COVERAGE**nth
    return found


def disagreement(scores: Scores) -> float:
    """Mean over pairs of candidates of 1 - |2p - 1|, p the share of critics that prefer the first (a tie: half).

    0: all critics order all pairs alike; 1: they are split in the middle. Without two critics it is 0.
    """
    found: list[float] = []
    width = max((len(line) for line in scores.values()), default=0)
    for one, other in combinations(range(width), 2):
        wins: list[float] = []
        for line in scores.values():
            first, second = line[one], line[other]
            if first is not None and second is not None:
                wins.append(0.5 if first == second else float(first > second))
        if len(wins) > 1:
            found.append(1 - abs(2 * fmean(wins) - 1))
    return fmean(found) if found else 0.0


def closeness(scores: Scores, spreads: Mapping[str, float]) -> float:
    """Mean over critics of 1 / (1 + margin / spread), the margin between a critic's two best candidates.

    An item that no critic scored is wide open: 1.
    """
    found: list[float] = []
    for critic, line in scores.items():
        known = sorted((score for score in line if score is not None), reverse=True)
        if len(known) > 1:
            margin = known[0] - known[1]
            spread = spreads[critic]
            found.append(1 / (1 + margin / spread) if spread > 0 else 1.0)
    return fmean(found) if found else 1.0


def _spreads(asked: Sequence[Askable]) -> dict[str, float]:
    """Each critic's standard deviation, so that critics on different scales weigh alike."""
    values: dict[str, list[float]] = {}
    for one in asked:
        for critic, line in one.scores.items():
            values.setdefault(critic, []).extend(score for score in line if score is not None)
    return {critic: pstdev(found) if len(found) > 1 else 0.0 for critic, found in values.items()}


def draw(*parts: object) -> float:
    """A number from 0 to 1 that depends on the parts alone, so that a page that is loaded again shows the same."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56


def shuffled(count: int, *parts: object) -> list[int]:
    """0 to count - 1 in an order that depends on the parts alone, every order equally likely."""
    return sorted(range(count), key=lambda index: draw("order", index, *parts))
