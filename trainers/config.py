"""The options a stage can give to a model and its training, under the names TRL and transformers use.

Torch-free: recipes are checked against these before anything heavy is imported.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["auto", "flash_attention_2", "flash_attention_3", "sdpa", "eager", "flex_attention"]

# The cost of a run, never its result: a change of one of these does not make a finished stage stale.
COSMETIC: Any = {"cosmetic": True}


class Closed(BaseModel):
    """A frozen value that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
    "cdpo", "cpo", "cpo_hinge", "cpo_ipo", "simpo", "orpo",
]  # fmt: skip
SMOOTHED = frozenset({"exo_pair", "robust", "aot", "aot_unpaired", "cdpo", "cpo", "simpo"})
"""The losses that read `label_smoothing`; TRL ignores it in all others without a word."""


class PreferOptions(ModelOptions, AdapterOptions, TrainingOptions):
    """What preference training adds."""

    loss_type: LossType | Annotated[tuple[LossType, ...], Field(min_length=1)] = "sigmoid"
    """TRL's name of the loss; `sigmoid` is DPO, `cdpo` is DPO with label smoothing. Several are added up."""
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
    engine: Literal["auto", "tree", "packed", "padded"] = "padded"
    """How log-probabilities are computed. `padded`: TRL's way. `tree`: a prompt once for both answers, no padding.
    `packed`: no padding. `auto`: the first of them that applies to the model, and says which."""
    ld_alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight of the tokens beyond the shorter completion's length."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-6
    """Peak learning rate of AdamW."""


class GenerationOptions(Closed):
    """How answers are written."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer in tokens; one that is cut there is counted."""
    batch_size: Annotated[int, Field(ge=1, json_schema_extra=COSMETIC)] = 32
    """Answers written side by side. Every answer has its own random numbers, whatever the batch."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seeds every answer's random numbers."""


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
