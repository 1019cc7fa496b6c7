"""Which attention kernel a model runs on here: `auto` resolved, an absent one refused with the way to get it."""

from __future__ import annotations

import importlib.util

from data.errors import ModelError
from trainers.config import Attention

INSTALL = {
    "flash_attention_2": "pip install 'heliograph[gpu]' (builds flash-attn; needs nvcc)",
    "flash_attention_3": "install flash-attn 3 from its repository (hopper/); it is not on the package index",
}


def missing(name: Attention) -> str | None:
    """Why this kernel cannot be used here; None when it can."""
    import torch
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if name == "flash_attention_2":
        if not torch.cuda.is_available():
            return "it runs on CUDA only, and there is none here"
        if not is_flash_attn_2_available():
            return "the package flash-attn is not installed, or does not load with this torch"
    elif name == "flash_attention_3":
        if not torch.cuda.is_available():
            return "it runs on CUDA only, and there is none here"
        if torch.cuda.get_device_capability() < (9, 0):
            return "it needs a Hopper GPU or newer"
        if not is_flash_attn_3_available():
            return "flash-attn 3 is not installed, or does not load with this torch"
    elif name == "flex_attention" and importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
        return "this torch has no flex_attention"
    return None


def resolve(asked: Attention, dtype: str) -> tuple[Attention, str]:
    """The kernel to use, and why."""
    if asked == "auto":
        if dtype in ("bfloat16", "float16"):
            for name in ("flash_attention_3", "flash_attention_2"):
                if missing(name) is None:
                    return name, "the fastest that loads here"
        return "sdpa", "torch's own; no flash-attention loads here for " + dtype
    why_not = missing(asked)
    if why_not is not None:
        raise ModelError(
            f"{asked} cannot be used: {why_not}",
            where="attn_implementation",
            way_out=f"{INSTALL[asked]}\n  or write `attn_implementation: auto`."
            if asked in INSTALL
            else "Write `attn_implementation: auto`.",
        )
    if asked.startswith("flash") and dtype == "float32":
        raise ModelError(
            f"{asked} works in bfloat16 or float16, and the weights are float32",
            where="attn_implementation",
            way_out="Write `dtype: bfloat16`, or `attn_implementation: auto`.",
        )
    return asked, "asked for"
