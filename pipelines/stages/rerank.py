"""`kind: rerank`: train a cross-encoder on groups."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipelines.stage import Job, Metrics, Stage, StageRef
from trainers.radio.config import RerankerOptions


class Rerank(Stage, RerankerOptions):
    """Group cross-entropy; what comes out is loaded by sentence-transformers' CrossEncoder."""

    makes: ClassVar[frozenset[str]] = frozenset({"reranker"})

    kind: Literal["rerank"]
    model: Annotated[str, Field(min_length=1), StageRef("reranker")]
    """The cross-encoder to start from: an earlier `rerank`, an alias (`minilm-l6`, `tiny-reranker`), a folder, or
    `owner/name` on the hub, such as `BAAI/bge-reranker-base`."""
    groups: Annotated[str, Field(min_length=1), StageRef("groups")]
    """The stage that made them, or a JSONL file of `query`, `pos` and `neg`."""

    def run(self, job: Job) -> Metrics:
        from data.radio.groups import read_groups
        from trainers.radio.reranker import train_reranker

        start = job.start(self.model, "reranker")
        return train_reranker(self, start, read_groups(job.file(self.groups)), job)
