"""Keys that other versions and other recipes use: read as today's where the meaning is the same, else refused."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Renamed:
    """Read as another key. `trail` starts at the stage."""

    trail: tuple[str, ...]
    value: Any
    notice: str | None


@dataclass(frozen=True)
class Refused:
    """The reason, and what to write."""

    message: str


def modern(key: str, value: object, fields: Collection[str], *, training: bool) -> Renamed | Refused | None:
    """What an entry of a stage, or of its `training:`, means today; None: nothing but what it says.

    `fields` are the keys that the kind of stage has.
    """
    new = NEW_NAMES.get(key)
    if new is not None and _has(new, fields):
        quiet = key == "model_name_or_path" and not training
        notice = None if quiet else f"an old name; read as `{'.'.join(new)}`"
        return Renamed(new, _plain_dtype(value) if key == "torch_dtype" else value, notice)
    change = CHANGES.get(key)
    if change is not None:
        told = change(value)
        if isinstance(told, Refused) or _has(told.trail, fields):
            return told
        return None
    if (advice := _dataset(key, value, fields)) is not None:
        return Refused(advice)
    if training and key in fields:
        return Refused(f"write `{key}` on the stage itself, not under `training:`")
    return Refused(REFUSED[key]) if key in REFUSED else None


def _has(trail: tuple[str, ...], fields: Collection[str]) -> bool:
    return trail[0] in fields


NEW_NAMES: dict[str, tuple[str, ...]] = {
    "torch_dtype": ("dtype",),
    "model_name_or_path": ("model",),  # TRL's own name, and so no news: the only one without a notice
    "max_seq_length": ("max_length",),
    "per_gpu_train_batch_size": ("per_device_train_batch_size",),
    "per_gpu_eval_batch_size": ("per_device_eval_batch_size",),
    "bnb_4bit_use_double_quant": ("use_bnb_nested_quant",),
    "evaluation_strategy": ("training", "eval_strategy"),
    "no_cuda": ("training", "use_cpu"),
    "use_liger": ("training", "use_liger_kernel"),
}


def _plain_dtype(value: object) -> object:
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _warmup_ratio(value: object) -> Renamed | Refused:
    # transformers 5: int(warmup_steps) from 1 on, below it ceil(warmup_steps * all steps), as warmup_ratio was.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        return Refused("an old name: write `warmup_steps:`, below 1 a share of all steps, from 1 on a number")
    return Renamed(
        ("warmup_steps",), value, f"an old name; read as `warmup_steps: {value}`, a share of all steps"
    )


def _flash(value: object) -> Renamed | Refused:
    if value is True:
        new = "attn_implementation: flash_attention_2"
        return Renamed(("attn_implementation",), "flash_attention_2", f"an old name; read as `{new}`")
    return Refused(
        "an old name that does not say what to use instead: write `attn_implementation: sdpa` (or `eager`), "
        "or leave it out for the fastest that loads"
    )


def _switch(trail: tuple[str, ...], new: str) -> Callable[[object], Renamed | Refused]:
    def change(value: object) -> Renamed | Refused:
        if value is True:
            return Renamed(trail, new, f"an old name; read as `{'.'.join(trail)}: {new}`")
        return Refused(f"an old name: leave it out; true is `{trail[-1]}: {new}` under `training:`")

    return change


CHANGES: dict[str, Callable[[object], Renamed | Refused]] = {
    "warmup_ratio": _warmup_ratio,
    "use_flash_attention_2": _flash,
    "group_by_length": _switch(("training", "train_sampling_strategy"), "group_by_length"),
    "adafactor": _switch(("training", "optim"), "adafactor"),
}


def _dataset(key: str, value: object, fields: Collection[str]) -> str | None:
    if not key.startswith("dataset_"):
        return None
    ours = next((name for name in ("data", "pairs", "prompts") if name in fields), None)
    if ours is None:
        return None
    if key == "dataset_mixer":
        return f"the alignment-handbook's name: write `{ours}: {_mixer(value)}`"
    if key == "dataset_mixture":
        return f"TRL's script argument: write `{ours}: {_mixture(value)}`"
    if key in ("dataset_name", "dataset_id", "dataset_path"):
        told = value if isinstance(value, str) else "owner/name"
        return f"write `{ours}: {told}`"
    if key in ("dataset_config", "dataset_configs"):
        told = value if isinstance(value, str) else "NAME"
        return f"write it with the source: `{ours}: {{path: owner/name, name: {told}}}`"
    if key in ("dataset_train_split", "dataset_test_split", "dataset_splits"):
        told = value if isinstance(value, str) else "train"
        held = f"eval_{ours}" if "test" in key else ours
        return f"write it with the source: `{held}: {{path: owner/name, split: {told}}}`"
    return None


def _mixer(value: object) -> str:
    if not isinstance(value, dict) or not value:
        return "[{path: owner/name}]"
    shares = cast("dict[str, object]", value)
    if all(isinstance(share, (int, float)) and share == 1 for share in shares.values()):
        return f"[{', '.join(shares)}]"
    # The mixer's number is a share of that dataset's rows; our weights are shares of the mixture.
    parts = (path if share == 1 else f"{{path: {path}, limit: ROWS}}" for path, share in shares.items())
    return f"[{', '.join(parts)}]`, with how many ROWS to read of each, or `weight:` for its share of the mixture `"


def _mixture(value: object) -> str:
    given = cast("dict[str, object]", value).get("datasets") if isinstance(value, dict) else None
    if not isinstance(given, list) or not given:
        return "[{path: owner/name, split: train}]"
    names = {
        "id": "path",
        "path": "path",
        "config": "name",
        "name": "name",
        "split": "split",
        "weight": "weight",
    }
    parts: list[str] = []
    for item in cast("list[object]", given):
        entries = cast("dict[str, object]", item) if isinstance(item, dict) else {}
        told = [f"{new}: {entries[old]}" for old, new in names.items() if entries.get(old) is not None]
        parts.append("{" + (", ".join(told) or "path: owner/name") + "}")
    return f"[{', '.join(parts)}]"


_OURS = "the run decides where a stage writes"
_NO_PUSH = "a stage never pushes to the hub: upload `runs/<run>/<stage>/model` when it is done"
_REFERENCE = "the reference is always the policy that the stage starts from"
_TOKENISED = "rows are tokenised once, before training, and this would change nothing"
_TEMPLATE = "chat templates come with the tokenizer: set it there, in the model's folder"
_RESUME = "a killed run could not go on from its checkpoints as if nothing had happened"

REFUSED: dict[str, str] = {
    "output_dir": f"{_OURS}: `--runs-dir` and `--name` set it",
    "logging_dir": f"{_OURS}: every stage logs into its own folder",
    "overwrite_output_dir": "a run is never overwritten: `--from STAGE` builds again from a stage on, "
    "`--name RUN` starts another run",
    "resume_from_checkpoint": "the same command goes on where it stopped: leave it out",
    "max_prompt_length": "TRL has no such limit any more: `max_length` bounds prompt and completion together; "
    "shorten longer prompts in the data",
    "max_completion_length": "TRL's DPO has no such limit any more: `max_length` bounds prompt and completion together",
    "max_target_length": "TRL's DPO has no such limit any more: `max_length` bounds prompt and completion together",
    "save_strategy": "checkpoints are what a killed run goes on from: `save_steps` on the stage says how often",
    "load_best_model_at_end": "the last policy is the stage's: to stop earlier, write fewer steps",
    "packing_strategy": "`packing: true` packs whole rows (bfd); the other strategies cut rows without counting them",
    "save_only_model": f"without the optimiser {_RESUME}: leave it out",
    "save_safetensors": "weights are always safetensors: leave it out",
    "ignore_data_skip": f"{_RESUME}: leave it out",
    "auto_find_batch_size": "it changes the batch size unseen: set `per_device_train_batch_size` and "
    "`gradient_accumulation_steps` on the stage",
    "logging_nan_inf_filter": "losses that are not finite are never hidden: leave it out",
    "model_init_kwargs": "write `dtype`, `attn_implementation`, `model_revision` and the like on the stage itself",
    "ref_model": f"{_REFERENCE}: leave it out",
    "ref_model_init_kwargs": f"{_REFERENCE}: leave it out",
    "reference_free": f"{_REFERENCE}: leave it out",
    "precompute_ref_log_probs": f"{_REFERENCE}, measured once before the first step: leave it out",
    "precompute_ref_batch_size": f"{_REFERENCE}, measured once before the first step: leave it out",
    "sync_ref_model": f"{_REFERENCE}, and stays it: leave it out",
    "ref_model_mixup_alpha": f"{_REFERENCE}, and stays it: leave it out",
    "ref_model_sync_steps": f"{_REFERENCE}, and stays it: leave it out",
    "rpo_alpha": "TRL removed it: write `loss_type: [sigmoid, sft]` and `loss_weights: [1.0, ALPHA]`",
    "padding_free": "TRL ignores it in preference training: leave it out; a stage `kind: sft` has `packing: true`",
    "do_train": "a stage always trains: leave it out",
    "do_eval": "a stage evaluates when it is given held-out rows: `eval_data:` or `eval_pairs:`",
    "do_predict": "`kind: sample` and `kind: evaluate` write answers",
    "remove_unused_columns": "the stage chooses the columns: leave it out",
    "dataset_text_field": "write `columns: {text: NAME}` with the data source",
    "dataset_kwargs": f"{_TOKENISED}: leave it out",
    "dataset_num_proc": f"{_TOKENISED}: leave it out",
    "preprocessing_num_workers": f"{_TOKENISED}: leave it out",
    "truncation_mode": "rows are cut at their end, and counted: leave it out",
    "eos_token": "the end token comes with the tokenizer: set it there, in the model's folder",
    "pad_token": "the padding token comes with the tokenizer: set it there, in the model's folder",
    "chat_template": _TEMPLATE,
    "chat_template_path": _TEMPLATE,
    "tokenizer_name_or_path": "the tokenizer always comes with the model: leave it out",
    "lora_task_type": "it is always CAUSAL_LM: leave it out",
    "local_rank": "the launcher sets it: leave it out",
    "lr": "write `learning_rate`",
    "epochs": "write `num_train_epochs`",
    **dict.fromkeys(
        (
            "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
            "hub_revision", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token",
        ),
        _NO_PUSH,
    ),
}  # fmt: skip
