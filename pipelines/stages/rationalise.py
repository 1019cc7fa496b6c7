"""`kind: rationalise`: a model, a server or people write why each question's answers are right."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from data.chatting.request import ServerOptions
from data.radio.options import RationalePeople
from data.sources import Mixture
from data.votes import VotesMissing
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef, Waiting
from pipelines.stages.answering import check_who_answers
from trainers.config import ModelOptions
from trainers.radio.config import RationaleOptions


class Rationalise(Stage, ModelOptions, RationaleOptions):
    """Rationales, which only training sees. Each is asked for once: what was asked is kept beside the runs."""

    makes: ClassVar[frozenset[str]] = frozenset({"rationales"})

    kind: Literal["rationalise"]
    # Required elsewhere; here a server may write instead.
    model: Annotated[str | None, Field(min_length=1), StageRef("model")] = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Who writes: a stage, an alias, a folder, or `owner/name` on the hub. This, `server`, or `people` alone."""
    server: ServerOptions | None = None
    """Who writes instead: an OpenAI-compatible server, as in `kind: sample`."""
    people: RationalePeople | None = None
    """People on the label page: they mend what `model` or `server` drafts, or write everything if neither is given. The
    stage waits for them, and the command exits 75."""
    questions: Annotated[Mixture, StageRef("rows")]
    """Rows of `id`, `question` and `golden_answers`."""

    @model_validator(mode="after")
    def _one_writes(self) -> Rationalise:
        if self.people is None or self.model is not None or self.server is not None:
            check_who_answers(self, self.model, self.server)
        return self

    def run(self, job: Job) -> Metrics:
        from trainers.radio.rationalise import by_model, by_server, mended

        questions, out = job.mixture(self.questions), job.out / ROWS
        figures: Metrics = {}
        if self.server is not None:
            figures = by_server(self, self.server, questions, job.base, out, job)
        elif self.model is not None:
            figures = by_model(self, self, job.start(self.model), questions, job.base, out, job)
        if self.people is None:
            return figures
        try:
            return {**figures, **mended(self.people, questions, job.base, out, job)}
        except VotesMissing as missing:
            raise Waiting(missing.what, how=missing.how) from missing
