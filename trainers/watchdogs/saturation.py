"""The share of a step's pairs that teach nothing: by the loss's own gradient, whatever the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainers import losses
from trainers.losses import Pairs, Rows

TEACHES = 0.01
"""Of the first step's largest gradient: a logistic loss is there when its margin is past ln 199, 5.3."""


def steepness(terms: Sequence[Any], read: Pairs | Rows, settings: Any) -> Tensor:
    """For each pair the size of the loss's gradient by the rejected answer's sum, for a single answer by its own.

    Not by the chosen answer's: a term that only makes it likelier says nothing about the pair.
    """
    with torch.enable_grad():
        if isinstance(read, Pairs):
            leaf = read.rejected.detach().requires_grad_()
            known: Any = replace(read, chosen=read.chosen.detach(), rejected=leaf)
        else:
            leaf = read.logps.detach().requires_grad_()
            known = replace(read, logps=leaf)
        mean, _ = losses.combine(terms, known, settings)
        if not mean.requires_grad:
            return torch.zeros_like(leaf)
        (found,) = torch.autograd.grad(mean, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found.abs() * len(leaf)


class Saturation:
    """Counts the flat ones; the first step says what steep is."""

    def __init__(self) -> None:
        self.steepest: float | None = None
        """None until the first step is over; 0 of a loss that does not read rejected answers."""
        self.seen = 0.0

    def flat(self, found: Tensor) -> Tensor:
        """How many of them teach nothing; none while it is not known what steep is."""
        if self.steepest is None:
            self.seen = max(self.seen, found.max().item() if len(found) else 0.0)
            return found.new_zeros(())
        return (found < TEACHES * self.steepest).sum().to(found)

    def share(self, flat: float, pairs: float) -> float | None:
        return flat / pairs if self.steepest and pairs else None
