"""Votes of a stage drawn together: how far they agree, and where on the page the chosen ones stood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data.feedback.agreement import Interval, alpha_interval, krippendorff_alpha
from data.feedback.history import Vote
from data.feedback.readings import Family, Rating, ratings

FAMILIES: tuple[Family, ...] = ("accepted", "preferred")


def all_ratings(votes: Iterable[Vote], widths: Mapping[int, int]) -> list[Rating]:
    """`widths`: the number of candidates of each item that is to enter."""
    return [
        rating
        for vote in votes
        if vote.item_id in widths
        for rating in ratings(vote.item_id, vote.person_id, vote.kind, vote.choice, widths[vote.item_id])
    ]


def alphas(
    votes: Sequence[Vote], widths: Mapping[int, int], *, samples: int = 1000, seed: int = 0
) -> dict[Family, Interval]:
    """Nominal alpha for each family of judgements that occurs, with an interval over items unless samples is 0."""
    found: dict[Family, Interval] = {}
    everything = all_ratings(votes, widths)
    for family in FAMILIES:
        ours = [rating for rating in everything if rating.family == family]
        if not ours:
            continue
        table, groups = table_of(ours)
        if samples:
            found[family] = alpha_interval(table, groups=groups, samples=samples, seed=seed)
        else:
            value = krippendorff_alpha(table)
            found[family] = Interval(value, value, value)
    return found


def table_of(found: Sequence[Rating]) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], list[int]]:
    """people x units with NaN for missing, and the item of each unit."""
    people = {person: row for row, person in enumerate(sorted({one.person_id for one in found}))}
    units = {unit: column for column, unit in enumerate(sorted({(one.item_id, one.unit) for one in found}))}
    table = np.full((len(people), len(units)), np.nan)
    for one in found:
        table[people[one.person_id], units[one.item_id, one.unit]] = one.value
    return table, [item for item, _ in units]


def places_chosen(votes: Iterable[Vote]) -> dict[int, list[int]]:
    """For each number of candidates shown, how often each place was chosen.

    Only votes that pick one count: `best`, a ranking with one first, a choice of exactly one.
    """
    found: dict[int, list[int]] = {}
    for vote in votes:
        picked: list[int] = []
        if vote.kind == "best":
            picked = [vote.choice]
        elif vote.kind == "choose":
            picked = vote.choice
        elif vote.kind == "rank":
            picked = [index for index, rank in enumerate(vote.choice) if rank == 1]
        if len(picked) == 1 and len(vote.shown) > 1:
            counts = found.setdefault(len(vote.shown), [0] * len(vote.shown))
            counts[vote.shown.index(picked[0])] += 1
    return found
