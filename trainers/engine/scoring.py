"""The log-probabilities of a batch's answers: through the engine where it applies, else TRL's padded forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from data.errors import ModelError
from trainers.engine import engines
from trainers.engine.completions import completions_only
from trainers.engine.groups import Engine, Layout
from trainers.engine.logprobs import completion_log_probs, installed
from trainers.work import Work

FIGURES = ("entropy", "mean_logits", "is_top1")
"""What TRL's head says of a token beside its log-probability."""


@dataclass(frozen=True)
class Scored:
    """One log-probability for every scored token; answer i owns those from offsets[i] to offsets[i + 1]."""

    tokens: torch.Tensor
    offsets: torch.Tensor
    figures: dict[str, torch.Tensor]
    """`FIGURES`, token by token; the engine's head leaves them out."""
    aux_loss: torch.Tensor | None = None
    """A mixture-of-experts router's own loss."""


def choose_engine(asked: str, trainer: Any, longest: int, work: Work) -> Engine:
    """Give the trainer's model its engine, before anything wraps it; say which, and why."""
    if asked == "padded":
        return "padded"
    why_not = None
    if trainer.is_deepspeed_enabled:
        why_not = "it has not been tried under DeepSpeed"
    elif trainer.is_fsdp_enabled:
        why_not = "it has not been tried under FSDP"
    elif getattr(trainer, "aux_loss_enabled", False):
        why_not = (
            "the router's loss counts every token of a batch, and sharing a prompt would change the count"
        )
    if why_not is not None:
        if asked != "auto":
            raise ModelError(f"the engine {asked} cannot be had: {why_not}", where="engine")
        work.choose("engine", "padded", why_not)
        return "padded"
    found, why = engines.prepare(asked, trainer.model, longest=longest)  # pyright: ignore[reportArgumentType]
    work.choose("engine", found, why)
    return found


def score(trainer: Any, model: Any, layout: Layout) -> Scored:
    """Policy and reference are both scored here, so that they are the same number while they are the same model."""
    if installed(model):
        return Scored(*completion_log_probs(model, layout), {})
    more: dict[str, Any] = {}
    if getattr(trainer, "aux_loss_enabled", False) and torch.is_grad_enabled():
        more["output_router_logits"] = True
    rows, width = layout.input_ids.shape
    labels = torch.full_like(layout.input_ids, -100)
    labels.view(-1)[layout.rows + 1] = layout.targets
    with completions_only():
        outputs = model(
            input_ids=layout.input_ids,
            attention_mask=layout.attention_mask,
            use_cache=False,
            labels=labels,
            fused_lm_head=True,
            **more,
        )
    # The head's outputs have no column for a row's last token, which predicts nothing.
    place = layout.rows - layout.rows // width

    def of(values: torch.Tensor) -> torch.Tensor:
        # Prompt-learning PEFT prepends virtual tokens to the outputs; the last positions are the real ones.
        return values[:, 1 - width :].reshape(rows * (width - 1))[place]

    return Scored(
        of(outputs.log_probs),
        layout.offsets,
        {name: of(getattr(outputs, name)) for name in FIGURES},
        getattr(outputs, "aux_loss", None),
    )
