"""A preference step computed the long way, in float64: whole rows one by one, all logits, formulas from the papers.

Nothing of `trainers` is used here: no padding, no packing, no adapter code, and the losses are written out again.
The gradient by the weights is the sum over answers of (loss by log-probability) times (log-probability by weights);
the second factor is taken once for each answer, so that another loss costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Answer = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt and completion."""


@dataclass
class How:
    """The numbers that formulas read, under TRL's names."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    discopop_tau: float = 0.05
    simpo_gamma: float = 0.5
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    ld_alpha: float | None = None


class Model:
    """A plain causal language model in float64, its weights a function of the leaves that learn."""

    def __init__(
        self,
        plain: Any,
        leaves: Mapping[str, Tensor],
        weights: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
        start: dict[str, Tensor],
    ) -> None:
        self.plain = plain
        self.leaves = {name: leaf.detach().double().clone().requires_grad_() for name, leaf in leaves.items()}
        self.weights = weights(self.leaves)
        self.start = start
        self._policy: dict[Answer, Tensor] = {}
        self._reference: dict[Answer, Tensor] = {}
        self._slopes: dict[tuple[Answer, int], Tensor] = {}

    def policy(self, answer: Answer) -> Tensor:
        """Log-probability of each completion token; the first has none where there is no prompt."""
        if answer not in self._policy:
            self._policy[answer] = self._score(self.weights, answer)
        return self._policy[answer]

    def reference(self, answer: Answer) -> Tensor:
        if answer not in self._reference:
            with torch.no_grad():
                self._reference[answer] = self._score(self.start, answer)
        return self._reference[answer]

    def slope(self, answer: Answer, upto: int) -> Tensor:
        """By all leaves, flat: of the sum over the first `upto` tokens."""
        if (answer, upto) not in self._slopes:
            total = self.policy(answer)[:upto].sum()
            found = (
                torch.autograd.grad(
                    total, list(self.leaves.values()), retain_graph=True, materialize_grads=True
                )
                if total.requires_grad and upto
                else [torch.zeros_like(leaf) for leaf in self.leaves.values()]
            )
            self._slopes[answer, upto] = torch.cat([one.reshape(-1) for one in found])
        return self._slopes[answer, upto]

    def _score(self, weights: dict[str, Tensor], answer: Answer) -> Tensor:
        prompt, completion = answer
        ids = torch.tensor([[*prompt, *completion]])
        logits = torch.func.functional_call(
            self.plain, weights, (), {"input_ids": ids, "use_cache": False}
        ).logits
        logps = torch.log_softmax(logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        return logps[max(len(prompt) - 1, 0) :]


@dataclass
class Step:
    """One optimiser step's loss as a function of sums of log-probabilities, each a leaf of its own graph."""

    model: Model
    how: How
    _sums: dict[tuple[Answer, int], Tensor] = field(default_factory=dict)

    def count(self, answer: Answer) -> int:
        return len(self.model.policy(answer))

    def sum(self, answer: Answer, upto: int | None = None) -> Tensor:
        upto = self.count(answer) if upto is None else upto
        if (answer, upto) not in self._sums:
            self._sums[answer, upto] = (
                self.model.policy(answer)[:upto].sum().detach().clone().requires_grad_()
            )
        return self._sums[answer, upto]

    def sides(self, chosen: Answer, rejected: Answer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Policy and reference sums of both, with the tokens beyond the shorter one at weight `ld_alpha`."""
        alpha, shared = self.how.ld_alpha, min(self.count(chosen), self.count(rejected))
        policy, reference = [], []
        for answer in (chosen, rejected):
            whole, below = self.sum(answer), self.model.reference(answer)
            if alpha is None:
                policy.append(whole)
                reference.append(below.sum())
            else:
                head = self.sum(answer, shared)
                policy.append(head + alpha * (whole - head))
                reference.append(below[:shared].sum() + alpha * below[shared:].sum())
        return policy[0], policy[1], reference[0], reference[1]

    def gradient(self, loss: Tensor) -> dict[str, Tensor]:
        """Of the loss by every leaf of the model."""
        keys = list(self._sums)
        by_sums = torch.autograd.grad(
            loss, [self._sums[key] for key in keys], allow_unused=True, materialize_grads=True
        )
        flat = torch.zeros(sum(leaf.numel() for leaf in self.model.leaves.values()), dtype=torch.float64)
        for (answer, upto), factor in zip(keys, by_sums, strict=True):
            if factor:
                flat += factor * self.model.slope(answer, upto)
        parts = flat.split([leaf.numel() for leaf in self.model.leaves.values()])
        return {
            name: part.view_as(leaf)
            for (name, leaf), part in zip(self.model.leaves.items(), parts, strict=True)
        }


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def sigma(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def divergence(x: Tensor, how: How) -> Tensor:
    """f'(u) less f'(1), at u = exp(x) (arXiv 2309.16240, table 1)."""
    u, a = torch.exp(x), how.f_alpha_divergence_coef
    return {
        "reverse_kl": lambda: x,  # f = u log u, f' = log u + 1
        "forward_kl": lambda: 1 - 1 / u,  # f = -log u
        "js_divergence": lambda: torch.log(2 * u / (1 + u)),  # f = u log u - (u + 1) log((u + 1) / 2)
        "alpha_divergence": lambda: (u ** (a - 1) - 1) / (a - 1),  # TRL's sign
    }[how.f_divergence_type]()


Pair = tuple[Answer, Answer, float]
"""Better answer, worse answer, weight of the pair."""


def pair_loss(name: str, step: Step, pairs: Sequence[Pair]) -> Tensor:
    """One loss for each pair of a micro-batch; `sft` as the sum over the chosen answer's tokens."""
    how = step.how
    b, eps = how.beta, how.label_smoothing
    stacked = [torch.stack(part) for part in zip(*(step.sides(c, r) for c, r, _ in pairs), strict=True)]
    c, r, rc, rr = stacked
    nc, nr = (torch.tensor([max(step.count(p[i]), 1) for p in pairs]).double() for i in (0, 1))
    lc, lr = c - rc, r - rr
    fc, fr = divergence(lc, how), divergence(lr, how)
    h = fc - fr
    per_token = fc / nc - fr / nr
    mc, mr = c / nc, r / nr

    def smooth(x: Tensor) -> Tensor:
        return -(1 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x)

    def exo() -> Tensor:
        p = torch.stack([sigma(b * h), sigma(-b * h)])
        q = torch.tensor([1 - eps, eps]).double()[:, None]
        return (p * (p.log() - q.log())).sum(0)

    def discopop() -> Tensor:
        mixed = sigma(b * h / how.discopop_tau)
        return -log_sigmoid(b * h) * (1 - mixed) + torch.exp(-b * h) * mixed

    def odds(x: Tensor) -> Tensor:
        return torch.log(torch.exp(x) / (1 - torch.exp(x)))

    formulas: dict[str, Callable[[], Tensor]] = {
        "sigmoid": lambda: -log_sigmoid(b * h),
        "hinge": lambda: (1 - b * h).clamp(min=0),
        "ipo": lambda: (per_token - 1 / (2 * b)) ** 2,
        "exo_pair": exo,
        "nca_pair": lambda: -log_sigmoid(b * lc) - log_sigmoid(-b * lc) / 2 - log_sigmoid(-b * lr) / 2,
        "robust": lambda: (-(1 - eps) * log_sigmoid(b * h) + eps * log_sigmoid(-b * h)) / (1 - 2 * eps),
        "bco_pair": lambda: -log_sigmoid(b * lc) - log_sigmoid(-b * lr),
        "sppo_hard": lambda: (lc - 1 / (2 * b)) ** 2 + (lr + 1 / (2 * b)) ** 2,
        "aot": lambda: smooth(b * (torch.sort(c - r)[0] - torch.sort(rc - rr)[0])),
        "aot_unpaired": lambda: smooth(b * (torch.sort(lc)[0] - torch.sort(lr)[0])),
        "apo_zero": lambda: (1 - sigma(b * lc)) + sigma(b * lr),
        "apo_down": lambda: sigma(b * lc) + (1 - sigma(b * (lc - lr))),
        "discopop": discopop,
        "sft": lambda: -torch.stack([step.sum(p[0]) for p in pairs]),
        "sigmoid_norm": lambda: -log_sigmoid(b * per_token),
        "cdpo": lambda: smooth(b * h),
        "cpo": lambda: smooth(b * (c - r)),
        "cpo_hinge": lambda: (1 - b * (c - r)).clamp(min=0),
        "cpo_ipo": lambda: (mc - mr - 1 / (2 * b)) ** 2,
        "simpo": lambda: smooth(b * (mc - mr) - how.simpo_gamma),
        "orpo": lambda: -b * log_sigmoid(odds(mc) - odds(mr)),
    }
    return formulas[name]()


def pair_step(step: Step, terms: Mapping[str, float], batches: Sequence[Sequence[Pair]]) -> Tensor:
    """Means over all pairs of the step, or over all their chosen tokens for `sft`; ranks are those of a batch."""
    rows = sum(weight for batch in batches for *_, weight in batch)
    tokens = sum(weight * step.count(chosen) for batch in batches for chosen, _, weight in batch)
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        weights = torch.tensor([weight for *_, weight in batch]).double()
        for name, share in terms.items():
            over = (tokens if name == "sft" else rows) or 1  # of nothing the mean is 0
            total = total + share * (weights * pair_loss(name, step, batch)).sum() / over
    return total


Judged = tuple[Answer, Answer | None, bool, float]
"""Answer, an answer to another prompt behind this one, whether the first is wanted, weight."""


def judged_step(step: Step, name: str, batches: Sequence[Sequence[Judged]]) -> Tensor:
    """KTO (arXiv 2402.01306); the baseline is a constant: a batch's mean log-ratio of mismatched answers, or 0."""
    how = step.how
    rows = sum(weight for batch in batches for *_, weight in batch)
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        others = [other for _, other, _, _ in batch if other is not None]
        baseline = 0.0
        if name == "kto":
            gains = [(step.model.policy(one) - step.model.reference(one)).sum().item() for one in others]
            baseline = max(0.0, math.fsum(gains) / len(gains))
        for answer, _, wanted, weight in batch:
            gain = step.sum(answer) - step.model.reference(answer).sum() - baseline
            value = (
                how.desirable_weight * (1 - sigma(how.beta * gain))
                if wanted
                else how.undesirable_weight * (1 - sigma(-how.beta * gain))
            )
            total = total + weight * value / rows
    return total
