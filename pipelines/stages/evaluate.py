"""`kind: evaluate`: several models answer the same held-out prompts, and a critic scores them side by side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data.critics import Rubric
from data.sources import Mixture
from pipelines import state
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef, with_stages
from trainers.config import COSMETIC, Dtype, GenerationOptions


class Evaluate(Stage, GenerationOptions):
    """Held-out scores with paired intervals, and samples."""

    kind: Literal["evaluate"]
    models: Annotated[dict[str, str], Field(min_length=1), StageRef("model")]
    """Label and model; the first is what the others are compared with."""
    prompts: Annotated[Mixture, StageRef("rows")]
    """Held-out rows with a `prompt` and what the critic needs."""
    critic: Rubric
    """How an answer is scored."""
    dtype: Dtype = "auto"
    """Number type of models that no stage made. `auto`: that of the stages they are compared with."""
    samples: Annotated[int, Field(ge=0, json_schema_extra=COSMETIC)] = 3
    """Prompts whose answers are printed."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples for the intervals."""

    def run(self, job: Job) -> Metrics:
        from trainers.evaluate import evaluate

        starts = {label: job.start(model) for label, model in self.models.items()}
        return evaluate(
            self,
            starts,
            job.mixture(self.prompts),
            self.critic,
            job.base,
            self.samples,
            self.bootstrap,
            job,
            dtype=self.dtype,
            trained_on=trained_on(job),
        )


def trained_on(job: Job) -> dict[str, Mixture]:
    """The rows of every stage that the models were trained in, down to the base, so that copies can be counted."""
    found: dict[str, Mixture] = {}
    open_stages = {name: (built.path.parent, built.config) for name, built in job.inputs.items()}
    while open_stages:
        name, (run_dir, config) = open_stages.popitem()
        given = config.get("data") or config.get("pairs")
        if given is not None:
            mixture = Mixture.model_validate(given)
            made = {s.path for s in mixture.sources if (run_dir / s.path / ROWS).is_file()}
            found[name] = with_stages(mixture, {stage: run_dir / stage for stage in made})
        below = config.get("model")
        built = state.built(run_dir, below) if isinstance(below, str) and (run_dir / below).is_dir() else None
        if built is not None and built.name not in found:
            open_stages[built.name] = (run_dir, built.config)
    return found
