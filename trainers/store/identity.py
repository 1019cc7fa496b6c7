"""Which model a number was measured on: a digest of its weights as they lie in memory, and of how it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch

from trainers.models import TRAINED

_WRAPPED = ("base_model.model.", ".base_layer", "_orig_mod.")
"""What PEFT and torch.compile put into names: the weights below are the same without them."""
_SCALES = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


def model_identity(model: Any, start: object) -> dict[str, object]:
    """Of everything but the adapter that is being trained; equal whatever is trained on top, and by whatever rate.

    `start` stands for the weights where they cannot be read, as under DeepSpeed ZeRO-3.
    """
    elsewhere = any(p.is_meta or hasattr(p, "ds_id") for p in model.parameters())
    configs = {
        name: {key: str(getattr(config, key, None)) for key in _SCALES}
        for name, config in getattr(model, "peft_config", {}).items()
        if name != TRAINED
    }
    quantization: Any = getattr(model.config, "quantization_config", None)
    return {
        "weights": start if elsewhere else weights_digest(model),
        "class": type(_innermost(model)).__name__,
        "adapters": configs,
        "quantization": str(quantization.to_dict()) if hasattr(quantization, "to_dict") else None,
    }


def weights_digest(model: Any) -> str:
    """BLAKE2 of every parameter and buffer, by name; of quantised ones with the constants that scale them."""
    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(_tensors(model), key=lambda pair: pair[0]):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\0".encode())
        plain = tensor.detach().to("cpu").contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if f".{TRAINED}." in f".{name}." or ".ref." in name:
            continue
        for part in _WRAPPED:
            name = name.replace(part, "")
        # A layer that is trained in full beside the adapter keeps its original under this name.
        yield name.replace(".original_module", ""), tensor
        state = getattr(tensor, "quant_state", None)
        for key in ("absmax", "offset", "code"):
            if torch.is_tensor(getattr(state, key, None)):
                yield f"{name}.{key}", getattr(state, key)
        nested = getattr(state, "state2", None)
        if nested is not None:
            yield f"{name}.state2", nested.absmax
        if torch.is_tensor(getattr(tensor, "SCB", None)):
            yield f"{name}.SCB", tensor.SCB  # pyright: ignore[reportAttributeAccessIssue]


def _innermost(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model
