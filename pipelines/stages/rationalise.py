"""`kind: rationalise`: a model, or a server, writes why each question's answers are right."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from data.chatting.request import ServerOptions
from data.sources import Mixture
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef
from pipelines.stages.answering import check_who_answers
from trainers.config import ModelOptions
from trainers.radio.config import RationaleOptions


class Rationalise(Stage, ModelOptions, RationaleOptions):
    """Rationales, which only training sees. Each is asked for once: what was asked is kept beside the runs."""

    makes: ClassVar[frozenset[str]] = frozenset({"rationales"})

    kind: Literal["rationalise"]
    # Required elsewhere; here a server may write instead.
    model: Annotated[str | None, Field(min_length=1), StageRef("model")] = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Who writes: a stage, an alias, a folder, or `owner/name` on the hub. Either this or `server`."""
    server: ServerOptions | None = None
    """Who writes instead: an OpenAI-compatible server, as in `kind: sample`."""
    questions: Annotated[Mixture, StageRef("rows")]
    """Rows of `id`, `question` and `golden_answers`."""

    @model_validator(mode="after")
    def _one_writes(self) -> Rationalise:
        check_who_answers(self, self.model, self.server)
        return self

    def run(self, job: Job) -> Metrics:
        from trainers.radio.rationalise import by_model, by_server

        questions, out = job.mixture(self.questions), job.out / ROWS
        if self.server is not None:
            return by_server(self, self.server, questions, job.base, out, job)
        return by_model(self, self, job.start(self.model or ""), questions, job.base, out, job)
