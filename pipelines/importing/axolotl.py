"""axolotl's files: its keys, and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from data.errors import RecipeError
from pipelines.importing.axolotl_data import DATA_DOC, DATA_KEYS, data
from pipelines.importing.rules import (
    Default,
    Drop,
    Hand,
    Method,
    Put,
    Rule,
    Source,
    by_hand,
    dropped,
    into_training,
    same,
)  # fmt: skip
from pipelines.importing.shared import COMMON, floats, only_true, target_modules, true_is, whole_steps
from pipelines.importing.trl import RULES as TRL_RULES

RL: dict[str, Method] = {"dpo": "dpo", "ipo": "ipo", "kto": "kto", "orpo": "orpo", "simpo": "simpo"}


def method(values: Mapping[str, Any]) -> tuple[Method, str] | None:
    told = values.get("rl")
    for key in ("reward_model", "process_reward_model", "pretraining_dataset"):
        if values.get(key):
            raise RecipeError(
                f"`{key}`: reward models and streamed pre-training have no counterpart here",
                way_out="Import a file for fine-tuning, or with `rl:` dpo, ipo, kto, orpo or simpo.",
            )
    if told is None:
        return "sft", "rl"
    if told not in RL:
        raise RecipeError(f"`rl: {told}` has no counterpart here", way_out=f"There are {', '.join(RL)}.")
    return RL[told], "rl"


def _adapter(value: Any) -> Any:
    if value in ("lora", "qlora"):
        return Put({"use_peft": True})
    return Hand(
        f"there is LoRA here (with DoRA and rank-stabilised), and no `{value}`: as it stands all is trained"
    )


def _bf16(value: Any) -> Any:
    if value in ("auto", None):
        return Drop("mixed precision where the device has it, as without it")
    return bool(value)


def _fp16(value: Any) -> Any:
    return (
        Put({"training.fp16": True, "bf16": False}, "it excludes bf16")
        if value
        else Drop("off, as without it")
    )


def _checkpointing(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return Put({"gradient_checkpointing": True}, f"recomputed; `{value}` would keep what is saved elsewhere")


def _dtype(name: str) -> Any:
    return true_is(dtype=name)


def _linear(value: Any) -> Any:
    return Put({"lora_target_modules": "all-linear"}) if value else Drop("off, as without it")


def _train_on_inputs(value: Any) -> Any:
    return Drop("told with the rows, which decide what it means")


def _quantised_kwargs(value: Any) -> Any:
    names = {
        "bnb_4bit_quant_type": "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    }
    given = cast("dict[str, Any]", value if isinstance(value, dict) else {"": value})
    if set(given) <= set(names):
        return Put({names[key]: inner for key, inner in given.items()})
    return Hand("write bnb_4bit_quant_type, use_bnb_nested_quant and bnb_4bit_quant_storage on the stage")


def _scheduler(value: Any) -> Any:
    if value in ("one_cycle", "rex", "log_sweep"):
        return Hand(f"`{value}` is axolotl's own; transformers' schedules are here")
    return value


OWN_KERNEL = "axolotl's own kernel or patch: it changes speed and memory there, not what is learned"
FAMILY = "the model's own files tell its family"
RULES: dict[str, Rule] = {
    **{key: COMMON[key] for key in COMMON if key != "beta"},
    "base_model": Rule("model"),
    "revision_of_model": Rule("model_revision"),
    **same("trust_remote_code", "load_in_4bit", "load_in_8bit", "lora_r", "lora_alpha", "lora_dropout", "seed",
           "gradient_accumulation_steps", "max_steps", "save_total_limit", "model_revision"),
    **dropped("they come with the model: save another tokenizer in its folder", "tokenizer_type",
              "tokenizer_use_fast", "tokenizer_legacy"),
    **dropped(FAMILY, "model_type", "is_falcon_derived_model", "is_llama_derived_model", "is_mistral_derived_model",
              "is_qwen_derived_model", "base_model_config"),
    **by_hand("chat templates and special tokens come with the tokenizer: save them in the model's folder, and start "
              "from that", "chat_template", "chat_template_jinja", "special_tokens", "tokens", "eot_tokens",
              "added_tokens_overrides", "tokenizer_config", "resize_token_embeddings_to_32x",
              "default_system_message"),
    "strict": Rule(None, "every key is checked here"),
    "rl": Rule("kind", "`dpo`, `ipo`, `kto`, `orpo`, `simpo`: `kind: prefer` with that `loss_type`; none: `kind: sft`"),
    "adapter": Rule("use_peft", read=_adapter),
    "lora_model_dir": Rule(None, "a stage starts from one policy: name the folder or stage that holds base and adapter "
                           "as `model:`", hand=True),
    "lora_target_modules": Rule("lora_target_modules", read=target_modules),
    "lora_target_linear": Rule("lora_target_modules", read=_linear),
    "lora_modules_to_save": Rule("lora_modules_to_save"),
    "peft_use_dora": Rule("use_dora"),
    "peft_use_rslora": Rule("use_rslora"),
    **by_hand("not among the settings of an adapter here", "lora_target_parameters", "peft_layers_to_transform",
              "peft_layers_pattern", "peft_init_lora_weights", "peft_trainable_token_indices",
              "peft_layer_replication", "loraplus_lr_ratio", "loraplus_lr_embedding", "peft", "relora",
              "relora_steps", "gptq", "unfrozen_parameters", "lisa_step_interval", "lisa_n_layers"),
    **dropped("loading is the same without it", "lora_fan_in_fan_out", "lora_on_cpu", "qlora_sharded_model_loading",
              "low_cpu_mem_usage", "device_map", "max_memory", "gpu_memory_limit"),
    "bnb_config_kwargs": Rule("bnb_4bit_quant_type", read=_quantised_kwargs),
    "sequence_len": Rule("max_length", "axolotl leaves out rows that are longer (unless `excess_length_strategy: "
                         "truncate`); here they are cut and counted: `limits: {max_cut_share: 0}` refuses them"),
    "excess_length_strategy": Rule(None, "rows that are too long are always cut here, and counted"),
    "sample_packing": Rule("packing", "examples of one row do not see each other in either; which share a row "
                           "differs, and so do the steps: a row counts as one in the batch"),
    **dropped("how rows are padded and packed is the stage's business", "pad_to_sequence_len", "eval_sample_packing",
              "sample_packing_group_size", "sample_packing_bin_size", "sample_packing_sequentially",
              "batch_flattening", "multipack_real_batches", "sample_packing_eff_est", "flash_attn_packing",
              "min_sample_len"),
    "max_prompt_len": Rule(None, "one length bounds prompt and answer together here"),
    "micro_batch_size": Rule("per_device_train_batch_size", "per device in both"),
    "eval_batch_size": Rule("per_device_eval_batch_size"),
    "batch_size": Rule(None, "a total over GPUs: write `gradient_accumulation_steps` = total / "
                       "(`per_device_train_batch_size` x GPUs)", hand=True),
    "num_epochs": Rule("num_train_epochs"),
    "optimizer": Rule("training.optim"),
    "optim_args": Rule("training.optim_args"),
    "lr_scheduler": Rule("lr_scheduler_type", read=_scheduler),
    "lr_scheduler_kwargs": Rule("training.lr_scheduler_kwargs"),
    "warmup_steps": Rule("warmup_steps"),
    "cosine_min_lr_ratio": Rule(None, "write `lr_scheduler_type: cosine_with_min_lr` and `training: "
                                "{lr_scheduler_kwargs: {min_lr_rate: ...}}`", hand=True),
    **by_hand("the schedule or the groups of rates are axolotl's own", "cosine_constant_lr_ratio", "lr_div_factor",
              "lr_groups", "embedding_lr", "embedding_lr_scale", "lr_quadratic_warmup"),
    "adam_beta1": Rule("training.adam_beta1", read=floats),
    "adam_beta2": Rule("training.adam_beta2", read=floats),
    "adam_epsilon": Rule("training.adam_epsilon", read=floats),
    "neftune_noise_alpha": Rule("training.neftune_noise_alpha", read=floats),
    "train_on_inputs": Rule(None, read=_train_on_inputs),
    "group_by_length": Rule("training.train_sampling_strategy",
                            read=true_is(**{"training.train_sampling_strategy": "group_by_length"})),
    "bf16": Rule("bf16", read=_bf16),
    "fp16": Rule("training.fp16", read=_fp16),
    "bfloat16": Rule("dtype", read=_dtype("bfloat16")),
    "float16": Rule("dtype", read=_dtype("float16")),
    "float32": Rule("dtype", read=_dtype("float32")),
    **into_training("tf32", "gradient_checkpointing_kwargs", "torch_compile", "dataloader_num_workers",
                    "dataloader_pin_memory", "dataloader_prefetch_factor"),
    "gradient_checkpointing": Rule("gradient_checkpointing", read=_checkpointing),
    "attn_implementation": Rule("attn_implementation"),
    "flash_attention": Rule("attn_implementation", read=true_is(attn_implementation="flash_attention_2")),
    "sdp_attention": Rule("attn_implementation", read=true_is(attn_implementation="sdpa")),
    "flex_attention": Rule("attn_implementation", read=true_is(attn_implementation="flex_attention")),
    "eager_attention": Rule("attn_implementation", read=true_is(attn_implementation="eager")),
    "xformers_attention": Rule(None, read=only_true("xformers is no kernel here: the fastest that loads is taken")),
    "s2_attention": Rule(None, read=only_true("LongLoRA's shifted attention is another model; there is none here")),
    **dropped(OWN_KERNEL, "flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_qkv",
              "flash_attn_fuse_mlp", "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv",
              "unsloth_lora_o", "unsloth_rms_norm", "unsloth_rope", "lora_mlp_kernel", "lora_qkv_kernel",
              "lora_o_kernel", "liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_swiglu",
              "liger_layer_norm", "liger_fused_linear_cross_entropy", "liger_cross_entropy",
              "cut_cross_entropy", "torch_compile_backend", "torch_compile_mode", "gc_steps"),
    "plugins": Rule(None, "what a plugin adds has no counterpart: kernels change speed, others change training",
                    hand=True),
    "rl_beta": Rule("beta", read=floats),
    "dpo_beta": Rule("beta", read=floats),
    "orpo_alpha": Rule("beta", "ORPO's lambda goes by `beta`, as in TRL", floats),
    "rpo_alpha": TRL_RULES["rpo_alpha"],
    "cpo_alpha": Rule("sft_weight", read=floats),
    "simpo_gamma": Rule("simpo_gamma", read=floats),
    "kto_desirable_weight": Rule("desirable_weight", read=floats),
    "kto_undesirable_weight": Rule("undesirable_weight", read=floats),
    "dpo_label_smoothing": Rule("label_smoothing", read=floats),
    "dpo_use_weighting": Rule(None, read=only_true("WPO's weights are not there")),
    **dropped("it changes memory there, not what is learned", "dpo_use_logits_to_keep", "dpo_padding_free",
              "dpo_norm_loss", "precompute_ref_log_probs"),
    **dropped("the stage chooses the columns", "remove_unused_columns"),
    "evals_per_epoch": Rule(None, "held-out rows are measured at the end; for more: `training: {eval_strategy: steps, "
                            "eval_steps: N}`"),
    "eval_steps": Rule("training.eval_steps"),
    "eval_strategy": Rule("training.eval_strategy"),
    "evaluation_strategy": Rule("training.eval_strategy"),
    "saves_per_epoch": Rule(None, "checkpoints are written every `save_steps`, and only to go on from"),
    "save_strategy": Rule(None, "checkpoints are written every `save_steps`, and only to go on from"),
    "save_steps": Rule("save_steps", read=whole_steps),
    **dropped("the run decides where a stage writes: `--runs-dir` and `--name`", "output_dir", "dataset_prepared_path",
              "dataset_processes", "dataset_keep_in_memory", "shuffle_merged_datasets", "skip_prepare_dataset",
              "save_safetensors", "save_only_model", "auto_resume_from_checkpoints", "resume_from_checkpoint",
              "merge_lora", "merge_method"),
    "dataset_exact_deduplication": Rule(None, read=only_true("rows that stand twice are both read: remove them first")),
    **by_hand("a stage never pushes to the hub: `heliograph export RUN --to hub:OWNER/NAME`", "hub_model_id",
              "push_dataset_to_hub", "hub_strategy"),
    **dropped("trackers: `report_to: [wandb]` on the stage, the rest by their own environment variables",
              "wandb_project", "wandb_entity", "wandb_watch", "wandb_name", "wandb_run_id", "wandb_log_model",
              "wandb_mode", "use_wandb", "use_tensorboard", "use_mlflow", "mlflow_tracking_uri",
              "mlflow_experiment_name", "use_comet", "comet_project_name", "hf_use_auth_token"),
    **dropped("samples and scores are a stage of their own: `kind: evaluate`", "eval_table_size",
              "eval_max_new_tokens", "do_bench_eval", "do_causal_lm_eval", "eval_causal_lm_metrics"),
    **dropped("who watches for collapse is the stage itself", "loss_watchdog_threshold", "loss_watchdog_patience"),
    **dropped("for looking at the tool, not the training", "debug", "profiler_steps", "include_tokens_per_second",
              "ddp_timeout", "local_rank", "world_size", "ddp", "device"),
    **by_hand("sequences are not spread over GPUs here", "sequence_parallel_degree", "heads_k_stride",
              "context_parallel_size", "tensor_parallel_size"),
}  # fmt: skip
DEFAULTS = (
    Default("per_device_train_batch_size", 1, "1 there, 8 here", unless=("micro_batch_size",)),
    Default("max_length", 512, "512 there, 1024 here", unless=("sequence_len",)),
    Default("lr_scheduler_type", "cosine", "cosine there, linear here", unless=("lr_scheduler",)),
    Default("warmup_steps", 0.03, "3 % of the steps there, at most 100; none here",
            unless=("warmup_steps", "warmup_ratio")),
    Default("sft_weight", 1.0, "the CPO trainer that axolotl takes for SimPO adds the chosen answer's likelihood at "
            "weight 1", unless=("cpo_alpha",), methods=("simpo",)),
)  # fmt: skip

SOURCE = Source(
    name="axolotl",
    title="axolotl",
    signs=frozenset({"base_model", "micro_batch_size", "sequence_len", "num_epochs", "adapter", "rl",
                     "lr_scheduler", "optimizer", "sample_packing", "val_set_size"}),
    rules=RULES,
    method=method,
    data=data,
    data_keys=DATA_KEYS,
    defaults=DEFAULTS,
    data_doc=DATA_DOC,
)  # fmt: skip
