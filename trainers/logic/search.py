"""Enumerates the preference-monotone losses over one model, and filters them by what they need and do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from trainers.logic.counting import all_structures, distinct_structures
from trainers.logic.expansion import expand
from trainers.logic.named import LATTICE, names_of
from trainers.logic.render import closed_form
from trainers.logic.signs import is_monotone
from trainers.logic.structure import Structure


@dataclass(frozen=True)
class Found:
    structure: Structure
    names: list[str]  # of any structure with the same ratio function


@lru_cache(maxsize=1)
def monotone_structures() -> tuple[Structure, ...]:
    """52 of the 256 pairs: rho never falls with the winner, never rises with the loser, is not constant."""
    return tuple(s for s in all_structures(("Winner", "Loser")) if is_monotone(s))


@lru_cache(maxsize=1)
def monotone_losses() -> tuple[Found, ...]:
    """The 40 different losses among them, the named ones under the structure that has the name."""
    # A known structure stands for its class, else the one that is written most shortly.
    structures = sorted(monotone_structures(), key=lambda s: (not names_of(s), len(closed_form(s))))
    return tuple(Found(s, [n for n in names_of(s) if n in LATTICE]) for s in distinct_structures(structures))


def search(
    *,
    collapses: bool | None = None,
    length_normalisation: bool | None = None,
    both_answers: bool | None = None,
    named: bool | None = None,
) -> list[Found]:
    """Each filter is off (None), or asks for losses that have the property (True) or lack it (False)."""

    def wanted(found: Found) -> bool:
        structure = found.structure
        checks = (
            (collapses, structure.collapses),
            (length_normalisation, expand(structure).needs_length_normalisation),
            (both_answers, len(structure.atoms) == 2),
            (named, bool(found.names)),
        )
        return all(asked is None or asked == answer for asked, answer in checks)

    return [found for found in monotone_losses() if wanted(found)]
