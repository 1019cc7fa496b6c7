"""The figures of each step that training has anyway: falls, saturated pairs, the gradient's norm and its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trainers.losses import Pairs, Rows
from trainers.losses.inputs import average
from trainers.watchdogs.rules import Reading, falls
from trainers.watchdogs.saturation import Saturation, steepness
from trainers.watchdogs.state import WatchState

SUMS = ("chosen", "chosen_count", "rejected", "rejected_count", "flat", "pairs")


class StepFigures:
    """Adds up the micro-batches of a step; `finish` reads the step off, once, over all processes."""

    def __init__(self, rules: Mapping[str, Any], state: WatchState) -> None:
        self.rules, self.state = rules, state
        self.saturation = Saturation()
        self.saturation.steepest = state.steepest
        self.sums: torch.Tensor | None = None
        self.norm: float | torch.Tensor | None = None
        self.rms: float | None = None
        self.epsilon = 0.0
        self.figures: dict[str, float] = {}
        """Of the last step, by the names of the watches."""

    def batch(self, trainer: Any, read: Pairs | Rows) -> None:
        """A micro-batch of preference training, while its sums are at hand."""
        with torch.no_grad():
            found = read.first.new_zeros(len(SUMS), dtype=torch.float64)
            for place, (policy, reference, length) in enumerate(_sides(read)):
                if reference is not None:
                    found[2 * place] = average(reference - policy.detach(), length).double().sum()
                    found[2 * place + 1] = len(policy)
        if "saturated" in self.rules:
            steep = steepness(trainer.loss.terms, read, trainer.loss.settings)
            found[4], found[5] = self.saturation.flat(steep), len(steep)
        self.sums = found if self.sums is None else self.sums + found

    def gradients(self, trainer: Any) -> None:
        """The median over tensors of the gradient's root mean square; AdamW divides by it plus epsilon."""
        # In the first step an adapter's first half has no gradient: its second half is 0.
        if (
            "gradient_rms" not in self.rules
            or "adam" not in str(trainer.args.optim.value)
            or not trainer.state.global_step
        ):
            return
        sizes = [
            (p.grad.detach().float().square().mean()).sqrt()
            for p in trainer.model.parameters()
            if p.requires_grad and p.grad is not None
        ]
        if sizes:
            self.rms, self.epsilon = torch.stack(sizes).median().item(), float(trainer.args.adam_epsilon)

    def finish(self, trainer: Any) -> dict[str, Reading]:
        """The step's figures against their bounds."""
        found: dict[str, Reading] = {}
        sums, norm, rms = self._of_all(trainer)
        if sums is not None:
            found |= self._of_pairs(trainer, dict(zip(SUMS, sums, strict=True)))
        if norm is not None and (rule := self.rules.get("gradient_spike")):
            times = self.state.norms.times_usual(norm)
            if times is not None:
                found["gradient_spike"] = Reading(times, rule.limit)
            else:  # too few are known for one to be unusual
                self.state.streak("gradient_spike").quiet = trainer.state.global_step - 1
        if rms is not None:
            rule = self.rules["gradient_rms"]
            found["gradient_rms"] = Reading(rms, rule.limit * self.epsilon, below=True)
        self.figures = {name: reading.value for name, reading in found.items()}
        self.sums = self.norm = self.rms = None
        return found

    def _of_all(self, trainer: Any) -> tuple[list[float] | None, float | None, float | None]:
        """The step's sums, and the gradient's norm and size, as one and the same number in every process.

        After DDP's sum a gradient is alike everywhere, but for what a GPU of another make rounds; and one process
        alone that stops or rolls back would leave the others waiting for it.
        """
        size = trainer.accelerator.num_processes
        device = trainer.accelerator.device
        alike = [0.0 if one is None else float(one) for one in (self.norm, self.rms)]
        own = torch.zeros(len(SUMS)) if self.sums is None else self.sums
        both = torch.cat((own.double().to(device), torch.tensor(alike, dtype=torch.float64, device=device)))
        *sums, norm, rms = trainer.accelerator.reduce(both, reduction="sum").tolist()
        return (
            None if self.sums is None else sums,
            None if self.norm is None else norm / size,
            None if self.rms is None else rms / size,
        )

    def _of_pairs(self, trainer: Any, total: Mapping[str, float]) -> dict[str, Reading]:
        found: dict[str, Reading] = {}
        if total["chosen_count"] and total["rejected_count"]:
            chosen = total["chosen"] / total["chosen_count"]
            rejected = total["rejected"] / total["rejected_count"]
            found |= falls(self.rules, chosen, rejected)
        if "saturated" in self.rules:
            share = self.saturation.share(total["flat"], total["pairs"])
            if share is not None:
                found["saturated"] = Reading(share, self.rules["saturated"].limit)
            elif self.saturation.steepest is None:
                seen = torch.tensor([self.saturation.seen], device=trainer.accelerator.device)
                self.saturation.steepest = trainer.accelerator.gather(seen).max().item()
                self.state.steepest = self.saturation.steepest
        return found


def _sides(read: Pairs | Rows) -> list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]:
    """Policy, reference and length of the better and of the worse answers."""
    if isinstance(read, Pairs):
        return [
            (read.chosen, read.ref_chosen, read.chosen_length),
            (read.rejected, read.ref_rejected, read.rejected_length),
        ]
    label = read.label
    if label is None:
        return []
    return [
        (
            read.logps[which],
            None if read.ref_logps is None else read.ref_logps[which],
            read.length[which],
        )
        for which in (label, ~label)
    ]
