"""`kind: sample`: a model answers each prompt several times."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from data.sources import Mixture
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef
from trainers.config import ModelOptions, SamplingOptions


class Sample(Stage, ModelOptions, SamplingOptions):
    """Candidates for a critic or for people."""

    makes: ClassVar[frozenset[str]] = frozenset({"candidates"})

    kind: Literal["sample"]
    model: Annotated[str, StageRef("model")]
    """Who answers: a stage, an alias, a folder, or `owner/name` on the hub."""
    prompts: Annotated[Mixture, StageRef("rows")]
    """Rows with a `prompt`; their other columns go along."""

    def run(self, job: Job) -> Metrics:
        from trainers.sample import sample

        return sample(
            self, self, job.start(self.model), job.mixture(self.prompts), job.base, job.out / ROWS, job
        )
