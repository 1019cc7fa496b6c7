"""Attention over a prompt tree: every completion sees its prompt and itself, and nothing else.

Registered with transformers under NAME. The layout arrives as the keyword argument `segments` and never through a
context variable: gradient checkpointing runs a layer again after any context has closed. Calls that bring no layout
(generation, evaluation, TRL's own forward) go to transformers' sdpa with the masks made for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from data.errors import ModelError
from trainers.groups import Layout

NAME = "heliograph_segments"  # must not hold `flash`: transformers looks for it anywhere in a name

Kernel = Literal["auto", "sdpa", "varlen", "flash_attn", "flex"]
FLASH_HEAD_DIM = 256
"""Widest head of the FlashAttention 2 kernels, in torch and in the flash-attn package."""
FLEX_BLOCK = 128


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
    kernel = pick(segments.kernel, query, dropout)
    segments.visits += 1
    return KERNELS[kernel](query, key, value, segments, scale, dropout), None


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


def pick(asked: str, query: Tensor, dropout: float) -> str:
    """The kernel for these tensors; one that was asked for by name is taken or refused, never replaced."""
    if asked not in get_args(Kernel):
        raise ModelError(f"there is no segment kernel {asked!r}", way_out=f"Take one of {get_args(Kernel)}.")
    if asked == "sdpa":
        return "sdpa"
    why_not = _unfit(query, dropout)
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


def _unfit(query: Tensor, dropout: float) -> str | None:
    if query.device.type != "cuda":
        return "it runs on CUDA only"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"it works in bfloat16 or float16, and these are {str(query.dtype).removeprefix('torch.')}"
    if query.shape[-1] > FLASH_HEAD_DIM:
        return f"a head is wider than {FLASH_HEAD_DIM}"
    return "it has no dropout" if dropout else None


def available(name: str) -> bool:
    """Whether the code of a kernel is here at all."""
    from importlib.util import find_spec

    modules = {
        "varlen": "torch.nn.attention.varlen",
        "flash_attn": "flash_attn",
        "flex": "torch.nn.attention.flex_attention",
    }
    return name == "sdpa" or find_spec(modules[name]) is not None


def _sdpa(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, dropout: float) -> Tensor:
    """Segment by segment: a causal square, or a completion over cat(prompt, itself). Nothing of size T x T."""
    key, value = _all_heads(query, key, value)
    parts: list[Tensor] = []
    for start, length, prefix_start, prefix in layout.segments:
        q, k, v = (t.narrow(2, start, length) for t in (query, key, value))
        mask = None
        if prefix:
            k = torch.cat((key.narrow(2, prefix_start, prefix), k), dim=2)
            v = torch.cat((value.narrow(2, prefix_start, prefix), v), dim=2)
            mask = _staircase(layout, length, prefix, q.device)
        part = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, dropout_p=dropout
        )
        parts.append(part.transpose(1, 2))
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


def _tokens_first(tensor: Tensor) -> Tensor:
    return tensor[0].transpose(0, 1)


def _ragged(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor, int, int, Tensor | None]:
    """Where the queries and keys of each segment end, and which token each key is (None: as they lie).

    FlashAttention aligns a causal mask to the last query and the last key, which is the tree's rule exactly.
    """
    lengths = [s.length for s in layout.segments]
    seen = [s.length + s.prefix_length for s in layout.segments]
    if ("ends", device) not in layout.memo:
        for name, counts in (("ends", lengths), ("key ends", seen)):
            ends = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
            layout.memo[name, device] = ends.to(device)
        if any(s.prefix_length for s in layout.segments):
            places = [
                torch.cat((torch.arange(p, p + n), torch.arange(start, start + length)))
                for start, length, p, n in layout.segments
            ]
            layout.memo["keys", device] = torch.cat(places).to(device)
    memo = layout.memo
    keys = memo.get(("keys", device))
    return memo["ends", device], memo["key ends", device], max(lengths), max(seen), keys


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, dropout: float
) -> Tensor:
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
    ends, key_ends, longest, most_keys, keys = _ragged(layout, query.device)
    q, k, v = (_tokens_first(t) for t in (query, key, value))
    if keys is not None:
        k, v = k.index_select(0, keys), v.index_select(0, keys)
    call: Any = varlen_attn
    return call(q.contiguous(), k.contiguous(), v.contiguous(), ends, key_ends, longest, most_keys, **more)[
        None
    ]


def _flash_attn(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, dropout: float
) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    ends, key_ends, longest, most_keys, keys = _ragged(layout, query.device)
    q, k, v = (_tokens_first(t) for t in (query, key, value))
    if keys is not None:
        k, v = k.index_select(0, keys), v.index_select(0, keys)
    return flash_attn_varlen_func(
        q, k, v, ends, key_ends, longest, most_keys, softmax_scale=scale, causal=True
    )[None]


def _flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, dropout: float) -> Tensor:
    """One call over the whole row; blocks that no segment touches are skipped."""
    from torch.nn.attention.flex_attention import flex_attention

    tokens = query.shape[2]
    spare = -tokens % FLEX_BLOCK
    q, k, v = (torch.nn.functional.pad(t, (0, 0, 0, spare)) for t in (query, key, value))
    call: Any = torch.compile(flex_attention, dynamic=True) if query.device.type == "cuda" else flex_attention
    many = query.shape[1] != key.shape[1]
    out = call(
        q, k, v, block_mask=_block_mask(layout, tokens, spare, query.device), scale=scale, enable_gqa=many
    )
    return out[:, :, :tokens].transpose(1, 2)


def _block_mask(layout: Layout, tokens: int, spare: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    if ("flex", device) not in layout.memo:
        group = torch.full((tokens + spare,), -1)
        branch = torch.full((tokens + spare,), -1)  # -1: the prompt, which all branches see
        for i, (start, length, starts, lengths) in enumerate(layout.table):
            group[start : start + length] = i
            for j, (first, count) in enumerate(zip(starts, lengths, strict=True)):
                group[first : first + count] = i
                branch[first : first + count] = j
        group, branch = group.to(device), branch.to(device)

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
