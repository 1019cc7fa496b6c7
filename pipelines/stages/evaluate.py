"""`kind: evaluate`: several models answer the same held-out prompts, and a critic scores them side by side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data.critics import Rubric
from data.sources import Mixture
from pipelines.stage import Job, Metrics, Stage, StageRef
from trainers.config import COSMETIC, GenerationOptions


class Evaluate(Stage, GenerationOptions):
    """Held-out scores with paired intervals, and samples."""

    kind: Literal["evaluate"]
    models: Annotated[dict[str, str], Field(min_length=1), StageRef("model")]
    """Label and model; the first is what the others are compared with."""
    prompts: Annotated[Mixture, StageRef("rows")]
    """Held-out rows with a `prompt` and what the critic needs."""
    critic: Rubric
    """How an answer is scored."""
    samples: Annotated[int, Field(ge=0, json_schema_extra=COSMETIC)] = 3
    """Prompts whose answers are printed."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples for the intervals."""

    def run(self, job: Job) -> Metrics:
        from trainers.evaluate import evaluate

        starts = {label: job.start(model) for label, model in self.models.items()}
        rows = job.mixture(self.prompts)
        return evaluate(self, starts, rows, self.critic, job.base, self.samples, self.bootstrap, job)
