"""Losses over pairs: the fifteen of TRL's DPOTrainer under its names, and those of its CPO and ORPO trainers.

Each takes the batch and the settings and gives one loss for each pair. Elementwise on float32 or wider, without
state; which weights, means and sums follow is said in `losses`, once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.logic.compiled import log1mexp
from trainers.logic.measure import FLOOR
from trainers.losses.inputs import Pairs, Settings, average, log_ratios, reference_of, scores


def _margin(pairs: Pairs, how: Settings) -> Tensor:
    chosen, rejected = scores(pairs, how)
    return chosen - rejected


def _average_margin(pairs: Pairs, how: Settings) -> Tensor:
    chosen, rejected = scores(pairs, how)
    return average(chosen, pairs.chosen_length) - average(rejected, pairs.rejected_length)


def _smoothed(x: Tensor, how: Settings) -> Tensor:
    eps = how.label_smoothing
    return -F.logsigmoid(x) * (1 - eps) - F.logsigmoid(-x) * eps


def sigmoid(pairs: Pairs, how: Settings) -> Tensor:
    """DPO (arXiv 2305.18290); as in TRL 1.16 without label smoothing, for which see `cdpo` and `robust`."""
    return -F.logsigmoid(how.beta * _margin(pairs, how))


def cdpo(pairs: Pairs, how: Settings) -> Tensor:
    """Conservative DPO: `sigmoid` expected over labels of which `label_smoothing` are the wrong way round."""
    return _smoothed(how.beta * _margin(pairs, how), how)


def hinge(pairs: Pairs, how: Settings) -> Tensor:
    """A hinge at margin 1 / beta (RSO, arXiv 2309.06657)."""
    return torch.relu(1 - how.beta * _margin(pairs, how))


def ipo(pairs: Pairs, how: Settings) -> Tensor:
    """IPO (arXiv 2310.12036): the margin per token is pulled to 1 / (2 beta)."""
    return (_average_margin(pairs, how) - 1 / (2 * how.beta)) ** 2


def exo_pair(pairs: Pairs, how: Settings) -> Tensor:
    """EXO (arXiv 2402.00856, equation 16): KL from the smoothed label to the pair's odds; needs smoothing."""
    x, eps = how.beta * _margin(pairs, how), how.label_smoothing
    won = torch.sigmoid(x) * (F.logsigmoid(x) - math.log1p(-eps))
    return won + torch.sigmoid(-x) * (F.logsigmoid(-x) - math.log(eps))


def nca_pair(pairs: Pairs, how: Settings) -> Tensor:
    """NCA (arXiv 2402.05369): raises the chosen answer's own likelihood and not only the margin."""
    chosen, rejected = (how.beta * ratio for ratio in log_ratios(pairs))
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def robust(pairs: Pairs, how: Settings) -> Tensor:
    """Robust DPO (arXiv 2403.00409): unbiased where `label_smoothing` of the labels are the wrong way round."""
    x, eps = how.beta * _margin(pairs, how), how.label_smoothing
    return (-(1 - eps) * F.logsigmoid(x) + eps * F.logsigmoid(-x)) / (1 - 2 * eps)


def bco_pair(pairs: Pairs, how: Settings) -> Tensor:
    """BCO (arXiv 2404.04656) on pairs, without the running mean of rewards, as in TRL."""
    chosen, rejected = log_ratios(pairs)
    return -F.logsigmoid(how.beta * chosen) - F.logsigmoid(-how.beta * rejected)


def sppo_hard(pairs: Pairs, how: Settings) -> Tensor:
    """SPPO (arXiv 2405.00675) with certain labels: log-ratios are pulled to +-1 / (2 beta)."""
    chosen, rejected = log_ratios(pairs)
    return (chosen - 0.5 / how.beta) ** 2 + (rejected + 0.5 / how.beta) ** 2


def aot(pairs: Pairs, how: Settings) -> Tensor:
    """AOT (arXiv 2406.05882): policy margins against reference margins, each sorted over the batch.

    A loss belongs to a rank in the batch and to no pair: it has no row weights, and the batch size matters.
    """
    policy, _ = torch.sort(pairs.chosen - pairs.rejected)
    reference, _ = torch.sort(
        reference_of("ref_chosen", pairs.ref_chosen) - reference_of("ref_rejected", pairs.ref_rejected)
    )
    return _smoothed(how.beta * (policy - reference), how)


def aot_unpaired(pairs: Pairs, how: Settings) -> Tensor:
    """AOT with chosen and rejected log-ratios sorted apart; by rank in the batch, like `aot`."""
    chosen, rejected = (torch.sort(ratio)[0] for ratio in log_ratios(pairs))
    return _smoothed(how.beta * (chosen - rejected), how)


def apo_zero(pairs: Pairs, how: Settings) -> Tensor:
    """APO-zero (arXiv 2408.06266): chosen up, rejected down; for answers better than the model's own."""
    chosen, rejected = log_ratios(pairs)
    return 1 - torch.sigmoid(how.beta * chosen) + torch.sigmoid(how.beta * rejected)


def apo_down(pairs: Pairs, how: Settings) -> Tensor:
    """APO-down (arXiv 2408.06266): chosen down, rejected further down; for answers worse than the model's own."""
    chosen, rejected = log_ratios(pairs)
    return torch.sigmoid(how.beta * chosen) + 1 - torch.sigmoid(how.beta * (chosen - rejected))


def discopop(pairs: Pairs, how: Settings) -> Tensor:
    """DiscoPOP (arXiv 2406.08414): between a logistic and an exponential loss, mixed by the margin over tau."""
    x = how.beta * _margin(pairs, how)
    mix = x / how.discopop_tau
    # exp(-x) * sigmoid(mix) in one exponent: apart they are inf * 0 = NaN from a margin of -88 / beta down, in TRL.
    return -F.logsigmoid(x) * torch.sigmoid(-mix) + torch.exp(F.logsigmoid(mix) - x)


def sft(pairs: Pairs, how: Settings) -> Tensor:
    """Negative log-likelihood per token of each chosen answer; its reduction counts rows by their tokens."""
    sums = pairs.chosen if pairs.chosen_plain is None else pairs.chosen_plain
    return -average(sums, pairs.chosen_length)


def sigmoid_norm(pairs: Pairs, how: Settings) -> Tensor:
    """DPO on log-ratios per token (Tulu 3, arXiv 2411.15124)."""
    return -F.logsigmoid(how.beta * _average_margin(pairs, how))


def cpo(pairs: Pairs, how: Settings) -> Tensor:
    """CPO (arXiv 2401.08417): DPO without a reference; TRL's `cpo_alpha` is the weight of the `sft` term."""
    return _smoothed(how.beta * (pairs.chosen - pairs.rejected), how)


def cpo_hinge(pairs: Pairs, how: Settings) -> Tensor:
    """TRL's hinge form of CPO: relu(1 - beta * margin), not SLiC's max(0, beta - margin)."""
    return torch.relu(1 - how.beta * (pairs.chosen - pairs.rejected))


def _averages(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return average(pairs.chosen, pairs.chosen_length), average(pairs.rejected, pairs.rejected_length)


def cpo_ipo(pairs: Pairs, how: Settings) -> Tensor:
    """TRL's IPO form of CPO: the margin per token without a reference is pulled to 1 / (2 beta)."""
    chosen, rejected = _averages(pairs)
    return (chosen - rejected - 1 / (2 * how.beta)) ** 2


def simpo(pairs: Pairs, how: Settings) -> Tensor:
    """SimPO (arXiv 2405.14734): the averages' margin times beta must exceed gamma; no reference."""
    chosen, rejected = _averages(pairs)
    return _smoothed(how.beta * (chosen - rejected) - how.simpo_gamma, how)


def orpo(pairs: Pairs, how: Settings) -> Tensor:
    """ORPO's log odds ratio (arXiv 2403.07691) on averages; the paper adds the `sft` term with weight 1.

    1 - p has a floor: TRL's own form gives a NaN gradient where an average is within 1e-9 of 0.
    """
    chosen, rejected = _averages(pairs)
    if how.clamps is not None:
        how.clamps.see(torch.cat([chosen, rejected]), FLOOR)
    odds = chosen - rejected - (log1mexp(chosen) - log1mexp(rejected))
    return -how.beta * F.logsigmoid(odds)
