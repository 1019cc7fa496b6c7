"""What `auto` and what is left out will become: number type, engine, attention kernel, checkpointing, and why."""

from __future__ import annotations

import importlib.util
from typing import Any

from pipelines.planning.layouts import Engine
from pipelines.planning.models import Start, quantisation
from pipelines.planning.setup import Device, Setup
from pipelines.stage import Stage
from trainers.config import PreferOptions, SftOptions, UnlearnOptions


def setup_of(stage: Stage, start: Start, device: Device, longest: int) -> tuple[Setup, dict[str, str]]:
    """The setup, and each choice in words."""
    options: Any = stage
    dtype, why = dtype_of(stage, start, device)
    choices = {"dtype": f"{dtype} ({why})"}
    found = quantisation(stage, start)
    quantised: Any = None if found is None else found["kind"]
    inherited = "" if options.load_in_4bit or options.load_in_8bit else ", as the stage it starts from"
    choices["quantisation"] = "none" if quantised is None else f"{quantised}{inherited}"
    autocast = device == "cuda" if options.bf16 is None else bool(options.bf16)
    choices["mixed precision"] = "bfloat16" if autocast else "none"
    checkpointing = (
        device == "cuda" if options.gradient_checkpointing is None else options.gradient_checkpointing
    )
    choices["gradient_checkpointing"] = "on" if checkpointing else "off"
    engine, why = engine_of(stage, start, longest)
    if not isinstance(stage, SftOptions):
        choices["engine"] = f"{engine} ({why})"
    choices["attn_implementation"] = kernel_of(options.attn_implementation, dtype, autocast, device)
    kl = isinstance(stage, UnlearnOptions) and stage.retain_loss_type == "kl" and stage.retain is not None  # pyright: ignore
    setup = Setup(
        start.shape,
        use_peft=options.use_peft,
        rank=options.lora_r,
        targets=options.lora_target_modules,
        dropout=options.lora_dropout > 0,
        dora=options.use_dora,
        saved=tuple(options.lora_modules_to_save),
        below=start.below,
        dtype=dtype,
        autocast=autocast,
        quantised=quantised,
        nested=bool(found and found["nested"]),
        checkpointing=bool(checkpointing),
        accumulation=options.gradient_accumulation_steps,
        engine=engine,
        trl_head=isinstance(stage, SftOptions) or options.engine == "padded" or head_is_adapted(stage),
        copies=int(kl and not options.use_peft),
        distributions=bool(kl),
        device=device,
    )
    return setup, choices


def dtype_of(stage: Stage, start: Start, device: Device) -> tuple[str, str]:
    """As trainers/models.py resolves it."""
    options: Any = stage
    if options.dtype != "auto":
        return options.dtype, "asked for"
    if start.dtype != "auto":
        return start.dtype, "as the stage it starts from"
    if not options.use_peft:
        return "float32", "weights that are trained"
    return ("bfloat16", "where the GPU has it") if device == "cuda" else ("float32", "no GPU")


def engine_of(stage: Stage, start: Start, longest: int) -> tuple[Engine, str]:
    """As trainers/engine/engines.py resolves it, from what a config.json tells."""
    if not isinstance(stage, PreferOptions | UnlearnOptions):
        return "padded", "TRL's"
    if stage.engine != "auto":
        return stage.engine, "asked for"
    if head_is_adapted(stage):
        return "padded", "the head carries an adapter"
    window = start.shape.sliding_window
    if window is not None and longest > window:
        return "padded", f"a sliding window of {window} tokens is shorter than rows of {longest}"
    return "tree", "each prompt is encoded once"


def head_is_adapted(stage: Stage) -> bool:
    """Whether the head is no plain linear layer any more."""
    targets = getattr(stage, "lora_target_modules", ())
    named = targets != "all-linear" and "lm_head" in targets
    return bool(getattr(stage, "use_peft", False)) and (
        named or "lm_head" in getattr(stage, "lora_modules_to_save", ())
    )


def kernel_of(asked: str, dtype: str, autocast: bool, device: Device) -> str:
    """As trainers/attention.py resolves it; whether a package loads is known only to `heliograph doctor`."""
    if asked != "auto":
        return f"{asked} (asked for)"
    if device == "cuda" and dtype != "float32" and importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2 (flash-attn is installed)"
    kind = "weights in float32" if dtype == "float32" and device == "cuda" else "no flash-attention here"
    return f"sdpa ({kind})"
