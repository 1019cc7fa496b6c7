"""Log-probabilities of completions, exact and differentiable, through the model's own top-level forward.

`engines.install` gives the causal language model one more way to be called, `model(..., segments=layout)`: its
backbone runs as ever, and only the positions that predict a completion's token are projected onto the vocabulary, a
few rows at a time. Everything that wraps the outermost forward (autocast, DDP, FSDP, PEFT) holds for it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from data.errors import ModelError
from trainers.engine import tiles
from trainers.engine.groups import Group, Layout, lay_out


class Scored(NamedTuple):
    """One log-probability for every scored token; completion i owns those from offsets[i] to offsets[i + 1]."""

    tokens: Tensor
    offsets: Tensor


def completion_log_probs(model: Any, groups: Sequence[Group] | Layout) -> Scored:
    """Of every completion's tokens, in the order given; float32 (float64 of a float64 model). See `groups`.

    `model` is the outermost module, as the trainer would call it. Without gradients: under `torch.no_grad()`.
    """
    return completion_states(model, groups)[0]


def completion_states(model: Any, groups: Sequence[Group] | Layout) -> tuple[Scored, Tensor | None]:
    """`completion_log_probs`, and the hidden states of the scored tokens that the layout asks for as `wanted`."""
    base = causal_lm(model)
    if not installed(base):
        raise RuntimeError("engines.prepare() gives the model its engine first, before accelerate wraps it")
    layout = groups if isinstance(groups, Layout) else lay_out(groups, base.heliograph.engine)
    layout = layout.to(base.get_input_embeddings().weight.device)
    found = model(
        input_ids=layout.input_ids,
        attention_mask=layout.attention_mask,
        position_ids=layout.position_ids,
        segments=layout,
    )
    tokens, hidden = found if isinstance(found, tuple) else (found, None)
    return Scored(tokens, layout.offsets), hidden


def sums(logps: Tensor, offsets: Tensor) -> Tensor:
    """One sum for each completion, added up in float64: in float32 a hundred terms lose more than the model does."""
    counts = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts).to(logps.device)
    zeros = torch.zeros(len(counts), dtype=torch.float64, device=logps.device)
    return zeros.index_add(0, owner, logps.double()).to(logps.dtype)


def causal_lm(model: Any) -> Any:
    """The causal language model inside DDP, FSDP and PEFT."""
    while hasattr(model, "module"):
        model = model.module
    return (
        model.get_base_model()
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model")
        else model
    )


def installed(model: Any) -> bool:
    return "heliograph" in vars(causal_lm(model))


def score(base: Any, layout: Layout) -> Tensor | tuple[Tensor, Tensor]:
    """The forward of a causal language model that was called with a layout; with `wanted`, its hidden states too."""
    more: dict[str, Any] = {"attention_mask": layout.attention_mask}
    if layout.engine != "padded":
        layout.visits = 0
        layout.kernel = base.heliograph.kernel
        # Four dimensions: taken for a finished mask. Without one, transformers would build a T x T mask from the
        # position ids, for sequences that are not there.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=layout.input_ids.device)
        more = {"attention_mask": mask, "position_ids": layout.position_ids, "segments": layout}
    hidden = base.base_model(input_ids=layout.input_ids, use_cache=False, **more).last_hidden_state
    layers = base.config.get_text_config().num_hidden_layers
    if layout.engine != "padded" and layout.visits < layers:
        raise ModelError(
            f"{layers - layout.visits} of {layers} attention layers did not get the layout: "
            f"{type(base).__name__} does not hand it on",
            way_out="Write `engine: padded`.",
        )
    base.heliograph_took = layout.took or "the model's own"
    head = base.get_output_embeddings()
    weight, bias = (_whole(parameter) for parameter in (head.weight, head.bias))
    assert weight is not None
    rows = layout.rows.to(hidden.device)
    chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, rows).to(weight.device)
    found = head_log_probs(chosen, weight, bias, layout.targets.to(weight.device), *_transform(base))
    return (
        found if layout.wanted is None else (found, chosen.index_select(0, layout.wanted.to(chosen.device)))
    )


class Head(NamedTuple):
    """What turns hidden states into a distribution over the vocabulary."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None


def head_of(model: Any) -> Head:
    """The head of the causal language model, whole."""
    base = causal_lm(model)
    head = base.get_output_embeddings()
    weight, bias = (_whole(parameter) for parameter in (head.weight, head.bias))
    assert weight is not None
    return Head(weight, bias, *_transform(base))


def _whole(parameter: Any) -> Tensor | None:
    """FSDP2 keeps parameters in parts, and hidden states whole."""
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def _transform(base: Any) -> tuple[float, float | None]:
    """What lies between the head and the softmax: a factor and a soft cap, under the names that families give them."""
    config = base.config.get_text_config()
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), getattr(config, "final_logit_softcapping", None)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is not None and config.model_type != "hyperclovax":
        scaling = 1 / scaling
    return float(1.0 if scaling is None else scaling), getattr(config, "final_logit_softcapping", None)


def head_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """log_softmax(softcap(scale * (hidden @ weight.T + bias)))[targets], with logits for a few rows at a time.

    For a frozen head the gradient is formed in the forward pass, while the logits are there: it is linear in the
    upstream scalar of its row, and nothing but [rows, width] is kept. A head that learns is recomputed.
    """
    device = hidden.device.type
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    learns = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    how = tiles.How(scale, softcap, narrow, torch.is_grad_enabled() and hidden.requires_grad)
    with torch.autocast(device, enabled=False):
        return (_LearningHead if learns else _FrozenHead).apply(hidden, weight, bias, targets, how)  # pyright: ignore


def _downhill(logps: Tensor, slope: Tensor | None, targets: Tensor, how: tiles.How) -> Tensor:
    """Minus the gradient of each row's log-probability by its projection; overwrites `logps`.

    One matrix, softmax minus one-hot: for a likely token the difference of two products would cancel to nothing.
    """
    back = logps.exp_()
    back[torch.arange(len(targets), device=targets.device), targets] -= 1
    if slope is not None:
        back *= slope
    return back.mul_(how.scale) if how.scale != 1 else back


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: tiles.How
    ) -> Tensor:
        weight, bias = weight.to(how.narrow), None if bias is None else bias.to(how.narrow)
        found = hidden.new_empty(len(hidden), dtype=tiles.wide(how.narrow))
        uphill = torch.empty_like(hidden) if how.form else None
        for piece in tiles.pieces(len(hidden), len(weight), hidden.device):
            logps, slope = tiles.log_softmax(hidden[piece], weight, bias, how)
            found[piece] = logps.gather(1, targets[piece, None])[:, 0]
            if uphill is not None:
                back = _downhill(logps, slope, targets[piece], how)
                uphill[piece] = tiles.product(back.to(how.narrow), weight).neg_()
        ctx.save_for_backward(uphill)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (uphill,) = ctx.saved_tensors
        return (uphill * upstream[:, None]).to(uphill.dtype), None, None, None, None


class _LearningHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: tiles.How
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.how = how
        return _FrozenHead.forward(tiles.Nowhere(), hidden, weight, bias, targets, how._replace(form=False))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets = ctx.saved_tensors
        how: tiles.How = ctx.how
        slim, slim_bias = weight.to(how.narrow), None if bias is None else bias.to(how.narrow)
        wide = tiles.wide(how.narrow)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=wide)
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        for piece in tiles.pieces(len(hidden), len(weight), hidden.device):
            logps, slope = tiles.log_softmax(hidden[piece], slim, slim_bias, how)
            back = _downhill(logps, slope, targets[piece], how).mul_(-upstream[piece, None])
            thin = back.to(how.narrow)
            to_hidden[piece] = tiles.product(thin, slim)
            to_weight += tiles.product(thin.t(), hidden[piece].to(how.narrow))
            if to_bias is not None:
                to_bias += back.sum(0)
        grad_bias = None if to_bias is None or bias is None else to_bias.to(bias.dtype)
        return to_hidden, to_weight.to(weight.dtype), grad_bias, None, None
