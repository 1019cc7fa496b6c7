"""How weights are quantised, as bitsandbytes names it: what a stage asks for, and how a person calls it. Torch-free."""

from __future__ import annotations

from trainers.config import ModelOptions

Quantization = dict[str, object]
"""bitsandbytes' settings; empty for plain weights."""


def quantization_asked(options: ModelOptions) -> Quantization | None:
    """None: the stage leaves it to what it starts from."""
    if options.load_in_4bit:
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": options.bnb_4bit_quant_type,
            "bnb_4bit_use_double_quant": options.use_bnb_nested_quant,
            "bnb_4bit_quant_storage": options.bnb_4bit_quant_storage,
        }
    if options.load_in_8bit:
        return {"load_in_8bit": True}
    return {} if options.load_in_4bit is False or options.load_in_8bit is False else None


def in_words(quantization: Quantization | None) -> str:
    if not quantization:
        return "plain weights"
    return "4-bit weights" if quantization.get("load_in_4bit") else "8-bit weights"
