"""`kind: retrieve`: documents for every question, from a corpus of passages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from data.ledger import Ledger
from data.sources import Mixture, read
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef
from trainers.radio.config import RetrieveOptions


class Retrieve(Stage, RetrieveOptions):
    """A pool of candidates for each question, best first."""

    makes: ClassVar[frozenset[str]] = frozenset({"pools"})

    kind: Literal["retrieve"]
    questions: Annotated[Mixture, StageRef("rows")]
    """Rows of `id`, `question` and `golden_answers`."""
    corpus: Annotated[str, Field(min_length=1), StageRef("passages")]
    """A JSONL file of passages, `{id, text}` with a `title` if there is one, or `{id, contents}`."""
    encoder: Annotated[str, Field(min_length=1), StageRef("encoder")] = "minilm-l6"
    """An alias, a folder that sentence-transformers loads, or `owner/name` on the hub, such as `BAAI/bge-m3`."""

    def run(self, job: Job) -> Metrics:
        from trainers.retrieval.retrieve import retrieve

        ledger = Ledger(name="questions")
        rows = (placed.row for placed in read(job.mixture(self.questions), job.base, ledger))
        options = self.model_copy(update={"encoder": job.start(self.encoder, "encoder")})
        return retrieve(options, rows, job.file(self.corpus), job.out / ROWS, job)
