"""`kind: unlearn`: make a model forget some answers and keep the others."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from data.ledger import LedgerLimits
from data.sources import Mixture
from pipelines.stage import Job, Metrics, Stage, StageRef
from trainers.config import UnlearnOptions


class Unlearn(Stage, UnlearnOptions):
    """Forgetting; the reference, where there is one, is always the policy it starts from."""

    makes: ClassVar[frozenset[str]] = frozenset({"model"})

    kind: Literal["unlearn"]
    model: Annotated[str, StageRef("model")]
    """The policy that is to forget, and its own reference: a stage, an alias, a folder, or `owner/name` on the hub."""
    forget: Annotated[Mixture, StageRef("rows")]
    """Rows of prompt and completion whose completions are to be forgotten."""
    retain: Annotated[Mixture | None, StageRef("rows")] = None
    """Rows of prompt and completion to keep: each forget row is trained beside one of them, drawn anew every epoch.
    graddiff needs them, npo, simnpo and idk_dpo should have them, ga and flat take none."""
    templates: Annotated[Mixture | None, StageRef("rows")] = None
    """Answers to give instead, for idk_dpo and flat: rows of `text`, or of `completion`."""
    probe: Annotated[Mixture | None, StageRef("rows")] = None
    """Rows of prompt and completion that `watch` measures. Left out: some of `retain`, held out."""
    limits: LedgerLimits = LedgerLimits()
    """Shares of dropped, cut or overlapping rows that fail the stage. Without `max_overlap_share`, one prompt in both
    `forget` and `retain` fails it, and near copies are told."""

    def prepare(self, job: Job) -> None:
        from trainers.forgetting.prepare import UnlearnData, prepare_unlearn

        retain, templates, probe = (
            job.mixture(one) if one else None for one in (self.retain, self.templates, self.probe)
        )
        sources = UnlearnData(job.mixture(self.forget, "rejected"), retain, templates, probe)
        prepare_unlearn(self, job.start(self.model), sources, job.base, self.limits, job)

    def run(self, job: Job) -> Metrics:
        from trainers.forgetting.train import train_unlearn

        return train_unlearn(self, job.start(self.model), job, name=self.name)
