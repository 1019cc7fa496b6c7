"""`kind: contrast`: a model answers from a group's positive and from a negative, and the answers make pairs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef
from trainers.config import ModelOptions
from trainers.radio.config import ContrastOptions


class Contrast(Stage, ModelOptions, ContrastOptions):
    """Preference pairs from RADIO's groups, for `prefer`: the answer from the aligned document over the answer from
    another one. An extension of ours, not part of RADIO."""

    makes: ClassVar[frozenset[str]] = frozenset({"pairs", "rows"})

    kind: Literal["contrast"]
    model: Annotated[str, Field(min_length=1), StageRef("model")]
    """Who answers, greedily: a stage, an alias, a folder, or `owner/name` on the hub."""
    groups: Annotated[str, Field(min_length=1), StageRef("groups")]
    """The stage that made them, or a JSONL file of `query`, `pos` and `neg`, with `golden_answers` for the figures."""

    def run(self, job: Job) -> Metrics:
        from trainers.fingerprint import only
        from trainers.radio.contrast import contrast

        model = only(ModelOptions, self)
        return contrast(self, model, job.start(self.model), job.file(self.groups), job.out / ROWS, job)
