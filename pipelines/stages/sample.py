"""`kind: sample`: a model, or a server, answers each prompt several times."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, LiteralString

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from data.chat_request import ServerOptions
from data.sources import Mixture
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef
from trainers.config import ModelOptions, SamplingOptions

LOCAL = (*ModelOptions.model_fields, "batch_size", "generation_engine")
"""What only a model that is loaded here can follow."""


class Sample(Stage, ModelOptions, SamplingOptions):
    """Candidates for a critic or for people."""

    makes: ClassVar[frozenset[str]] = frozenset({"candidates"})

    kind: Literal["sample"]
    # Required elsewhere; here a server may answer instead.
    model: Annotated[str | None, Field(min_length=1), StageRef("model")] = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Who answers: a stage, an alias, a folder, or `owner/name` on the hub. Either this or `server`."""
    server: ServerOptions | None = None
    """Who answers instead: an OpenAI-compatible server, `{base_url, model, api_key_env, concurrency, retries, timeout,
    requests_per_minute, max_tokens_field}`. Every answer is a request with its own seed, and is kept as it comes."""
    prompts: Annotated[Mixture, StageRef("rows")]
    """Rows with a `prompt`; their other columns go along."""

    @model_validator(mode="after")
    def _one_answers(self) -> Sample:
        if self.server is None:
            if self.model is None:
                raise _fault("missing", "model", "missing")
            return self
        if self.model is not None:
            raise _fault(
                "value_error",
                "server",
                "`model` is given too, and only one can answer: leave one out (a model from `defaults:` is undone "
                "by `model: null`)",
            )
        fields = type(self).model_fields
        for key in LOCAL:
            if getattr(self, key) != fields[key].default:
                raise _fault(
                    "value_error",
                    key,
                    "only a model that is loaded here can follow this, and a `server` answers: leave it out, or "
                    "write the setting's own default where `defaults:` has another",
                )
        return self

    def run(self, job: Job) -> Metrics:
        prompts, out = job.mixture(self.prompts), job.out / ROWS
        if self.server is not None:
            from trainers.asking import ask

            return ask(self, self.server, prompts, job.base, out, job)
        from trainers.sample import sample

        return sample(self, self, job.start(self.model or ""), prompts, job.base, out, job)


def _fault(kind: LiteralString, key: str, message: LiteralString) -> ValidationError:
    """A fault that is told at a key: one of the whole stage would have no line in the recipe."""
    found = InitErrorDetails(type=PydanticCustomError(kind, message), loc=(key,), input=None)
    return ValidationError.from_exception_data("Sample", [found])
