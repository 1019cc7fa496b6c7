"""The figures of a preference step, under TRL's names, averaged over processes."""

from __future__ import annotations

from typing import Any

import torch

from trainers.engine.scoring import Scored
from trainers.losses import Pairs, Rows


def pair_metrics(
    trainer: Any, scored: Scored, inputs: Pairs | Rows, parts: dict[str, torch.Tensor], batch: dict[str, Any]
) -> None:
    """Append one value of each figure to the trainer's metrics; `parts` are the summands of the loss."""
    mode = "train" if trainer.model.training else "eval"
    metrics, gather = trainer._metrics[mode], trainer.accelerator.gather
    if scored.figures:  # the engine's head computes log-probabilities and nothing beside them
        _figures(metrics, gather, scored, batch)
    if mode == "train":
        layout = batch["layout"]
        tokens = layout.input_ids.numel() if layout.attention_mask is None else layout.attention_mask.sum()
        seen = gather(torch.as_tensor(tokens, device=scored.tokens.device)).sum().item()
        trainer._total_train_tokens += seen // trainer._tp_size
    metrics["num_tokens"] = [trainer._total_train_tokens]
    for name, value in parts.items():
        metrics[name if name == "aux_loss" else f"loss/{name}"].append(gather(value).mean().item())
    for name, (total, count) in trainer.loss.counts().items():
        seen = gather(torch.as_tensor(count, device=total.device)).sum()
        metrics[name].append((gather(total).sum() / seen.clamp(min=1)).item())
    sides = _sides(inputs)
    beta = trainer.loss.settings.beta
    means: dict[str, float] = {}
    for side, (policy, reference) in sides.items():
        # beta times the log-ratio to the reference, or to nothing where the loss has no reference.
        reward = beta * (policy if reference is None else policy - reference)
        for name, values in (("logps", policy), ("rewards", reward)):
            total, count = (
                gather(values.sum()).sum(),
                gather(torch.as_tensor(len(values), device=values.device)).sum(),
            )
            if count > 0:
                means[f"{name}/{side}"] = (total / count).item()
    for name, value in means.items():
        metrics[name].append(value)
    if isinstance(inputs, Pairs):
        chosen, rejected = (p if r is None else p - r for p, r in sides.values())
        metrics["rewards/accuracies"].append(gather((chosen > rejected).float()).mean().item())
    if "rewards/chosen" in means and "rewards/rejected" in means:
        metrics["rewards/margins"].append(means["rewards/chosen"] - means["rewards/rejected"])


def _sides(inputs: Pairs | Rows) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    """Policy and reference of the better and of the worse answers."""
    if isinstance(inputs, Pairs):
        return {
            "chosen": (inputs.chosen.detach(), inputs.ref_chosen),
            "rejected": (inputs.rejected.detach(), inputs.ref_rejected),
        }
    label = inputs.label
    if label is None:
        return {}
    policy, reference = inputs.logps.detach(), inputs.ref_logps
    return {
        side: (policy[which], None if reference is None else reference[which])
        for side, which in (("chosen", label), ("rejected", ~label))
    }


def _figures(metrics: Any, gather: Any, scored: Scored, batch: dict[str, Any]) -> None:
    counts = scored.offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts).to(scored.tokens.device)

    def share(values: torch.Tensor, of: torch.Tensor) -> float:
        total, count = gather((values * of).sum().detach()).sum(), gather(of.sum()).sum()
        return (total / count).item() if count > 0 else 0.0

    everything = torch.ones_like(owner, dtype=torch.bool)
    metrics["entropy"].append(share(scored.figures["entropy"], everything))
    for side in ("chosen", "rejected"):
        if side in batch:
            own = torch.isin(owner, batch[side])
            metrics[f"logits/{side}"].append(share(scored.figures["mean_logits"], own))
    wanted = torch.isin(owner, batch["chosen"]) if "chosen" in batch else everything
    metrics["mean_token_accuracy"].append(share(scored.figures["is_top1"].float(), wanted))
