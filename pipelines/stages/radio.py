"""`kind: radio`: rationales turn pools into groups that a reranker learns from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef
from trainers.radio.config import RadioOptions


class Radio(Stage, RadioOptions):
    """Groups of one positive and its negatives, by retrieval and rationale together."""

    makes: ClassVar[frozenset[str]] = frozenset({"groups"})

    kind: Literal["radio"]
    pools: Annotated[str, Field(min_length=1), StageRef("pools")]
    """The stage that retrieved, or a JSONL file of `id`, `question`, `golden_answers` and `documents`, each of `id`,
    `text` and `score`."""
    rationales: Annotated[str, Field(min_length=1), StageRef("rationales")]
    """The stage that wrote them, or a JSONL file of `id` and `reason`."""
    encoder: Annotated[str, Field(min_length=1), StageRef("encoder")] = "minilm-l6"
    """An alias, a folder that sentence-transformers loads, or `owner/name` on the hub, such as `BAAI/bge-m3`."""

    def run(self, job: Job) -> Metrics:
        from trainers.radio.score import collect_groups

        options = self.model_copy(update={"encoder": job.start(self.encoder, "encoder")})
        return collect_groups(options, job.file(self.pools), job.file(self.rationales), job.out / ROWS, job)
