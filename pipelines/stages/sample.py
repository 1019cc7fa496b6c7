"""`kind: sample`: a model, or a server, answers each prompt several times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from data.chatting.request import ServerOptions
from data.sources import Mixture
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef
from pipelines.stages.answering import check_who_answers
from trainers.config import ModelOptions, SamplingOptions


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
        check_who_answers(self, self.model, self.server)
        return self

    def whole(self) -> str | None:
        if self.server is not None:
            return "a server is asked side by side already, as its `concurrency` says: leave `shards` out"
        if self.generation_engine == "continuous":
            return "with `generation_engine: continuous` answers depend on which ran side by side: leave `shards` out"
        return None

    def run(self, job: Job) -> Metrics:
        prompts, out = job.mixture(self.prompts), job.out / ROWS
        if self.server is not None:
            from trainers.sampling.asking import ask

            return ask(self, self.server, prompts, job.base, out, job)
        from trainers.sampling.sample import sample

        return sample(self, self, job.start(self.model or ""), prompts, job.base, out, job)

    def run_shards(self, job: Job, shards: Mapping[int, Job]) -> Iterator[tuple[int, Metrics]]:
        from trainers.sampling.sample import sample_shards

        prompts, start = job.mixture(self.prompts), job.start(self.model or "")
        return sample_shards(self, self, start, prompts, job.base, shards, self.shards)

    def join(self, job: Job, shards: list[Path]) -> Metrics:
        from trainers.sampling.parts import join

        return join(shards, self, job.out / ROWS, job)
