"""The figures of a preference step, under TRL's names, averaged over processes."""

from __future__ import annotations

from typing import Any

import torch

from trainers.losses import Pairs


def pair_metrics(
    trainer: Any,
    outputs: Any,
    pairs: Pairs,
    parts: dict[str, torch.Tensor],
    inputs: dict[str, torch.Tensor],
) -> None:
    """Append one value of each figure to the trainer's metrics; `parts` are the summands of the loss."""
    mode = "train" if trainer.model.training else "eval"
    metrics, gather = trainer._metrics[mode], trainer.accelerator.gather_for_metrics
    mask = inputs["completion_mask"][..., 1:].bool()
    width = mask.size(1)

    def share(values: torch.Tensor, of: torch.Tensor) -> float:
        total, count = gather((values * of).sum().detach()).sum(), gather(of.sum()).sum()
        return (total / count).item() if count > 0 else 0.0

    if outputs is not None:  # the engine's head computes log-probabilities and nothing beside them
        metrics["entropy"].append(share(outputs.entropy[:, -width:], mask))
        for side, logits, own in zip(
            ("chosen", "rejected"), outputs.mean_logits[:, -width:].chunk(2), mask.chunk(2), strict=True
        ):
            metrics[f"logits/{side}"].append(share(logits, own))
        metrics["mean_token_accuracy"].append(
            share(outputs.is_top1[:, -width:].chunk(2)[0].float(), mask.chunk(2)[0])
        )
    if mode == "train":
        seen = gather(inputs["attention_mask"].sum()).sum().item()
        trainer._total_train_tokens += seen // trainer._tp_size
    metrics["num_tokens"] = [trainer._total_train_tokens]
    metrics["logps/chosen"].append(gather(pairs.chosen.detach()).mean().item())
    metrics["logps/rejected"].append(gather(pairs.rejected.detach()).mean().item())
    for name, value in parts.items():
        metrics[name if name == "aux_loss" else f"loss/{name}"].append(gather(value).mean().item())
    _rewards(metrics, gather, pairs, trainer.loss.settings.beta)


def _rewards(metrics: Any, gather: Any, pairs: Pairs, beta: float) -> None:
    """beta times the log-ratio to the reference, or to nothing where the loss has no reference."""
    chosen, rejected = pairs.chosen.detach(), pairs.rejected.detach()
    if pairs.ref_chosen is not None and pairs.ref_rejected is not None:
        chosen, rejected = chosen - pairs.ref_chosen, rejected - pairs.ref_rejected
    chosen, rejected = gather(beta * chosen), gather(beta * rejected)
    metrics["rewards/chosen"].append(chosen.mean().item())
    metrics["rewards/rejected"].append(rejected.mean().item())
    metrics["rewards/accuracies"].append((chosen > rejected).float().mean().item())
    metrics["rewards/margins"].append((chosen - rejected).mean().item())
