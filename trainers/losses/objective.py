"""What a preference stage trains on: its options as summands and numbers, checked before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch

from data.errors import RecipeError
from trainers import losses
from trainers.config import PreferOptions
from trainers.logic.compiled import ClampCount
from trainers.logic.stated import Stated, alone, state
from trainers.losses.symbolic import RhoCount, symbolic
from trainers.work import Work


class Objective:
    """What is trained on: the summands and their numbers, checked before anything is loaded."""

    def __init__(self, options: PreferOptions, config: Any) -> None:
        self.stated = _stated(options)
        """The loss that the recipe states as logic, where it does."""
        logistic = self.stated is not None and self.stated.link == "logistic"
        self._clamps, self._rho = ClampCount(), RhoCount(options.beta if logistic else 1.0)
        names = [options.loss_type] if isinstance(options.loss_type, str) else list(options.loss_type)
        self.judged = self.stated is None and losses.judged(names)
        """Trained on single answers that are wanted or not, instead of on pairs."""
        self.weighted = options.weight_column is not None
        self.terms: Any = (
            self._symbolic(self.stated)
            if self.stated
            else losses.judged_terms(names, options.loss_weights, options.sft_weight)
            if self.judged
            else losses.terms(names, options.loss_weights, options.sft_weight)
        )
        self.settings = losses.Settings(
            beta=options.beta,
            label_smoothing=options.label_smoothing,
            f_divergence_type=config.f_divergence_type,
            f_alpha_divergence_coef=config.f_alpha_divergence_coef,
            discopop_tau=config.discopop_tau,
            simpo_gamma=options.simpo_gamma,
            desirable_weight=options.desirable_weight,
            undesirable_weight=options.undesirable_weight,
            clamps=self._clamps,
        )
        losses.check(self.terms, self.settings, weighted=self.weighted)
        self.needs_reference = any(term.loss.needs_reference for term in self.terms)
        if config.use_weighting:
            raise RecipeError(
                "use_weighting (WPO) is not there yet",
                where="training.use_weighting",
                way_out="Leave it out.",
            )

    def _symbolic(self, stated: Stated) -> tuple[losses.Term[losses.Pairs], ...]:
        loss = losses.Term(symbolic(stated, self._clamps, self._rho))
        return (loss, *losses.sft_term(stated.sft_weight))

    def tell(self, work: Work) -> None:
        """What a stated loss is, and what was chosen for it."""
        if self.stated is None:
            return
        for choice in self.stated.choices:
            work.choose(*choice)
        for line in self.stated.lines():
            work.say(line)

    def counts(self) -> dict[str, tuple[torch.Tensor, int]]:
        """By name of the figure, since the last call: its sum, and over how many values.

        `clamped`: values of 1 - p at the floor. Of a stated loss also `rho`, and `saturated`: rows with |beta * rho|
        beyond 30, or |rho| for a link without beta. Which names there are depends on the loss alone, so that
        processes can add them up.
        """
        clamped = self._clamps.take()
        return {**({} if clamped is None else {"clamped": clamped}), **self._rho.take()}


def _stated(options: PreferOptions) -> Stated | None:
    if options.loss is None:
        return None
    alone(options)
    return state(options.loss, options.sft_weight)
