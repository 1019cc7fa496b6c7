"""A stated loss as one of the losses over pairs, with the counts that its logs show."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainers.logic.compiled import ClampCount, CompiledLoss
from trainers.logic.stated import Stated
from trainers.losses.inputs import Pairs, Settings, average, reference_of
from trainers.losses.known import Loss

SATURATED = 30.0
"""Beyond it the logistic link has a gradient of 1e-13, or is a straight line."""


@dataclass
class RhoCount:
    """What a stated loss's rho was, summed on the device over the rows since the last call of `take`."""

    steepness: float
    _sums: Tensor | None = field(default=None, repr=False)
    rows: int = 0

    def see(self, rho: Tensor) -> None:
        rho = rho.detach()
        found = torch.stack([rho.sum(), ((self.steepness * rho).abs() > SATURATED).sum().to(rho)])
        self._sums = found if self._sums is None else self._sums.to(found) + found
        self.rows += rho.numel()

    def take(self) -> dict[str, tuple[Tensor, int]]:
        """By name of the figure, its sum and the number of rows."""
        sums, rows = self._sums, self.rows
        self._sums, self.rows = None, 0
        return {} if sums is None else {"rho": (sums[0], rows), "saturated": (sums[1], rows)}


def symbolic(stated: Stated, clamps: ClampCount, seen: RhoCount) -> Loss[Pairs]:
    """The loss; `clamps` counts its values of 1 - p at the floor, `seen` what its rho was."""
    loss = CompiledLoss(
        stated.structure, stated.link, stated.beta, stated.scale, stated.floor, stated.constant, clamps
    )

    def value(pairs: Pairs, how: Settings) -> Tensor:
        logps, margin = _atoms(pairs, stated), _margin(pairs, stated)
        rho = loss.rho(logps, margin) if stated.constant is not None else loss.rho(logps) - margin
        seen.see(rho)
        return loss.loss_of(rho)

    return Loss(
        stated.name,
        value,
        lambda how: stated.step0,
        needs_reference=stated.needs_reference,
        length_normalised=stated.averages,
        beta=stated.beta,
        sft_weight=stated.sft_weight,
    )


def _atoms(pairs: Pairs, stated: Stated) -> dict[str, Tensor]:
    found = {"Winner": pairs.chosen, "Loser": pairs.rejected}
    if stated.needs_reference:
        found["Ref.Winner"] = reference_of("ref_chosen", pairs.ref_chosen)
        found["Ref.Loser"] = reference_of("ref_rejected", pairs.ref_rejected)
    if not stated.averages:
        return found
    return {
        name: average(sums, pairs.chosen_length if name.endswith("Winner") else pairs.rejected_length)
        for name, sums in found.items()
    }


def _margin(pairs: Pairs, stated: Stated) -> Tensor | float:
    """What is subtracted from rho; R-DPO adds alpha times the difference in tokens to beta * rho."""
    if not stated.length_alpha:
        return stated.offset
    longer = (pairs.chosen_length - pairs.rejected_length).to(torch.float32)
    return stated.offset - stated.length_alpha / stated.beta * longer
