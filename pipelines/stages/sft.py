"""`kind: sft`: supervised fine-tuning on prompt/completion rows, conversations or plain text."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from data.ledger import LedgerLimits
from data.sources import Mixture
from pipelines.stage import Job, Metrics, Stage, StageRef
from trainers.config import SftOptions


class Sft(Stage, SftOptions):
    """Supervised fine-tuning."""

    makes: ClassVar[frozenset[str]] = frozenset({"model"})

    kind: Literal["sft"]
    model: Annotated[str, StageRef("model")]
    """An earlier stage, an alias, a folder, or `owner/name` on the hub."""
    data: Annotated[Mixture, StageRef("rows")]
    """Rows to learn from: prompt/completion, messages or text."""
    eval_data: Annotated[Mixture | None, StageRef("rows")] = None
    """Held-out rows; their loss is measured at the end, and their prompts are looked for in `data`."""
    limits: LedgerLimits = LedgerLimits()
    """Shares of dropped, cut or overlapping rows that fail the stage."""

    def prepare(self, job: Job) -> None:
        from trainers.training.prepare import prepare_sft

        eval_data = job.mixture(self.eval_data) if self.eval_data else None
        prepare_sft(
            self, job.start(self.model), job.mixture(self.data), eval_data, job.base, self.limits, job
        )

    def run(self, job: Job) -> Metrics:
        from trainers.sft import train_sft

        return train_sft(self, job.start(self.model), job, name=self.name)
