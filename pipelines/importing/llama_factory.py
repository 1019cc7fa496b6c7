"""LLaMA-Factory's files: its keys, and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.errors import RecipeError
from pipelines.importing.llama_factory_data import DATA_DOC, DATA_KEYS, data
from pipelines.importing.rules import Default, Drop, Hand, Method, Put, Rule, Source, by_hand, dropped, same
from pipelines.importing.shared import COMMON, WEIGHTS_ELSEWHERE, floats, names, only_true, target_modules

LOSSES: dict[str, Method] = {"sigmoid": "dpo", "hinge": "dpo", "ipo": "dpo", "orpo": "orpo", "simpo": "simpo"}


def method(values: Mapping[str, Any]) -> tuple[Method, str] | None:
    stage = values.get("stage", "sft")
    if stage == "dpo":
        loss = str(values.get("pref_loss", "sigmoid"))
        if loss not in LOSSES:
            raise RecipeError(
                f"`pref_loss: {loss}` has no counterpart here",
                way_out=f"There are {', '.join(LOSSES)}; `stage: kto`.",
            )
        return LOSSES[loss], "pref_loss" if "pref_loss" in values else "stage"
    if stage in ("sft", "kto", "pt"):
        return ("kto" if stage == "kto" else "sft"), "stage"
    raise RecipeError(
        f"`stage: {stage}` has no counterpart here", way_out="Import files with `stage:` pt, sft, dpo or kto."
    )


def _tuning(value: Any) -> Any:
    if value == "lora":
        return Put({"use_peft": True})
    if value == "full":
        return Put({"use_peft": False})
    raise RecipeError(
        f"`finetuning_type: {value}` has no counterpart here: the recipe would train other weights",
        way_out="Import files with `finetuning_type:` lora or full.",
    )


def _bits(value: Any) -> Any:
    if value in (4, 8):
        return Put({f"load_in_{value}bit": True})
    return Hand("bitsandbytes quantises to 4 or 8 bits here")


def _method(value: Any) -> Any:
    if str(value) in ("bnb", "bitsandbytes", "QuantizationMethod.BNB"):
        return Drop("bitsandbytes is the one there is")
    return Hand("only bitsandbytes quantises here")


def _attention(value: Any) -> Any:
    known = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
    if value == "auto":
        return Drop("the fastest that loads is taken, as without it")
    return known.get(str(value), value)


def _no_checkpointing(value: Any) -> Any:
    return Put({"gradient_checkpointing": False}) if value else Drop("off, as without it")


def _smoothing(value: Any) -> Any:
    share = floats(value)
    return Put({"label_smoothing": share}) if share else Drop("0 is the default")


def _ftx(value: Any) -> Any:
    weight = floats(value)
    if not weight:
        return Drop("0 is the default")
    return Put(
        {"sft_weight": weight},
        "the mean goes over all tokens of the chosen answers; there each answer has its own mean",
    )


OPTIMISER = "this optimiser is not there; `training: {optim: ...}` has transformers' own"
RULES: dict[str, Rule] = {
    **COMMON,
    "stage": Rule("kind", "`sft` and `pt`: `kind: sft`; `dpo`, `kto`: `kind: prefer`"),
    "model_name_or_path": Rule("model"),
    "adapter_name_or_path": Rule(None, WEIGHTS_ELSEWHERE, hand=True),
    "create_new_adapter": Rule(None, "a stage with `use_peft` always trains a new adapter, on top of those below"),
    "finetuning_type": Rule("use_peft", read=_tuning),
    "lora_rank": Rule("lora_r"),
    **same("lora_alpha", "lora_dropout", "use_rslora", "use_dora", "ld_alpha", "simpo_gamma", "trust_remote_code",
           "model_revision"),
    "lora_target": Rule("lora_target_modules", read=target_modules),
    "additional_target": Rule("lora_modules_to_save", read=names),
    **by_hand("not among the settings of an adapter here", "loraplus_lr_ratio", "loraplus_lr_embedding",
              "pissa_init", "pissa_iter", "pissa_convert"),
    "quantization_bit": Rule("load_in_4bit", read=_bits),
    "quantization_method": Rule(None, read=_method),
    "quantization_type": Rule("bnb_4bit_quant_type"),
    "double_quantization": Rule("use_bnb_nested_quant"),
    "flash_attn": Rule("attn_implementation", read=_attention),
    "enable_liger_kernel": Rule("training.use_liger_kernel"),
    "disable_gradient_checkpointing": Rule("gradient_checkpointing", read=_no_checkpointing),
    "use_reentrant_gc": Rule(None, "how activations are recomputed changes nothing that is learned"),
    "pure_bf16": Rule("dtype", read=lambda v: Put({"dtype": "bfloat16"}) if v else Drop("off, as without it")),
    **by_hand("it makes another model or reads it in other numbers; there is no counterpart", "shift_attn",
              "rope_scaling", "mixture_of_depths", "resize_vocab", "add_tokens", "add_special_tokens",
              "new_special_tokens_config", "upcast_layernorm", "upcast_lmhead_output", "train_from_scratch",
              "use_llama_pro", "fp8"),
    **dropped("it changes speed and memory there, not what is learned", "use_unsloth", "use_unsloth_gc",
              "low_cpu_mem_usage", "use_kv_cache", "use_v1_kernels", "infer_backend", "infer_dtype",
              "offload_folder", "quantization_device_map", "flash_attn_cross_entropy"),
    **dropped("they come with the model", "use_fast_tokenizer", "split_special_tokens", "cache_dir",
              "hf_hub_token", "ms_hub_token", "print_param_status"),
    "pref_loss": Rule("loss_type"),
    "pref_beta": Rule("beta", read=floats),
    "pref_ftx": Rule("sft_weight", read=_ftx),
    "pref_bco_weight": Rule(None, read=only_true("take `loss_type: [sigmoid, bco_pair]` with `loss_weights`")),
    "dpo_label_smoothing": Rule("label_smoothing", read=_smoothing),
    "kto_chosen_weight": Rule("desirable_weight", read=floats),
    "kto_rejected_weight": Rule("undesirable_weight", read=floats),
    **by_hand("the reference is always the policy the stage starts from: `model:` must name the very policy that this "
              "names, or the margins are others", "ref_model", "ref_model_adapters", "ref_model_quantization_bit"),
    **by_hand(OPTIMISER, "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "galore_rank",
              "galore_target", "galore_scale", "apollo_rank", "apollo_target", "badam_mode"),
    **by_hand("another loss than the likelihood of the tokens", "use_dft_loss", "use_asft_loss", "use_eaft_loss"),
    **by_hand("images, sound and video are not read here", "freeze_vision_tower", "freeze_multi_modal_projector",
              "freeze_language_model", "image_max_pixels", "image_min_pixels", "video_max_pixels", "media_dir"),
    "cutoff_len": Rule("max_length", "what is too long is cut here at its end; there prompt and answer are shortened "
                       "in proportion"),
    "packing": Rule("packing", "whole examples share a row and do not see each other here; without `neat_packing` "
                    "they do there"),
    "neat_packing": Rule("packing", "examples of one row do not see each other in either; which share a row differs"),
    "template": Rule(None, "the tokenizer's own chat template renders conversations: where LLaMA-Factory's template of "
                     "this name differs, so do the tokens", hand=True),
    "train_on_prompt": Rule(None, "told with the rows"),
    "mask_history": Rule(None, read=only_true("which turns are learned is not chosen here: cut rows to one turn")),
    "disable_shuffling": Rule(None, read=only_true("rows are shuffled by the stage's `seed`")),
    **dropped("rows are tokenised once, before training", "overwrite_cache", "preprocessing_num_workers",
              "preprocessing_batch_size", "tokenized_path", "streaming", "buffer_size", "tool_format",
              "ignore_pad_token_for_loss"),
    **dropped("the record and the report of the run have the curves", "plot_loss", "compute_accuracy",
              "include_effective_tokens_per_second", "include_num_input_tokens_seen"),
    **dropped("a stage never runs over another", "overwrite_output_dir"),
    **dropped("trackers: `report_to:` on the stage, the rest by their own environment variables", "use_swanlab",
              "swanlab_project", "swanlab_workspace", "swanlab_run_name", "swanlab_mode", "swanlab_api_key",
              "swanlab_logdir"),
    **dropped("answers and scores are stages of their own: `kind: sample` and `kind: evaluate`",
              "predict_with_generate", "eval_num_beams", "eval_on_each_dataset"),
    **dropped("a ray cluster is the launcher's business", "ray_run_name", "ray_storage_path", "ray_num_workers",
              "resources_per_worker", "placement_strategy", "ray_init_kwargs"),
    "early_stopping_steps": Rule(None, "the last policy is the stage's: to stop earlier, write fewer steps", hand=True),
}  # fmt: skip
DEFAULTS = (
    Default("num_train_epochs", 3.0, "transformers' default is 3 epochs, ours 1", unless=("num_train_epochs",)),
    Default("learning_rate", 5e-5, "transformers' default; ours is 2e-5 for sft and 1e-6 for prefer",
            unless=("learning_rate",)),
    Default("max_length", 2048, "2048 there, 1024 here", unless=("cutoff_len",)),
    Default("use_peft", True, "`finetuning_type` is lora there", unless=("finetuning_type",)),
    Default("lora_r", 8, "8 there, 16 here", unless=("lora_rank",), adapters=True),
)  # fmt: skip

SOURCE = Source(
    name="llama-factory",
    title="LLaMA-Factory",
    signs=frozenset({"stage", "finetuning_type", "cutoff_len", "template", "lora_target", "lora_rank",
                     "dataset_dir", "pref_loss", "pref_beta", "dataset", "overwrite_cache"}),
    rules=RULES,
    method=method,
    data=data,
    data_keys=DATA_KEYS,
    defaults=DEFAULTS,
    trl=True,
    data_doc=DATA_DOC,
)  # fmt: skip
