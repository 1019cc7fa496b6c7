"""Scores that depend on a pair's first token alone: the last layer works out that token and no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

READS_FIRST_TOKEN = frozenset(
    {
        "BertForSequenceClassification",
        "RobertaForSequenceClassification",
        "XLMRobertaForSequenceClassification",
    }
)
"""Classes whose head reads the first token, and whose layers are built alike."""


@contextmanager
def first_token_only(model: Any) -> Iterator[bool]:
    """Inside, a forward pass leaves out what the head never reads; False where the model is none of those classes.

    Of the last layer only keys and values are needed for every token: five sixths of its matrix products fall away, a
    seventh of all in a model of six layers. The scores are the same up to rounding. For inference alone.
    """
    layer = _last_layer(model)
    if layer is None:
        yield False
        return
    layer.forward = _shortened(layer)
    try:
        yield True
    finally:
        del layer.forward


def _last_layer(model: Any) -> Any:
    inner: Any = getattr(model[0], "model", None)
    if type(inner).__name__ not in READS_FIRST_TOKEN or inner.training:
        return None
    config = inner.config
    # Other kernels get masks of another form.
    if config._attn_implementation not in ("sdpa", "eager") or config.is_decoder:
        return None
    return inner.base_model.encoder.layer[-1]


def _shortened(layer: Any) -> Any:
    attention = layer.attention.self

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

    def forward(hidden: torch.Tensor, mask: torch.Tensor | None = None, *_: Any, **__: Any) -> torch.Tensor:
        first = hidden[:, :1]
        seen = torch.nn.functional.scaled_dot_product_attention(
            heads(attention.query(first)),
            heads(attention.key(hidden)),
            heads(attention.value(hidden)),
            attn_mask=None if mask is None else mask[:, :, :1],
            scale=attention.scaling,
        )
        joined = layer.attention.output(seen.transpose(1, 2).flatten(2), first)
        return layer.feed_forward_chunk(joined)

    return forward
