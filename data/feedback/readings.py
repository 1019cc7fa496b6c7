"""What a vote says, as numbers: preferences between candidates, their scores, and values to compare people by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

Family = Literal["accepted", "preferred"]


@dataclass(frozen=True)
class Rating:
    """One value that one person gave one unit: what agreement is computed from."""

    family: Family
    item_id: int
    unit: tuple[int, ...]
    """(candidate,) for accepted: 1 or 0; (one, other) for preferred: 1 the first, -1 the second, 0 neither."""
    person_id: int
    value: float


def preferences(
    kind: str, choice: Any, strength: int | None, candidates: int, strength_max: int
) -> list[tuple[int, int, float]]:
    """(one, other, value) for every two candidates that the vote compares, one < other.

    The value is from -1 (the other one) over 0 (neither) to 1 (the first one); a strength s counts as
    s / strength_max.
    """
    found: list[tuple[int, int, float]] = []
    for one, other in combinations(range(candidates), 2):
        if kind == "tie":
            found.append((one, other, 0.0))
        elif kind == "best" and choice in (one, other):
            size = (strength or 1) / strength_max if strength_max else 1.0
            found.append((one, other, size if choice == one else -size))
        elif kind == "rank" and choice[one] is not None and choice[other] is not None:
            found.append((one, other, float((choice[one] < choice[other]) - (choice[one] > choice[other]))))
        elif kind == "choose" and (one in choice) != (other in choice):
            found.append((one, other, 1.0 if one in choice else -1.0))
    return found


def scores(
    kind: str, choice: Any, strength: int | None, candidates: int, strength_max: int
) -> Sequence[float | None] | None:
    """A score from 0 to 1 for each candidate, None for one that was not judged; None if nothing was judged.

    choose: 1 accepted, 0 not. best: the winner 1/2 + s / 2 strength_max, the others 1/2 - s / 2 strength_max.
    rank: evenly from 1 (best) to 0, ties share the mean of their places. tie: 1/2.
    """
    if kind == "choose":
        return [1.0 if index in choice else 0.0 for index in range(candidates)]
    if kind == "tie":
        return [0.5] * candidates
    if kind == "best":
        half = (strength or 1) / strength_max / 2
        return [0.5 + half if index == choice else 0.5 - half for index in range(candidates)]
    if kind == "rank":
        known = [rank for rank in choice if rank is not None]
        found: list[float | None] = []
        for rank in choice:
            if rank is None:
                found.append(None)
                continue
            below = sum(other > rank for other in known)
            beside = sum(other == rank for other in known) - 1
            found.append((below + beside / 2) / (len(known) - 1))
        return found
    return None


def ratings(item_id: int, person_id: int, kind: str, choice: Any, candidates: int) -> list[Rating]:
    """The values by which this vote is compared with those of other people."""
    if kind == "choose":
        return [
            Rating("accepted", item_id, (index,), person_id, float(index in choice))
            for index in range(candidates)
        ]
    return [
        Rating("preferred", item_id, (one, other), person_id, float((value > 0) - (value < 0)))
        for one, other, value in preferences(kind, choice, None, candidates, 1)
    ]


def code(kind: str, choice: Any) -> str:
    """The same text for the same answer, strength and comment aside."""
    return f"{kind}:{choice}"


def shared(answers: Sequence[tuple[str, Any]]) -> float:
    """The share of the most frequent answer among (kind, choice)."""
    return max(Counter(code(kind, choice) for kind, choice in answers).values()) / len(answers)
