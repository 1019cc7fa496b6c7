"""KL between the model and what it was at the start, on retain rows: the start is the model without its adapter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from data.errors import ModelError
from trainers.engine.groups import Layout
from trainers.engine.logprobs import causal_lm, completion_states, head_of, installed
from trainers.engine.scoring import Scored, score
from trainers.engine.vocabulary_kl import KLDirection, head_kl, logits_kl
from trainers.models import TRAINED, activate
from trainers.work import Work


class States(tuple[Any, Tensor, bool]):
    """The model they are of, hidden states or logits at the wanted tokens, and whether they are logits."""

    __slots__ = ()


def score_with_states(trainer: Any, model: Any, layout: Layout) -> tuple[Scored, States | None]:
    """`scoring.score`, and what a distribution is made of at the tokens that the layout asks for."""
    if layout.wanted is None:
        return score(trainer, model, layout), None
    if installed(model):
        found, hidden = completion_states(model, layout)
        return Scored(*found, {}), States((model, hidden, False))
    more: dict[str, Any] = {}
    if getattr(trainer, "aux_loss_enabled", False) and torch.is_grad_enabled():
        more["output_router_logits"] = True
    outputs = model(input_ids=layout.input_ids, attention_mask=layout.attention_mask, use_cache=False, **more)
    every = outputs.logits.reshape(-1, outputs.logits.shape[-1])
    rows = every.index_select(0, layout.rows)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    tokens = rows.log_softmax(-1).gather(1, layout.targets[:, None])[:, 0]
    scored = Scored(tokens, layout.offsets, {}, getattr(outputs, "aux_loss", None))
    return scored, States((model, rows.index_select(0, layout.wanted), True))


def divergence(policy: States, reference: States, direction: KLDirection) -> Tensor:
    """One KL over the vocabulary for every wanted token; the reference is a constant."""
    model, mine, logits = policy
    start, theirs, _ = reference
    if logits:
        with torch.autocast(mine.device.type, enabled=False):
            return logits_kl(mine, theirs.detach(), direction)
    head, below = head_of(model), head_of(start)
    return head_kl(
        mine,
        head.weight,
        theirs,
        below.weight,
        direction,
        bias=head.bias,
        ref_bias=below.bias,
        scale=head.scale,
        softcap=head.softcap,
    )


class Start:
    """The model as it was before the first step: without its trained adapter, or a frozen copy of all weights."""

    def __init__(self, trainer: Any, below: list[str], work: Work) -> None:
        """`trainer.model` must hold the starting policy, and nothing may have wrapped it yet."""
        self.below = below
        self.copy: Any = None
        model = trainer.model
        if TRAINED in getattr(model, "peft_config", {}):
            work.choose("retain_reference", "the same weights, adapter off", "no second model in memory")
            return
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ModelError(
                "retain_loss_type: kl in full training keeps a copy of the whole model, which FSDP and DeepSpeed split",
                where="retain_loss_type",
                way_out="Write `use_peft: true`, or `retain_loss_type: nll`.",
            )
        self.copy = copy.deepcopy(model)
        if not installed(self.copy):
            # TRL's fused head lies over the forward as a closure, which in a copy still calls the original.
            vars(causal_lm(self.copy)).pop("forward", None)
        self.copy.requires_grad_(False)
        self.copy.eval()
        size = sum(p.numel() * p.element_size() for p in self.copy.parameters())
        work.choose(
            "retain_reference",
            f"a frozen copy of the model, {size / 2**20:,.1f} MiB",
            "KL needs the start's whole distributions, and full training moves its weights",
        )

    def states(self, trainer: Any, model: Any, layout: Layout) -> States:
        with torch.no_grad():
            if self.copy is not None:
                found = score_with_states(trainer, self.copy, layout)[1]
            else:
                inner = trainer.accelerator.unwrap_model(model)
                with _evaluated(inner), adapter_off(inner, self.below):
                    found = score_with_states(trainer, model, layout)[1]
        assert found is not None
        return found


@contextmanager
def adapter_off(model: Any, below: list[str]) -> Iterator[None]:
    """Without the adapter that is trained; those below it stay on."""
    if not below:
        with model.disable_adapter():
            yield
        return
    activate(model, below, trained=False)
    try:
        yield
    finally:
        activate(model, below, trained=True)


@contextmanager
def _evaluated(model: Any) -> Iterator[None]:
    """Dropout off, layer by layer as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
