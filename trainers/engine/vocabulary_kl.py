"""KL between policy and reference over the whole vocabulary, at the answers' positions, a few rows at a time."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from data.errors import RecipeError
from trainers.engine import tiles

KLDirection = Literal["reference_to_policy", "policy_to_reference"]
"""`reference_to_policy` is KL(reference || policy), the expectation under the reference, as open-unlearning computes;
`policy_to_reference` is KL(policy || reference), as the NPO paper writes."""


def logits_kl(logits: Tensor, ref_logits: Tensor, direction: KLDirection) -> Tensor:
    """KL of each row of logits, all at once; for small vocabularies and for testing `head_kl`."""
    _check(direction)
    policy, reference = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    if direction == "reference_to_policy":
        return (reference.exp() * (reference - policy)).sum(-1)
    return (policy.exp() * (policy - reference)).sum(-1)


def head_kl(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    direction: KLDirection,
    *,
    bias: Tensor | None = None,
    ref_bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """KL of each row, from hidden states and heads: [rows, width] and [vocabulary, width], without all logits.

    The rows are the positions that predict an answer's token; prompts and padding are not handed in, so that no mean
    can run over them. Differentiable in the policy's hidden states, weight and bias; the reference is a constant.
    For a frozen head the gradient is formed in the forward pass, for one that learns the logits are made again.
    """
    _check(direction)
    if len(hidden) != len(ref_hidden) or len(weight) != len(ref_weight):
        raise ValueError(
            f"policy and reference differ: {len(hidden)} and {len(ref_hidden)} rows, "
            f"vocabularies of {len(weight)} and {len(ref_weight)}"
        )
    device = hidden.device.type
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    learns = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    how = tiles.How(scale, softcap, narrow, torch.is_grad_enabled() and hidden.requires_grad)
    reference = _Reference(
        ref_hidden.detach(), ref_weight.detach(), None if ref_bias is None else ref_bias.detach()
    )
    with torch.autocast(device, enabled=False):
        kind: Any = _LearningHead if learns else _FrozenHead
        return kind.apply(hidden, weight, bias, reference, direction, how)


def _check(direction: str) -> None:
    if direction not in get_args(KLDirection):
        raise RecipeError(
            f"kl_direction is {direction!r}", way_out=f"it is one of {', '.join(get_args(KLDirection))}"
        )


class _Reference(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    def to(self, narrow: torch.dtype) -> _Reference:
        return _Reference(
            self.hidden, self.weight.to(narrow), None if self.bias is None else self.bias.to(narrow)
        )


def _divergence(
    rows: Tensor,
    ref_rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reference: _Reference,
    direction: str,
    how: tiles.How,
) -> tuple[Tensor, Tensor]:
    """KL of some rows, and its gradient by the policy's projections."""
    logps, slope = tiles.log_softmax(rows, weight, bias, how)
    ref, _ = tiles.log_softmax(ref_rows, reference.weight, reference.bias, how)
    if direction == "reference_to_policy":
        mass = ref.exp()
        found = ref.sub_(logps).mul_(mass).sum(-1)
        back = logps.exp_().sub_(mass)
    else:
        mass = logps.exp()
        gap = logps.sub_(ref)
        found = (mass * gap).sum(-1)
        back = gap.sub_(found[:, None]).mul_(mass)
    if slope is not None:
        back *= slope
    return found, back.mul_(how.scale) if how.scale != 1 else back


def _pieces_of_two(hidden: Tensor, weight: Tensor) -> list[slice]:
    # Two heads, and three or four matrices of their size at once, where `head_log_probs` has one or two.
    return tiles.pieces(len(hidden), 3 * len(weight), hidden.device)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reference: _Reference,
        direction: str,
        how: tiles.How,
    ) -> Tensor:
        weight, bias = weight.to(how.narrow), None if bias is None else bias.to(how.narrow)
        reference = reference.to(how.narrow)
        found = hidden.new_empty(len(hidden), dtype=tiles.wide(how.narrow))
        uphill = torch.empty_like(hidden) if how.form else None
        for piece in _pieces_of_two(hidden, weight):
            found[piece], back = _divergence(
                hidden[piece], reference.hidden[piece], weight, bias, reference, direction, how
            )
            if uphill is not None:
                uphill[piece] = tiles.product(back.to(how.narrow), weight)
        ctx.save_for_backward(uphill)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (uphill,) = ctx.saved_tensors
        return (uphill * upstream[:, None]).to(uphill.dtype), None, None, None, None, None


class _LearningHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reference: _Reference,
        direction: str,
        how: tiles.How,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, *reference)
        ctx.direction, ctx.how = direction, how
        plain = how._replace(form=False)
        return _FrozenHead.forward(tiles.Nowhere(), hidden, weight, bias, reference, direction, plain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, *kept = ctx.saved_tensors
        how: tiles.How = ctx.how
        reference = _Reference(*kept).to(how.narrow)
        slim, slim_bias = weight.to(how.narrow), None if bias is None else bias.to(how.narrow)
        wide = tiles.wide(how.narrow)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=wide)
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        for piece in _pieces_of_two(hidden, weight):
            _, back = _divergence(
                hidden[piece], reference.hidden[piece], slim, slim_bias, reference, ctx.direction, how
            )
            back *= upstream[piece, None]
            thin = back.to(how.narrow)
            to_hidden[piece] = tiles.product(thin, slim)
            to_weight += tiles.product(thin.t(), hidden[piece].to(how.narrow))
            if to_bias is not None:
                to_bias += back.sum(0)
        grad_bias = None if to_bias is None or bias is None else to_bias.to(bias.dtype)
        return to_hidden, to_weight.to(weight.dtype), grad_bias, None, None, None
