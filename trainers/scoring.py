"""The log-probabilities of a batch of pairs: through the engine where one was asked for, else TRL's padded forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from data.errors import ModelError
from trainers import engines
from trainers.completions import completion_sums
from trainers.logprobs import completion_log_probs, sums
from trainers.work import Work

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns of the reference's sums, under TRL's names."""


@dataclass(frozen=True)
class Scored:
    """Sums over the answers' tokens, and how many there are."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_length: torch.Tensor
    rejected_length: torch.Tensor
    chosen_plain: torch.Tensor | None = None
    """The chosen sums before `ld_alpha`."""
    outputs: Any = None
    """What TRL's head says beside the log-probabilities; the engine leaves it out."""


def choose_engine(asked: str, trainer: Any, work: Work) -> str:
    """Give the trainer's model its engine, before anything wraps it; say which, and why."""
    if asked == "padded":
        return asked
    why_not = None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        why_not = "it has not been tried under FSDP or DeepSpeed"
    elif trainer.args.ld_alpha is not None:
        why_not = "ld_alpha weights single tokens, which only the padded path does"
    if why_not is not None:
        if asked != "auto":
            raise ModelError(f"the engine {asked} cannot be had: {why_not}", where="engine")
        work.choose("engine", "padded", why_not)
        return "padded"
    found, why = engines.prepare(asked, trainer.model)  # pyright: ignore[reportArgumentType]
    work.choose("engine", found, why)
    return found


def score(trainer: Any, model: Any, inputs: dict[str, torch.Tensor]) -> Scored:
    """Policy and reference are both scored here, so that they are the same number while they are the same model."""
    mask = inputs["completion_mask"][..., 1:]
    chosen_length, rejected_length = mask.sum(dim=1).chunk(2)
    if trainer.engine != "padded":
        found = sums(*completion_log_probs(model, _groups(inputs)))
        return Scored(found[0::2], found[1::2], chosen_length, rejected_length)
    asked: dict[str, Any] = {k: v for k, v in inputs.items() if k not in ("completion_mask", *REFERENCE)}
    if getattr(trainer, "aux_loss_enabled", False) and torch.is_grad_enabled():
        asked["output_router_logits"] = True
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    outputs = model(**asked, use_cache=False, labels=labels, fused_lm_head=True)
    # Prompt-learning PEFT prepends virtual tokens to the outputs; the last positions are the real ones.
    tokens = outputs.log_probs[:, -mask.size(1) :]
    alpha = trainer.args.ld_alpha
    chosen, rejected = completion_sums(tokens, mask, alpha).chunk(2)
    plain = None if alpha is None else tokens.sum(dim=1).chunk(2)[0]
    return Scored(chosen, rejected, chosen_length, rejected_length, plain, outputs)


def _groups(inputs: dict[str, torch.Tensor]) -> list[tuple[list[int], list[list[int]]]]:
    """TRL's padded batch, chosen rows first, as prompts with their two answers."""
    ids = inputs["input_ids"].tolist()
    answers, real = inputs["completion_mask"].tolist(), inputs["attention_mask"].tolist()
    half = len(ids) // 2
    groups: list[tuple[list[int], list[list[int]]]] = []
    for i in range(half):
        prompt = [t for t, a, r in zip(ids[i], answers[i], real[i], strict=True) if r and not a]
        pair = [[t for t, a in zip(ids[j], answers[j], strict=True) if a] for j in (i, i + half)]
        groups.append((prompt, pair))
    return groups
