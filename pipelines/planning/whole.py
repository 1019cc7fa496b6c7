"""The costs of every training stage that a run would build, in the order of the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import UserError
from pipelines.plan import Planned
from pipelines.planning import show
from pipelines.planning.estimate import TRAINED, Estimate, Estimator, Here, this_machine
from pipelines.planning.gpus import Proposal, propose
from pipelines.planning.measure import Measured, measure
from pipelines.recipe import Recipe
from pipelines.stage import MODEL, ROWS, Job


class Cost(NamedTuple):
    """Of one stage."""

    estimate: Estimate
    proposal: Proposal | None
    measured: Measured | None


class Costs(NamedTuple):
    """Of the stages that are still to be built, by name."""

    here: Here
    of: dict[str, Cost]

    def lines(self) -> Iterator[str]:
        for cost in self.of.values():
            yield ""
            yield from show.lines(cost.estimate, self.here, cost.proposal, cost.measured, alone=True)

    def as_json(self) -> dict[str, Any]:
        return {
            name: show.as_json(cost.estimate, self.here, cost.proposal, cost.measured)
            for name, cost in self.of.items()
        }


def costs(recipe: Recipe, planned: Sequence[Planned], *, measured: bool, say: Callable[[str], None]) -> Costs:
    """Stages that are done keep the figures of their record; stages without training are not counted."""
    finished = {item.name: item.folder for item in planned if item.state == "done"}
    rows = {name: folder for name, folder in finished.items() if (folder / ROWS).is_file()}
    todo = [item for item in planned if item.kind in TRAINED and item.state != "done"]
    if not todo:
        return Costs(Here("cpu", "", 0, 0, 1), {})
    here, estimator = this_machine(), Estimator(recipe.base, recipe.stages, rows)
    found: dict[str, Cost] = {}
    for item in todo:
        estimate = estimator.estimate(item.stage, here)
        trial = None
        if measured and estimate.memory is not None:
            say(f"{item.name}: measuring a few steps")
            trial = _measured(estimate, recipe, finished)
        found[item.name] = Cost(estimate, propose(estimator, item.stage), trial)
    return Costs(here, found)


def _measured(found: Estimate, recipe: Recipe, finished: dict[str, Path]) -> Measured:
    """For a model that no stage has made yet stands the one that its chain begins with: as large, other numbers."""
    stages = {stage.name: stage for stage in recipe.stages}
    name = str(getattr(found.stage, "model", ""))
    if name in finished:
        return _tried(found, str(finished[name] / MODEL))
    while name in stages:
        name = str(getattr(stages[name], "model", ""))
    return _tried(found, Job(out=recipe.base, base=recipe.base).start(name))


def _tried(found: Estimate, start: str) -> Measured:
    try:
        return measure(found, start)
    except UserError as fault:
        return Measured(failed=" ".join(str(fault).split()))
