"""The number type of an adapter on a quantised model: as it was made, not as TRL's trainers round it.

They turn it into bfloat16, after the QLoRA paper. A step below a 500th of a weight is rounded away there: at the
learning rates of preference training nearly all of them. The adapter is small; float32 costs next to nothing.
FSDP alone needs tensors of one number type: there an adapter on quantised weights has the one of their storage.
"""

from __future__ import annotations

from typing import Any

import torch

from trainers.training import ranks


def trained_types(model: Any) -> dict[str, torch.dtype]:
    """Of everything that learns; asked before TRL gets the model."""
    found: dict[str, torch.dtype] = {
        name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if ranks.sharded() and getattr(model, "is_quantized", False):
        stored: torch.dtype = model.dtype
        return dict.fromkeys(found, stored)
    return found


def give_back(model: Any, types: dict[str, torch.dtype]) -> None:
    """Undo the rounding of the type; what the first values lost by it is random anyway."""
    for name, parameter in model.named_parameters():
        if name in types:
            parameter.data = parameter.data.to(types[name])
