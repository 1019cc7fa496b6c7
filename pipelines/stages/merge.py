"""`kind: merge`: one plain model out of a base and the adapters trained on it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipelines.stage import Job, Metrics, Stage, StageRef


class Merge(Stage):
    """Adapters folded into the weights they were trained on; for QLoRA, the dequantised ones."""

    makes: ClassVar[frozenset[str]] = frozenset({"model"})

    kind: Literal["merge"]
    model: Annotated[str, StageRef("model", only=True)]
    """The stage whose adapters are merged."""
    max_logit_gap: Annotated[float, Field(gt=0)] | None = None
    """Largest difference to base + adapters, relative to the largest logit, before the stage fails. Left out: 0.001 in
    float32, 0.03 in 16-bit weights, whose rounding alone reaches 0.01."""

    def run(self, job: Job) -> Metrics:
        from trainers.merge import merge

        return merge(job.start(self.model), self.max_logit_gap, job)
