"""Losses over single answers: forgetting (gradient ascent, NPO, SimNPO), KTO and its relative, and plain likelihood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import RecipeError
from trainers.losses.inputs import Rows, Settings, average, reference_of


def _log_ratio(rows: Rows) -> Tensor:
    return rows.logps - reference_of("ref_logps", rows.ref_logps)


def ga(rows: Rows, how: Settings) -> Tensor:
    """Gradient ascent on the likelihood per token; reduced by tokens: minus the mean token NLL of the batch.

    So in open-unlearning. The NPO paper's is the mean over answers of their sums: the same direction in a batch,
    longer by the mean number of tokens.
    """
    return average(rows.logps, rows.length)


def npo(rows: Rows, how: Settings) -> Tensor:
    """NPO (arXiv 2404.05868): pushes an answer below its reference, ever more gently; gradient ascent at beta 0."""
    return -(2 / how.beta) * F.logsigmoid(-how.beta * _log_ratio(rows))


def simnpo(rows: Rows, how: Settings) -> Tensor:
    """SimNPO (arXiv 2410.07163): NPO on the answer's average, with the constant gamma in place of a reference."""
    inside = -how.beta * average(rows.logps, rows.length) - how.simnpo_gamma
    return -(2 / how.beta) * F.logsigmoid(inside)


def kto(rows: Rows, how: Settings) -> Tensor:
    """KTO (arXiv 2402.01306, equation 7): wanted answers above the KL baseline, unwanted ones below."""
    if rows.kl is None:
        raise RecipeError("kto needs the KL baseline", way_out="give `kl`, or take apo_zero_unpaired")
    return _prospect(rows, _log_ratio(rows) - rows.kl, how)


def apo_zero_unpaired(rows: Rows, how: Settings) -> Tensor:
    """KTO without its KL baseline: APO-zero (arXiv 2408.06266) on single answers."""
    return _prospect(rows, _log_ratio(rows), how)


def _prospect(rows: Rows, gain: Tensor, how: Settings) -> Tensor:
    if rows.label is None:
        raise RecipeError("this loss needs `label`", way_out="say of each answer whether it is wanted")
    wanted = rows.label.bool()
    # Multiplied in, not divided out: TRL takes the plain mean of the weighted losses.
    return torch.where(
        wanted,
        how.desirable_weight * torch.sigmoid(-how.beta * gain),
        how.undesirable_weight * torch.sigmoid(how.beta * gain),
    )


def nll(rows: Rows, how: Settings) -> Tensor:
    """Negative log-likelihood per token of each answer; its reduction counts rows by their tokens."""
    return -average(rows.logps, rows.length)
