"""The loss of an unlearn stage: gamma times the forget term plus alpha times the retain term, checked beforehand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainers import losses
from trainers.config import UnlearnOptions
from trainers.forgetting.batches import Forgotten
from trainers.losses import Pairs, Rows, Settings, Term, Totals
from trainers.losses.known import UNPAIRED
from trainers.losses.unlearning import METHODS, flat, npo_weight, simnpo_weight


class ForgetLoss:
    """Both terms, each a mean over all rows or tokens of an optimiser step."""

    weighted = False
    judged = True
    terms: tuple[Any, ...] = ()

    def __init__(self, options: UnlearnOptions, *, retain: bool) -> None:
        self.method = METHODS[options.method]
        self.settings = Settings(beta=options.beta or 0.1, simnpo_gamma=options.simnpo_gamma)
        self.gamma, self.alpha = float(options.gamma or 1.0), options.alpha
        self.retain = options.retain_loss_type if retain else None
        self.direction = options.kl_direction
        self.divergence: Any = options.flat_divergence
        self.needs_reference = self.method.forget is not None and self.method.forget.needs_reference
        """Of the forget term; the retain term's KL reads distributions, which no store holds."""

    def forget(self, read: Forgotten, over: Totals | None) -> Tensor:
        """Before gamma. A mean over answers; ga's is over tokens."""
        if self.method.forget is None:
            assert read.probabilities is not None
            with torch.autocast(read.forget.logps.device.type, enabled=False):
                each = flat(*read.probabilities, self.divergence)
            return losses.reduce(each, None, None if over is None else over.rows)
        inputs: Any = read.pairs if self.method.template else read.forget
        loss: Any = self.method.forget
        return losses.combine([Term(loss)], inputs, self.settings, over=over)[0]

    def nll(self, rows: Rows, over: Totals | None) -> Tensor:
        """Before alpha: the mean token loss of the retain answers."""
        return losses.combine([Term(UNPAIRED["nll"])], rows, self.settings, over=over)[0]

    def kl(self, tokens: Tensor, over: Totals | None) -> Tensor:
        """Before alpha: the mean over the retain answers' tokens."""
        return losses.reduce(tokens, None, None if over is None else over.tokens)

    def start(self) -> float | None:
        """The forget term of a policy that is its own reference."""
        return None if self.method.forget is None else self.method.forget.start(self.settings)

    def figures(self, read: Forgotten) -> dict[str, Tensor]:
        """What a person watches, one mean each."""
        with torch.no_grad():
            found = {"logps/forget": read.forget.logps.mean()}
            if self.method.name == "npo":
                found["weights/forget"] = npo_weight(read.forget, self.settings).mean()
            if self.method.name == "simnpo":
                found["weights/forget"] = simnpo_weight(read.forget, self.settings).mean()
            if isinstance(read.pairs, Pairs):
                found["logps/template"] = read.pairs.chosen.mean()
            if read.retain is not None:
                found["logps/retain"] = read.retain.logps.mean()
        return {name: value.detach() for name, value in found.items()}

    def lines(self) -> list[str]:
        """The loss in words."""
        kept = {"nll": "NLL", "kl": f"KL ({self.direction})", None: "nothing"}[self.retain]
        weight = "" if self.retain is None else f"{self.alpha:g} * "
        beta = f", beta {self.settings.beta:g}" if self.method.beta is not None else ""
        which = f" ({self.divergence})" if self.method.name == "flat" else ""
        return [f"unlearning: {self.gamma:g} * {self.method.name}{which}{beta}, retain: {weight}{kept}"]

    def counts(self) -> dict[str, tuple[Tensor, int]]:
        return {}


def split(over: Totals | None) -> tuple[Totals | None, Totals | None]:
    """The forget rows' and the retain rows' share of what `ForgetBatches.totals` added up."""
    if over is None:
        return None, None
    first, second = (Totals(over.rows[i], over.tokens[i]) for i in (0, 1))
    return first, second


def tolerance(expected: float, half: bool) -> float:
    """How far the first forget term may be off, in float32 and in mixed precision."""
    share = 0.1 if half else 0.01
    return share * (abs(expected) if math.isfinite(expected) else 1.0)
