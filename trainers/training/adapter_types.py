"""The number type of an adapter on a quantised model: as it was made, not as TRL's trainers round it.

They turn it into bfloat16, after the QLoRA paper. A step below a 500th of a weight is rounded away there: at the
learning rates of preference training nearly all of them. The adapter is small; float32 costs next to nothing.
"""

from __future__ import annotations

from typing import Any

import torch


def trained_types(model: Any) -> dict[str, torch.dtype]:
    """Of everything that learns; asked before TRL gets the model."""
    return {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}


def give_back(model: Any, types: dict[str, torch.dtype]) -> None:
    """Undo the rounding of the type; what the first values lost by it is random anyway."""
    for name, parameter in model.named_parameters():
        if name in types:
            parameter.data = parameter.data.to(types[name])
