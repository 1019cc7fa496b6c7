"""The largest attention logit of a model, seen through transformers' attention interface while it reads a text.

Scores that grow until a softmax over them chooses one token are how attention diverges (Wortsman et al. 2023, section
3.1); kernels never show them, so queries and keys are multiplied once more here, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.engine.logprobs import causal_lm

NAME = "heliograph_watch"
ROWS = 256
"""Queries whose scores exist at once."""


@dataclass
class Largest:
    """What was seen while looking; None where nothing went through the interface."""

    value: float | None = None


_LOOKING: list[Largest] = []


@contextmanager
def looking(model: Any) -> Iterator[Largest]:
    """While this lasts, the model attends by transformers' sdpa, and every layer's largest logit is noted.

    Of texts that are read, not of a token that is written: its one query costs as many calls, and says little more. A
    model whose attention does not go through the interface shows nothing.
    """
    base, found = causal_lm(model), Largest()
    if not (getattr(base, "_supports_attention_backend", False) and base._can_set_attn_implementation()):
        yield found
        return
    _register()
    before = base.config._attn_implementation
    base.set_attn_implementation(NAME)
    _LOOKING.append(found)
    try:
        yield found
    finally:
        _LOOKING.remove(found)
        base.set_attn_implementation(before)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.shape[2] > 1:
        largest = largest_logit(query, key, attention_mask, scaling)
        for found in _LOOKING:
            found.value = largest if found.value is None else max(found.value, largest)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def largest_logit(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> float:
    """Over all heads and all pairs that the mask allows; without one, what lies behind a query is not seen."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.detach().float(), key.detach().float()
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key = key.repeat_interleave(times, dim=1)
    found = query.new_full((), -torch.inf)
    behind = key.shape[2] - query.shape[2]
    places = torch.arange(key.shape[2], device=query.device)
    for start in range(0, query.shape[2], ROWS):
        scores = query[:, :, start : start + ROWS] @ key.transpose(2, 3) * scale
        rows = torch.arange(start, start + scores.shape[2], device=query.device)
        if mask is None:
            allowed = places[None] <= rows[:, None] + behind
        else:
            own = mask[..., start : start + ROWS, : key.shape[2]]
            allowed = own if own.dtype == torch.bool else own == 0
        found = torch.maximum(found, scores.masked_fill(~allowed, -torch.inf).amax())
    return found.item()
