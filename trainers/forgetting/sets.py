"""The question sets that forgetting is measured on, read and checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.forgetting.tofu import Question, questions
from data.ledger import Ledger
from data.sources import Mixture, read

PERTURBED = ("forget", "retain", "real_authors", "world_facts")
"""The sets whose questions have wrong answers too; `holdout` needs none."""


@dataclass(frozen=True)
class Sources:
    """Where each set comes from, in TOFU's layout."""

    forget: Mixture
    retain: Mixture
    real_authors: Mixture | None = None
    world_facts: Mixture | None = None
    holdout: Mixture | None = None

    def given(self) -> Iterator[tuple[str, Mixture]]:
        for name in (*PERTURBED, "holdout"):
            mixture: Mixture | None = getattr(self, name)
            if mixture is not None:
                yield name, mixture


def read_sets(sources: Sources, base: Path) -> dict[str, list[Question]]:
    """The questions of every set that is given, by its name."""
    found: dict[str, list[Question]] = {}
    for name, mixture in sources.given():
        try:
            found[name] = questions(read(mixture, base, Ledger(name=name)), perturbed=name in PERTURBED)
        except DataError as fault:
            way_out = fault.way_out
            if "perturbed_answer" in fault.what:
                way_out = (
                    f"{name} is measured against wrong answers: take the set's perturbed file, as in "
                    + ("forget10_perturbed" if name == "forget" else f"{name}_perturbed")
                )
            place = f"{name}: {fault.where or ', '.join(source.path for source in mixture.sources)}"
            raise DataError(fault.what, where=place, way_out=way_out) from fault
    shared = {q.question for q in found["forget"]} & {q.question for q in found["retain"]}
    if shared:
        raise DataError(
            f"{len(shared)} questions are in `forget` and in `retain`: {sorted(shared)[0]}",
            way_out="utility is measured on what was not to be forgotten: take another retain set",
        )
    return found
