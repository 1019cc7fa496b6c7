"""`kind: evaluate`: models on the same held-out prompts, or on what was to be forgotten, or rerankers on questions."""

from __future__ import annotations

from typing import Annotated, Literal, LiteralString

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from data.critics import Rubric
from data.sources import Mixture
from pipelines import state
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef, with_stages
from trainers.config import COSMETIC, Dtype, GenerationOptions
from trainers.forgetting.config import SuiteOptions
from trainers.radio.rag_config import RagOptions

ANSWERS = ("prompts", "critic")
FORGETTING = ("forget", "retain")
PROBES = ("real_authors", "world_facts", "holdout")
RAG = ("pools",)
NEEDS: dict[str, tuple[str, ...]] = {
    "answers": ("models", *ANSWERS),
    "forgetting": ("models", *FORGETTING),
    "rag": RAG,
}
READS: dict[str, tuple[str, ...]] = {
    "answers": ("models", *ANSWERS, "dtype"),
    "forgetting": ("models", *FORGETTING, *PROBES, *SuiteOptions.model_fields),
    "rag": (*RAG, "validation_pools", "rerankers", "reader", "dtype", *RagOptions.model_fields),
}
"""What one suite reads and another would ignore."""


class Evaluate(Stage, GenerationOptions, SuiteOptions, RagOptions):
    """Held-out scores with paired intervals, and samples; or the measures of forgetting, and a page of them; or answers
    from retrieved documents."""

    kind: Literal["evaluate"]
    suite: Literal["answers", "forgetting", "rag"] = "answers"
    """`answers`: a critic compares sampled answers. `forgetting`: TOFU's measures, memorisation, and attacks; they are
    written to `forgetting.json` and shown in `forgetting.html`. `rag`: a reader answers from
    the first documents, under each of several rerankers."""
    models: Annotated[dict[str, str] | None, Field(min_length=1), StageRef("model")] = None
    """`answers` and `forgetting` need them: label and model; the first is what the others are compared with."""
    prompts: Annotated[Mixture | None, StageRef("rows")] = None
    """`answers` needs them: held-out rows with a `prompt` and what the critic needs."""
    critic: Rubric | None = None
    """`answers` needs it: how an answer is scored."""
    forget: Annotated[Mixture | None, StageRef("rows")] = None
    """`forgetting` needs it: what was to be forgotten, with wrong answers beside the right one, as in TOFU's
    `forget10_perturbed`."""
    retain: Annotated[Mixture | None, StageRef("rows")] = None
    """`forgetting` needs it: what was to stay, as in `retain_perturbed`."""
    real_authors: Annotated[Mixture | None, StageRef("rows")] = None
    """As in `real_authors_perturbed`. Without it and `world_facts` utility is that of `retain` alone, and says so."""
    world_facts: Annotated[Mixture | None, StageRef("rows")] = None
    """As in `world_facts_perturbed`."""
    holdout: Annotated[Mixture | None, StageRef("rows")] = None
    """Questions like those of `forget` that no model ever saw, as in `holdout10`: for AUC and privacy leak."""
    pools: Annotated[str | None, Field(min_length=1), StageRef("pools")] = None
    """`rag` needs it: the stage that retrieved for the held-out questions, or a file of such pools."""
    validation_pools: Annotated[str | None, Field(min_length=1), StageRef("pools")] = None
    """For `rag`: pools of other questions, by which one of the rerankers that `choose` names is chosen."""
    rerankers: Annotated[dict[str, str], StageRef("reranker")] = Field(default_factory=dict[str, str])
    """For `rag`: label and reranker, as `model` of `kind: rerank`. The order as retrieved is compared too, as
    `retriever`."""
    reader: Annotated[str | None, Field(min_length=1), StageRef("model")] = None
    """For `rag`: the model that answers greedily from the documents; this or `reader_pattern`."""
    dtype: Dtype = "auto"
    """Number type of models that no stage made. `auto`: that of the stages they are compared with."""
    samples: Annotated[int, Field(ge=0, json_schema_extra=COSMETIC)] = 3
    """Prompts whose answers are shown."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples for the intervals."""

    @model_validator(mode="after")
    def _one_suite(self) -> Evaluate:
        for key in NEEDS[self.suite]:
            if getattr(self, key) is None:
                raise _fault("missing", key, "missing")
        if self.suite == "rag" and (self.reader is None) == (self.reader_pattern is None):
            raise _fault("value_error", "suite", "`rag` needs one reader: write `reader` or `reader_pattern`")
        if (self.validation_pools is None) != (not self.choose):
            given = "choose" if self.choose else "validation_pools"
            raise _fault("value_error", given, "`choose` and `validation_pools` go together: write both")
        fields = type(self).model_fields
        for other in READS:
            for key in READS[other]:
                default = fields[key].get_default(call_default_factory=True)
                if key in READS[self.suite] or getattr(self, key) == default:
                    continue
                if other == "forgetting" and key not in READS["answers"]:
                    raise _fault(
                        "value_error",
                        key,
                        "only `suite: forgetting` reads it: write that too, or leave it out",
                    )
                if other == "rag":
                    raise _fault(
                        "value_error", key, "only `suite: rag` reads it: write that too, or leave it out"
                    )
                if self.suite == "rag":
                    raise _fault("value_error", key, "`suite: rag` does not read it: leave it out")
                raise _fault("value_error", key, "`suite: forgetting` does not read it: leave it out")
        if self.retrained is not None and self.retrained not in (self.models or ()):
            raise _fault("value_error", "retrained", "it is the label of one of `models:`, and none has it")
        return self

    def run(self, job: Job) -> Metrics:
        if self.suite == "rag":
            return self._rag(job)
        starts = {label: job.start(model) for label, model in (self.models or {}).items()}
        if self.suite == "forgetting":
            return self._forgetting(starts, job)
        from trainers.evaluate import evaluate

        assert self.prompts is not None
        assert self.critic is not None
        return evaluate(
            self,
            starts,
            job.mixture(self.prompts),
            self.critic,
            job.base,
            self.samples,
            self.bootstrap,
            job,
            dtype=self.dtype,
            trained_on=trained_on(job),
        )

    def _rag(self, job: Job) -> Metrics:
        from trainers.radio.rag import evaluate_rag

        return evaluate_rag(
            self,
            self,
            job.file(self.pools or ""),
            {label: job.start(name, "reranker") for label, name in self.rerankers.items()},
            None if self.reader is None else job.start(self.reader),
            job,
            validation=None if self.validation_pools is None else job.file(self.validation_pools),
            bootstrap=self.bootstrap,
            samples=self.samples,
            dtype=self.dtype,
        )

    def _forgetting(self, starts: dict[str, str], job: Job) -> Metrics:
        from pipelines.forgetting import page as forget_page
        from pipelines.forgetting.steps import write_steps
        from trainers.forgetting.sets import Sources
        from trainers.forgetting.suite import evaluate_forgetting

        given = {key: getattr(self, key) for key in (*FORGETTING, *PROBES)}
        sources = Sources(**{key: job.mixture(one) for key, one in given.items() if one is not None})
        write_steps(self.models or {}, job)
        metrics = evaluate_forgetting(
            self, self, starts, sources, job.base, self.samples, self.bootstrap, job
        )
        page = forget_page.write(job.out)
        metrics["lines"] += ["", f"page: {page}"]
        return metrics


def _fault(kind: LiteralString, key: str, message: LiteralString) -> ValidationError:
    """A fault that is told at a key: one of the whole stage would have no line in the recipe."""
    found = InitErrorDetails(type=PydanticCustomError(kind, message), loc=(key,), input=None)
    return ValidationError.from_exception_data("Evaluate", [found])


def trained_on(job: Job) -> dict[str, Mixture]:
    """The rows of every stage that the models were trained in, down to the base, so that copies can be counted."""
    found: dict[str, Mixture] = {}
    open_stages = {name: (built.path.parent, built.config) for name, built in job.inputs.items()}
    while open_stages:
        name, (run_dir, config) = open_stages.popitem()
        given = config.get("data") or config.get("pairs")
        if given is not None:
            mixture = Mixture.model_validate(given)
            made = {s.path for s in mixture.sources if (run_dir / s.path / ROWS).is_file()}
            found[name] = with_stages(mixture, {stage: run_dir / stage for stage in made})
        below = config.get("model")
        built = state.built(run_dir, below) if isinstance(below, str) and (run_dir / below).is_dir() else None
        if built is not None and built.name not in found:
            open_stages[built.name] = (run_dir, built.config)
    return found
