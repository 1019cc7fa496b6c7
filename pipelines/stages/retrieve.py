"""`kind: retrieve`: documents for every question, from a corpus of passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from data.ledger import Ledger
from data.radio.rationales import question_fields
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

        rows = self._checked(job)
        options = self.model_copy(update={"encoder": job.start(self.encoder, "encoder")})
        return retrieve(options, rows, job.file(self.corpus), job.out / ROWS, job)

    def _checked(self, job: Job) -> Iterator[Mapping[str, Any]]:
        """The questions; a broken one is told with its file and line."""
        for where, row in read(job.mixture(self.questions), job.base, Ledger(name="questions")):
            question_fields(row, where)
            yield row
