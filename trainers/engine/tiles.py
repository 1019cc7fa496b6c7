"""A head's logits a few rows at a time: how they are made, in which number type, and how many fit at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class How(NamedTuple):
    """What the products and the softmax of one head need to know."""

    scale: float
    softcap: float | None
    narrow: torch.dtype
    """Of the matrix products."""
    form: bool
    """Whether the gradient of a frozen head will be asked for."""


def wide(narrow: torch.dtype) -> torch.dtype:
    return torch.float64 if narrow == torch.float64 else torch.float32


def log_softmax(rows: Tensor, weight: Tensor, bias: Tensor | None, how: How) -> tuple[Tensor, Tensor | None]:
    """All log-probabilities of some rows, and the slope of the soft cap where there is one."""
    logits = torch.mm(rows.to(how.narrow), weight.t())
    if bias is not None:
        logits += bias
    logits = logits.to(wide(how.narrow))
    if how.scale != 1:
        logits *= how.scale
    slope = None
    if how.softcap is not None:
        bent = torch.tanh(logits / how.softcap)
        slope = 1 - bent * bent
        logits = bent * how.softcap
    return torch.log_softmax(logits, dim=-1), slope


def product(left: Tensor, right: Tensor) -> Tensor:
    """Not rounded to half precision where the device can leave that out: pieces add up in the wide type."""
    if left.device.type == "cuda" and left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right)


def pieces(count: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Rows whose logits stay in cache on a CPU, and in a gigabyte on a GPU, whatever the vocabulary."""
    most = max(16, 2**28 // vocabulary) if device.type == "cuda" else min(256, max(16, 2**24 // vocabulary))
    return [slice(i, min(i + most, count)) for i in range(0, count, most)]


class Nowhere:
    """Stands in for autograd's context where nothing is to be kept."""

    def save_for_backward(self, *tensors: Any) -> None:
        pass
