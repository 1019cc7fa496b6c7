"""The options a stage can give to a model and its training, under the names TRL and transformers use.

Torch-free: recipes are checked against these before anything heavy is imported.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from trainers.closed import COSMETIC as COSMETIC
from trainers.closed import Closed as Closed
from trainers.logic.links import Link
from trainers.training.watch_config import PreferWatch, UnlearnWatch

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["auto", "flash_attention_2", "flash_attention_3", "sdpa", "eager", "flex_attention"]


class ModelOptions(Closed):
    """Which model, in which numbers, through which attention kernel."""

    model: Annotated[str, Field(min_length=1)]
    """An earlier stage, an alias (`heliograph doctor` lists them), a folder, or `owner/name` on the hub."""
    model_revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Dtype = "auto"
    """Number type of the weights. `auto`: that of the stage it starts from; else bfloat16 on CUDA, float32 on CPU."""
    attn_implementation: Attention = "auto"
    """`auto` takes the fastest kernel that loads here, and says which."""
    trust_remote_code: bool = False
    """Run the Python code that a hub model brings."""
    load_in_4bit: bool | None = None
    """bitsandbytes 4-bit base weights. Left out: as the stage it starts from."""
    load_in_8bit: bool | None = None
    """bitsandbytes 8-bit base weights. Left out: as the stage it starts from."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit code."""
    use_bnb_nested_quant: bool = False
    """Quantise the quantisation constants too (double quantisation)."""
    bnb_4bit_quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] = "uint8"
    """Storage type of 4-bit weights; FSDP needs the type of the other weights."""


class AdapterOptions(Closed):
    """LoRA and its relatives."""

    use_peft: bool = False
    """Train a LoRA adapter and leave the weights below it alone."""
    lora_r: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rank."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the update is multiplied by alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    lora_target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: `all-linear`, or names."""
    lora_modules_to_save: tuple[str, ...] = ()
    """Layers trained in full beside the adapter."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r)."""
    use_dora: bool = False
    """Weight-decomposed LoRA."""


class TrainingOptions(Closed):
    """The training settings most recipes touch; `training` passes on all the others."""

    num_train_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the data."""
    max_steps: Annotated[int, Field(ge=-1)] = -1
    """Optimiser steps; above 0 it overrides `num_train_epochs`."""
    per_device_train_batch_size: Annotated[int, Field(ge=1)] = 8
    """Rows per step and device."""
    per_device_eval_batch_size: Annotated[int, Field(ge=1)] = 8
    """Rows per evaluation step and device."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Batches per optimiser step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-5
    """Peak learning rate of AdamW."""
    lr_scheduler_type: str = "linear"
    """Name of the schedule, as transformers spells it."""
    warmup_steps: Annotated[float, Field(ge=0)] = 0.0
    """Steps of warm-up; below 1, the share of all steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0 leaves them."""
    max_length: Annotated[int, Field(ge=2)] | None = 1024
    """Longest row in tokens, prompt and completion together; longer ones are cut and counted. null: never cut."""
    bf16: bool | None = None
    """Mixed precision. Left out: on where CUDA has it, off on CPU."""
    gradient_checkpointing: bool | None = None
    """Recompute activations to save memory. Left out: on for CUDA, off on CPU."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seeds the adapter's first values, the order of rows and dropout."""
    logging_steps: Annotated[int, Field(ge=1, json_schema_extra=COSMETIC)] = 5
    """Steps between two log lines."""
    save_steps: Annotated[int, Field(ge=1, json_schema_extra=COSMETIC)] = 100
    """Steps between two checkpoints; what a killed run loses at most."""
    save_total_limit: Annotated[int, Field(ge=1, json_schema_extra=COSMETIC)] = 2
    """Checkpoints kept while training. The finished stage keeps none."""
    report_to: Annotated[tuple[str, ...], Field(json_schema_extra=COSMETIC)] = ()
    """Trackers such as `wandb` or `tensorboard`; none by default."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Any other setting of TRL's config class, under its own name."""


class SftOptions(ModelOptions, AdapterOptions, TrainingOptions):
    """What supervised fine-tuning adds."""

    completion_only_loss: bool | None = None
    """Learn the completion only. Left out: yes for prompt/completion rows."""
    assistant_only_loss: bool = False
    """Learn the assistant's turns only; the chat template must mark them."""
    packing: bool = False
    """Fill rows up to `max_length` with several examples."""


LossType = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    "cdpo", "cpo", "cpo_hinge", "cpo_ipo", "simpo", "orpo", "kto", "apo_zero_unpaired",
]  # fmt: skip
JUDGED = frozenset({"kto", "apo_zero_unpaired"})
"""The losses over single answers with a `label`; all others are over pairs."""
SMOOTHED = frozenset({"exo_pair", "robust", "aot", "aot_unpaired", "cdpo", "cpo", "simpo"})
"""The losses that read `label_smoothing`; TRL ignores it in all others without a word."""


class SymbolicLoss(Closed):
    """A loss stated as logic. A name or a formula alone is short for `formula:`."""

    formula: Annotated[str, Field(min_length=1)]
    """P, over Winner, Loser, Ref.Winner and Ref.Loser: what should hold, as in `Loser -> Winner`; or a named loss,
    in any case, as in `cCPO` or `ref-ORPO`: `heliograph loss list` shows them."""
    given: Annotated[str, Field(min_length=1)] | None = None
    """P_C: cases outside it do not count. Left out: all do."""
    also: Annotated[str, Field(min_length=1)] | None = None
    """P_A: cases in it count for the formula and against it. Left out: none do."""
    link: Link | None = None
    """From the log ratio rho to the loss: `logistic` -log sigmoid(beta rho), `squared` (rho - 1/(2 beta))^2, `hinge`
    max(0, beta - rho), `margin` max(0, -rho). Left out: the named loss's own; logistic for a formula."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """Left out: the stage's `beta` where it is written, else the named loss's own; 1 for a formula."""
    sft_weight: Annotated[float, Field(ge=0)] | None = None
    """Left out: the stage's; else 0.01 where both answers could become improbable together at no cost, and 0."""
    average_log_prob: bool | None = None
    """Log-probabilities per token instead of sums. Left out: where the loss needs 1 - p or adds probabilities."""
    allow_sums: bool = False
    """Take `average_log_prob: false` even where sums turn 1 - p into 1, and with it the loss into another one."""
    offset: float | None = None
    """Subtracted from rho: SimPO's gamma / beta, ODPO's margin. Left out: SimPO's own, else 0."""
    length_alpha: float | None = None
    """R-DPO's alpha: added to beta * rho for each token by which the chosen answer is the longer one."""
    floor: Annotated[float, Field(gt=0, le=0.1)] = 1e-6
    """1 - p is never taken below it: the gradient is bounded by its inverse, and what was clamped is counted."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"formula": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


class PreferOptions(ModelOptions, AdapterOptions, TrainingOptions):
    """What preference training adds."""

    loss: SymbolicLoss | None = None
    """A loss stated as logic, instead of `loss_type`: a name such as `cCPO`, a formula, or a mapping of the
    [settings of a loss](#a-loss-stated-as-logic)."""
    loss_type: LossType | Annotated[tuple[LossType, ...], Field(min_length=1)] = "sigmoid"
    """TRL's name of the loss; `sigmoid` is DPO, `cdpo` is DPO with label smoothing. Several are added up. The others:
    `hinge`, `ipo`, `exo_pair`, `nca_pair`, `robust`, `bco_pair`, `sppo_hard`, `aot`, `aot_unpaired`, `apo_zero`,
    `apo_down`, `discopop`, `sft`, `sigmoid_norm`, `cpo`, `cpo_hinge`, `cpo_ipo`, `simpo`, `orpo`, `kto`,
    `apo_zero_unpaired`."""
    loss_weights: tuple[float, ...] | None = None
    """One weight for each loss."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the policy is held to its reference. SimPO's paper takes 2 and more."""
    sft_weight: Annotated[float, Field(ge=0)] | None = None
    """Weight of the chosen answer's mean token loss. Left out: 1 for the cpo losses and orpo, as in TRL, else 0."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The share of pairs assumed to be the wrong way round, for cdpo, cpo, simpo, robust, exo_pair and aot."""
    simpo_gamma: Annotated[float, Field(ge=0)] = 0.5
    """SimPO's margin."""
    desirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the wanted answers in kto and apo_zero_unpaired."""
    undesirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the unwanted ones."""
    weight_column: str | None = None
    """Column with a weight for each row, such as the agreement of those who judged it; 2 counts as the row twice."""
    group_by_prompt: bool = False
    """A row is then a prompt with all its pairs, trained in one batch; an answer that is in several pairs is scored
    once."""
    engine: Literal["auto", "tree", "packed", "padded"] = "auto"
    """How log-probabilities are computed. `tree`: a prompt once for all its answers, no padding. `packed`: no padding.
    `padded`: TRL's way. `auto`: the tree where the model allows it, else padded, and says which."""
    ld_alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight of the tokens beyond the shorter completion's length."""
    watch: PreferWatch | bool | None = Field(default_factory=PreferWatch)
    """Warns, ends the stage with its last good model, or goes back, when training goes wrong: a mapping of
    [watchdogs](#watchdogs); false: nothing is watched."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-6
    """Peak learning rate of AdamW."""

    @model_validator(mode="after")
    def _one_beta(self) -> Self:
        """Write the beta of a stated loss out: once resolved, a default looks like a choice."""
        if self.loss is not None:
            from trainers.logic.lookup import default_beta  # most recipes need no logic to be read

            own = self.loss.beta
            if own is None:
                own = self.beta if "beta" in self.model_fields_set else default_beta(self.loss.formula)
            object.__setattr__(self, "beta", own)
            object.__setattr__(self, "loss", self.loss.model_copy(update={"beta": own}))
        return self


class GenerationOptions(Closed):
    """How answers are written."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer in tokens; one that is cut there is counted."""
    batch_size: Annotated[int, Field(ge=1, json_schema_extra=COSMETIC)] = 32
    """Answers written side by side. Every answer has its own random numbers, whatever the batch."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seeds every answer's random numbers."""
    stop_strings: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """An answer ends where its text has one of these; the text is cut before it. So do the model's own."""
    generation_engine: Literal["auto", "prefill", "continuous"] = "auto"
    """`prefill`: a prompt is read once for all its answers. `continuous`: transformers' continuous batching, for
    CUDA; what it cannot honour is refused (stop strings, processors that the model's file asks for), and it draws
    all answers from one stream: with the same seed they depend on which ran side by side, so a run that is
    interrupted goes on with other answers than it would have had. `auto`: `continuous` on CUDA where answers are
    greedy (`evaluate`) and nothing hinders it, else `prefill`."""


class SamplingOptions(GenerationOptions):
    """How answers are drawn."""

    num_return_sequences: Annotated[int, Field(ge=1, le=1024)] = 4
    """Answers for each prompt."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Below 1 sharper, above 1 wilder."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the smallest set of tokens that holds this probability."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw from this many most likely tokens; 0 is all."""
    top_vocabulary: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from this share of the vocabulary, the most likely tokens of it, chosen before the temperature."""


UnlearnMethod = Literal["npo", "simnpo", "ga", "graddiff", "idk_dpo", "flat"]
UNLEARN_DEFAULTS: dict[str, tuple[float, float]] = {"simnpo": (4.5, 0.125)}
"""Methods whose beta and gamma are not 0.1 and 1."""
FLAT_DIVERGENCES = ("kl", "tv", "js", "pearson")


class UnlearnOptions(ModelOptions, AdapterOptions, TrainingOptions):
    """What unlearning adds. The loss is gamma * forget + alpha * retain."""

    method: UnlearnMethod
    """`npo`, `simnpo`, `ga` (gradient ascent), `graddiff` (ga and a retain term), `idk_dpo` (prefer a template to the
    answer), `flat` (the same by probabilities, without reference and retain rows)."""
    retain_loss_type: Literal["nll", "kl"] = "nll"
    """Of the retain rows: `nll` learns their answers, `kl` holds their distributions to those of the start."""
    kl_direction: Literal["reference_to_policy", "policy_to_reference"] = "reference_to_policy"
    """`reference_to_policy` is KL(start || now), as open-unlearning computes it; `policy_to_reference` is KL(now ||
    start), as the NPO paper writes it."""
    gamma: Annotated[float | None, Field(gt=0)] = None
    """Weight of the forget term. Left out: 1; 0.125 for simnpo."""
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the retain term."""
    beta: Annotated[float | None, Field(gt=0)] = None
    """npo, simnpo, idk_dpo: how soon an answer counts as forgotten. Left out: 0.1; 4.5 for simnpo."""
    simnpo_gamma: float = 0.0
    """SimNPO's margin inside the sigmoid; open-unlearning's delta times beta."""
    flat_divergence: str = "tv"
    """FLAT's f-divergence: `kl`, `tv`, `js` or `pearson`."""
    watch: UnlearnWatch | bool | None = Field(default_factory=UnlearnWatch)
    """Warns, ends the stage with its last good model, or goes back, when the model collapses: a mapping of
    [watchdogs](#watchdogs); false: nothing is watched."""
    engine: Literal["auto", "tree", "packed", "padded"] = "auto"
    """How log-probabilities are computed, as in `kind: prefer`."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Peak learning rate of AdamW."""

    @field_validator("flat_divergence")
    @classmethod
    def _sound(cls, value: str) -> str:
        name = value.lower().replace("-", "_").replace(" ", "_")
        if name in ("reverse_kl", "squared_hellinger", "neyman"):
            raise ValueError(
                f"{value} would learn the answer that is to be forgotten: FLAT's loss rises with the template's "
                f"probability under it; take one of {', '.join(FLAT_DIVERGENCES)}"
            )
        if name not in FLAT_DIVERGENCES:
            raise ValueError(f"found {value}; must be one of {', '.join(FLAT_DIVERGENCES)}")
        return name

    @model_validator(mode="after")
    def _by_method(self) -> Self:
        """Write the method's own numbers out, so that a record of the run tells them."""
        beta, gamma = UNLEARN_DEFAULTS.get(self.method, (0.1, 1.0))
        if self.gamma is None:
            object.__setattr__(self, "gamma", gamma)
        if self.beta is None and self.method in ("npo", "simnpo", "idk_dpo"):
            object.__setattr__(self, "beta", beta)
        return self
