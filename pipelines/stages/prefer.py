"""`kind: prefer`: align a model with pairs of a chosen and a rejected answer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from data.ledger import LedgerLimits
from data.sources import Mixture
from pipelines.stage import Job, Metrics, Stage, StageRef
from trainers.config import JUDGED, PreferOptions


class Prefer(Stage, PreferOptions):
    """Preference training; the reference is always the policy it starts from."""

    makes: ClassVar[frozenset[str]] = frozenset({"model"})

    kind: Literal["prefer"]
    model: Annotated[str, StageRef("model")]
    """The policy to align, and its own reference: a stage, an alias, a folder, or `owner/name` on the hub."""
    pairs: Annotated[Mixture, StageRef("pairs")]
    """Rows of prompt, chosen and rejected: a stage that makes them, or files. The losses kto and apo_zero_unpaired also
    take rows of prompt, completion and `label` (true: wanted); of a pair they make two such rows."""
    eval_pairs: Annotated[Mixture | None, StageRef("pairs")] = None
    """Held-out pairs, measured at the end."""
    limits: LedgerLimits = LedgerLimits()
    """Shares of dropped, cut or overlapping rows that fail the stage."""

    def prepare(self, job: Job) -> None:
        from trainers.training.prepare import prepare_pairs

        names = {self.loss_type} if isinstance(self.loss_type, str) else set(self.loss_type)
        sort = "unpaired" if names <= JUDGED else "pairs"
        eval_pairs = job.mixture(self.eval_pairs, sort) if self.eval_pairs else None
        prepare_pairs(
            self, job.start(self.model), job.mixture(self.pairs, sort), eval_pairs, job.base, self.limits, job
        )

    def run(self, job: Job) -> Metrics:
        from trainers.preference import train_preference

        return train_preference(self, job.start(self.model), job, name=self.name)
