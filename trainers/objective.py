"""What a preference stage trains on: its options as summands and numbers, checked before anything is loaded."""

from __future__ import annotations

from typing import Any

from data.errors import RecipeError
from trainers import losses
from trainers.config import PreferOptions


class Objective:
    """What is trained on: the summands and their numbers, checked before anything is loaded."""

    def __init__(self, options: PreferOptions, config: Any) -> None:
        names = [options.loss_type] if isinstance(options.loss_type, str) else list(options.loss_type)
        self.terms = losses.terms(names, options.loss_weights, options.sft_weight)
        self.settings = losses.Settings(
            beta=options.beta,
            label_smoothing=options.label_smoothing,
            f_divergence_type=config.f_divergence_type,
            f_alpha_divergence_coef=config.f_alpha_divergence_coef,
            discopop_tau=config.discopop_tau,
            simpo_gamma=options.simpo_gamma,
        )
        losses.check(self.terms, self.settings)
        self.needs_reference = any(term.loss.needs_reference for term in self.terms)
        if config.use_weighting:
            raise RecipeError(
                "use_weighting (WPO) is not there yet",
                where="training.use_weighting",
                way_out="Leave it out.",
            )
