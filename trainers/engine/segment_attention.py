"""Attention over a prompt tree: every completion sees its prompt and itself, and nothing else.

Registered with transformers under NAME. The layout arrives as the keyword argument `segments` and never through a
context variable: gradient checkpointing runs a layer again after any context has closed. Calls that bring no layout
(generation, evaluation, TRL's own forward) go to transformers' sdpa with the masks made for it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from data.errors import ModelError
from trainers.engine.groups import Layout

NAME = "heliograph_segments"  # must not hold `flash`: transformers looks for it anywhere in a name

Kernel = Literal["auto", "sdpa", "varlen", "flash_attn", "flex"]


def register() -> None:
    """Make NAME known to transformers: the function and, or padded batches would attend to padding, its masks."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As transformers calls it: [batch, heads, tokens, width] in, [batch, tokens, heads, width] out."""
    if segments is None or segments.engine == "padded":
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    _refuse_what_is_not_done(segments, kwargs)
    if torch.is_autocast_enabled(query.device.type):
        # sdpa does this itself; the other kernels do not, and rotary embeddings leave q and k wider than v.
        narrow = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    segments.took = pick(segments.kernel, query, value, dropout)
    segments.visits += 1
    return KERNELS[segments.took](query, key, value, segments, scale, dropout), None


def _refuse_what_is_not_done(segments: Layout, kwargs: dict[str, Any]) -> None:
    for name, what in (("softcap", "soft-capped"), ("s_aux", "sink"), ("position_bias", "position-biased")):
        if kwargs.get(name) is not None:
            raise ModelError(f"{what} attention has no prompt tree", way_out=_WAY_OUT)
    if kwargs.get("is_causal") is False:
        raise ModelError("attention that looks ahead has no prompt tree", way_out=_WAY_OUT)
    window = kwargs.get("sliding_window")
    if window is not None and window < segments.longest:
        raise ModelError(
            f"a row of {segments.longest} tokens is longer than the model's sliding window of {window}",
            way_out=_WAY_OUT,
        )


_WAY_OUT = "Write `engine: padded`, or `engine: auto`."


def pick(asked: str, query: Tensor, value: Tensor, dropout: float) -> str:
    """The kernel for these tensors; one that was asked for by name is taken or refused, never replaced."""
    if asked not in get_args(Kernel):
        raise ModelError(f"there is no segment kernel {asked!r}", way_out=f"Take one of {get_args(Kernel)}.")
    if asked == "sdpa":
        return "sdpa"
    why_not = _unfit(query, value, dropout)
    if asked == "auto":
        names = ("varlen", "flash_attn") if why_not is None else ()
        return next((name for name in names if available(name)), "sdpa")
    # Flex has no limits on width or numbers, and its slow form runs on a CPU.
    why_not = ("it has no dropout" if dropout else None) if asked == "flex" else why_not
    if why_not is None and not available(asked):
        why_not = "it is not installed"
    if why_not is not None:
        raise ModelError(f"the segment kernel {asked} cannot be used: {why_not}", way_out="Write `auto`.")
    return asked


def _unfit(query: Tensor, value: Tensor, dropout: float) -> str | None:
    if query.device.type != "cuda":
        return "it runs on CUDA only"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"it works in bfloat16 or float16, and these are {str(query.dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(query.device) < (8, 0):
        return "the GPU is older than Ampere"
    if query.shape[-1] > 256 or query.shape[-1] % 8 or query.shape[-1] != value.shape[-1]:
        return f"heads of width {query.shape[-1]} and {value.shape[-1]}"
    return "it has no dropout" if dropout else None


def available(name: str) -> bool:
    """Whether the code of a kernel is here at all."""
    from importlib.util import find_spec

    module = {"varlen": "torch.nn.attention.varlen", "flex": "torch.nn.attention.flex_attention"}.get(
        name, name
    )
    return name == "sdpa" or find_spec(module) is not None


def _sdpa(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, dropout: float) -> Tensor:
    """Segment by segment: a causal square, or a completion over cat(prompt, itself). Nothing of size T x T."""
    key, value = _all_heads(query, key, value)
    # One split, whose gradient is one cat: a slice for each segment would cost a row of zeros each.
    lengths = [segment.length for segment in layout.segments]
    pieces = iter(zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True))

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        causal = mask is None
        out = scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=scale)
        return out.transpose(1, 2)

    parts: list[Tensor] = []
    for _, prompt, _, completions in layout.table:
        q, k, v = next(pieces)
        parts.append(attend(q, k, v, None))
        prompt_k, prompt_v = k.narrow(2, 0, prompt), v.narrow(2, 0, prompt)
        for length in completions[1:]:
            q, k, v = next(pieces)
            k, v = torch.cat((prompt_k, k), dim=2), torch.cat((prompt_v, v), dim=2)
            parts.append(attend(q, k, v, _staircase(layout, length, prompt, q.device)))
    return torch.cat(parts, dim=1)


def _staircase(layout: Layout, length: int, prefix: int, device: torch.device) -> Tensor:
    """Which of prefix + own tokens each own token sees."""
    found = layout.memo.get((length, prefix, device))
    if found is None:
        found = torch.ones(length, prefix + length, dtype=torch.bool, device=device).tril(prefix)
        layout.memo[length, prefix, device] = found
    return found


def _all_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Grouped-query attention: one key and value for every head of the queries."""
    times = query.shape[1] // key.shape[1]
    if times == 1:
        return key, value
    return key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)


def _ragged(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> tuple[Any, ...]:
    """Queries as they lie and keys as each segment sees them, where they end, and the longest of both.

    FlashAttention aligns a causal mask to the last query and the last key, which is the tree's rule exactly.
    """
    lengths = [s.length for s in layout.segments]
    seen = [s.length + s.prefix_length for s in layout.segments]
    memo, device = layout.memo, query.device
    if ("ends", device) not in memo:
        for name, counts in (("ends", lengths), ("key ends", seen)):
            memo[name, device] = torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)
        places = layout.seen()
        if places is not None:
            memo["keys", device] = places.to(device)
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    keys = memo.get(("keys", device))
    if keys is not None:
        k, v = k.index_select(0, keys), v.index_select(0, keys)
    ends = (memo["ends", device], memo["key ends", device])
    return q.contiguous(), k.contiguous(), v.contiguous(), *ends, max(lengths), max(seen)


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, _: float) -> Tensor:
    """FlashAttention 2 as it comes with torch. A prototype whose signature still moves: ask it what it takes."""
    from torch.nn.attention.varlen import varlen_attn

    takes = set(inspect.signature(varlen_attn).parameters)
    more: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
    if "enable_gqa" in takes:
        more["enable_gqa"] = query.shape[1] != key.shape[1]
    else:
        key, value = _all_heads(query, key, value)
    if "scale" in takes:
        more["scale"] = scale
    else:
        query = query * (scale * query.shape[-1] ** 0.5)
    call: Any = varlen_attn
    return call(*_ragged(query, key, value, layout), **more)[None]


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, _: float) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(*_ragged(query, key, value, layout), softmax_scale=scale, causal=True)[None]


def _flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, _: float) -> Tensor:
    """One call over the whole row; blocks that no segment touches are skipped."""
    tokens = query.shape[2]
    spare = -tokens % 128
    q, k, v = (pad(t, (0, 0, 0, spare)) for t in (query, key, value))
    mask, many = _block_mask(layout, tokens, spare, query.device), query.shape[1] != key.shape[1]
    out = _flex_call(query.device.type)(q, k, v, block_mask=mask, scale=scale, enable_gqa=many)
    return out[:, :, :tokens].transpose(1, 2)


@functools.lru_cache
def _flex_call(device: str) -> Any:
    """Compiled once; on a CPU it has a gradient only in its slow form."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


def _block_mask(layout: Layout, tokens: int, spare: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    if ("flex", device) not in layout.memo:
        # Places that fill the last block up see themselves: a row of nothing but -inf has no softmax.
        group, branch = (pad(t, (0, spare), value=-1).to(device) for t in layout.branches())

        def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            own = (group[q] == group[k]) & ((branch[k] == -1) | (branch[k] == branch[q]))
            return own & (k <= q)

        made: Any = create_block_mask(sees, None, None, tokens + spare, tokens + spare, device=str(device))
        layout.memo["flex", device] = made
    return layout.memo["flex", device]


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Layout, float, float], Tensor]] = {
    "sdpa": _sdpa,
    "varlen": _varlen,
    "flash_attn": _flash_attn,
    "flex": _flex,
}
