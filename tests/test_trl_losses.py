"""Every loss that TRL has against TRL's own code: the same number and the same gradients on the same batch."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from trainers.config import LossType
from trainers.losses import PAIRED, UNPAIRED, Divergence, Pairs, Rows, Settings, Term, check, combine, terms
from trainers.losses.inputs import average

ELSEWHERE = {"cdpo", "cpo", "cpo_hinge", "cpo_ipo", "simpo", "orpo", "kto", "apo_zero_unpaired"}
"""Losses that TRL's DPOTrainer does not have."""
FIFTEEN: tuple[str, ...] = tuple(name for name in get_args(LossType) if name not in ELSEWHERE)
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
SMOOTH = Settings(label_smoothing=0.1)


def tokens(seed: int, dtype: torch.dtype = torch.float32, pairs: int = 6, width: int = 12) -> SimpleNamespace:
    """Log-probabilities of single tokens as TRL's fused head gives them: chosen above rejected, 0 off the answer."""
    draw = torch.Generator().manual_seed(seed)
    rows = 2 * pairs
    prompt = torch.randint(1, 4, (rows, 1), generator=draw)
    length = torch.randint(1, width - 3, (rows, 1), generator=draw)
    place = torch.arange(width)
    mask = ((place >= prompt) & (place < prompt + length)).long()
    policy = -3 * torch.rand(rows, width - 1, generator=draw, dtype=torch.float64)
    reference = policy + 0.7 * torch.randn(rows, width - 1, generator=draw, dtype=torch.float64)
    scored = mask[:, 1:]
    return SimpleNamespace(
        mask=mask,
        scored=scored,
        policy=(policy * scored).to(dtype).requires_grad_(),
        reference=(reference * scored).to(dtype),
    )


def pairs_of(batch: SimpleNamespace, ld_alpha: float | None = None) -> Pairs:
    length = batch.scored.sum(1)
    count = length.chunk(2)
    per_token = torch.ones_like(batch.policy)
    if ld_alpha is not None:
        shared = torch.minimum(*count).repeat(2)[:, None]
        per_token = torch.where(batch.scored.cumsum(1) > shared, ld_alpha, per_token)
    chosen, rejected = (batch.policy * per_token).sum(1).chunk(2)
    ref_chosen, ref_rejected = (batch.reference * per_token).sum(1).chunk(2)
    plain = None if ld_alpha is None else batch.policy.sum(1).chunk(2)[0]
    return Pairs(chosen, rejected, *count, ref_chosen, ref_rejected, plain)


@pytest.fixture(scope="module")
def trl() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental" is a warning at import
        from trl import DPOTrainer, KTOTrainer
        from trl.experimental.cpo import CPOTrainer
        from trl.experimental.orpo import ORPOTrainer
    return SimpleNamespace(dpo=DPOTrainer, kto=KTOTrainer, cpo=CPOTrainer, orpo=ORPOTrainer)


def stand_in(**more: Any) -> SimpleNamespace:
    """What TRL's `_compute_loss` reads of its trainer, and no more."""
    same: Callable[[Tensor], Tensor] = lambda x: x  # noqa: E731
    return SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **more,
    )


def head(per_token: Tensor) -> Callable[..., SimpleNamespace]:
    rest = torch.zeros_like(per_token).detach()
    outputs = SimpleNamespace(
        log_probs=per_token, entropy=rest, mean_logits=rest, is_top1=torch.zeros_like(rest, dtype=torch.bool)
    )
    return lambda **_: outputs


def trl_loss(
    trl: SimpleNamespace,
    batch: SimpleNamespace,
    names: list[str],
    how: Settings,
    ld_alpha: float | None = None,
    loss_weights: list[float] | None = None,
) -> Tensor:
    reference = pairs_of(batch, ld_alpha)
    trainer = stand_in(
        ld_alpha=ld_alpha,
        f_divergence_type=how.f_divergence_type,
        f_alpha_divergence_coef=how.f_alpha_divergence_coef,
        loss_types=names,
        loss_weights=loss_weights or [1.0] * len(names),
        beta=how.beta,
        label_smoothing=how.label_smoothing,
        use_weighting=False,
        args=SimpleNamespace(discopop_tau=how.discopop_tau),
    )
    inputs = {
        "input_ids": batch.mask,
        "attention_mask": torch.ones_like(batch.mask),
        "completion_mask": batch.mask,
        "ref_chosen_logps": reference.ref_chosen,
        "ref_rejected_logps": reference.ref_rejected,
    }
    return trl.dpo._compute_loss(trainer, head(batch.policy), inputs, False)


def agree(found: Tensor, expected: Tensor, batch: SimpleNamespace, tolerance: float) -> None:
    """The same number, and the same gradient on every token that counts."""
    ours, theirs = (
        torch.autograd.grad(x, batch.policy, retain_graph=True)[0] * batch.scored for x in (found, expected)
    )
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_the_fifteen_are_those_of_trl(trl: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="Unknown loss type") as raised:
        trl_loss(trl, tokens(0), ["no such loss"], Settings())
    named = str(raised.value).split("one of ")[1]
    assert named == str(list(FIFTEEN))
    assert tuple(PAIRED)[:15] == FIFTEEN


@pytest.mark.parametrize("beta", [0.1, 2.5])
@pytest.mark.parametrize("name", FIFTEEN)
def test_the_fifteen_equal_trl(trl: SimpleNamespace, name: str, beta: float) -> None:
    how = replace(SMOOTH, beta=beta)
    for seed in range(4):
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
            if name == "exo_pair" and dtype == torch.float64:
                tolerance = 1e-7  # TRL holds the smoothing in float32
            batch = tokens(seed, dtype)
            found, _ = combine(terms([name]), pairs_of(batch), how)
            assert found.dtype == dtype
            agree(found, trl_loss(trl, batch, [name], how), batch, tolerance)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", [name for name in FIFTEEN if PAIRED[name].diverges])
def test_f_divergences_equal_trl(trl: SimpleNamespace, name: str, divergence: Divergence) -> None:
    for coefficient in (0.5, 1.0, 2.0):
        how = replace(SMOOTH, f_divergence_type=divergence, f_alpha_divergence_coef=coefficient)
        check(terms([name]), replace(how, label_smoothing=0.1 if PAIRED[name].smooths else 0.0))
        batch = tokens(3)
        found, _ = combine(terms([name]), pairs_of(batch), how)
        # exp(x) - 1 as TRL writes it loses digits that expm1 keeps.
        agree(found, trl_loss(trl, batch, [name], how), batch, 5e-6)


@pytest.mark.parametrize("name", FIFTEEN)
def test_length_desensitised_sums_equal_trl(trl: SimpleNamespace, name: str) -> None:
    batch = tokens(5)
    found, _ = combine(terms([name]), pairs_of(batch, 0.3), SMOOTH)
    agree(found, trl_loss(trl, batch, [name], SMOOTH, 0.3), batch, 1e-6)


def test_several_losses_equal_trl(trl: SimpleNamespace) -> None:
    names, weights = ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.5]  # MPO, arXiv 2411.10442
    batch = tokens(6)
    found, parts = combine(terms(names, weights), pairs_of(batch), Settings())
    agree(found, trl_loss(trl, batch, names, Settings(), None, weights), batch, 1e-6)
    assert list(parts) == names
    assert found.item() == pytest.approx(
        sum(w * x.item() for w, x in zip(weights, parts.values(), strict=True))
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("name", "theirs"), [("cpo", "sigmoid"), ("cpo_hinge", "hinge"), ("cpo_ipo", "ipo"), ("simpo", "simpo")]
)
def test_cpo_and_simpo_equal_trl(trl: SimpleNamespace, name: str, theirs: str, smoothing: float) -> None:
    batch = tokens(7)
    pairs, how = pairs_of(batch), Settings(beta=0.7, label_smoothing=smoothing, simpo_gamma=0.4)
    nll = -batch.policy[:6].sum() / batch.scored[:6].sum()
    sums = pairs.chosen, pairs.rejected
    means = average(pairs.chosen, pairs.chosen_length), average(pairs.rejected, pairs.rejected_length)
    logps = means if PAIRED[name].length_normalised else sums
    trainer = stand_in(
        alpha=0.0, cpo_alpha=0.3, loss_type=theirs, beta=0.7, label_smoothing=smoothing, simpo_gamma=0.4
    )
    trainer.cpo_loss = lambda *x: trl.cpo.cpo_loss(trainer, *x)
    trainer.concatenated_forward = lambda *_: (*logps, torch.zeros(1), torch.zeros(1), nll)
    expected, _ = trl.cpo.get_batch_loss_metrics(trainer, None, {})
    found, _ = combine(terms([name], sft_weight=0.3), pairs, how)
    agree(found, expected, batch, 1e-6)


def test_orpo_equals_trl(trl: SimpleNamespace) -> None:
    batch = tokens(8)
    pairs = pairs_of(batch)
    logps = average(pairs.chosen, pairs.chosen_length), average(pairs.rejected, pairs.rejected_length)
    ratio, *_ = trl.orpo.odds_ratio_loss(stand_in(beta=0.1), *logps)
    nll = -batch.policy[:6].sum() / batch.scored[:6].sum()
    found, parts = combine(terms(["orpo"]), pairs, Settings())
    agree(found, nll - ratio.mean(), batch, 1e-6)
    torch.testing.assert_close(PAIRED["orpo"](pairs, Settings()), -ratio, rtol=1e-6, atol=1e-6)
    assert list(parts) == ["orpo", "sft"]


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_kto_equals_trl(trl: SimpleNamespace, name: str) -> None:
    batch = tokens(9)
    how = Settings(desirable_weight=1.3, undesirable_weight=0.8)
    label = torch.tensor([1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1]).bool()
    reference = batch.reference.sum(1)
    shift = torch.linspace(0.5, 3, 12)  # a mean of 1.75 over the reference
    trainer = stand_in(
        calculate_KL=name == "kto",
        _compute_kl_logps=lambda *_: reference + shift,
        loss_type=name,
        beta=0.1,
        desirable_weight=1.3,
        undesirable_weight=0.8,
    )
    inputs = {
        "input_ids": batch.mask,
        "attention_mask": torch.ones_like(batch.mask),
        "completion_mask": batch.mask,
        "label": label,
        "ref_logps": reference,
        "ref_KL_logps": reference,
    }
    expected = trl.kto._compute_loss(trainer, head(batch.policy), inputs, False)
    rows = Rows(batch.policy.sum(1), batch.scored.sum(1), reference, label, shift.mean())
    found, _ = combine([Term(UNPAIRED[name])], rows, how)
    agree(found, expected, batch, 1e-6)


def test_where_trl_gives_no_number(trl: SimpleNamespace) -> None:
    """Why `discopop`, `forward_kl` and `orpo` are written otherwise than there."""
    batch = tokens(1)
    batch.reference = batch.reference + 500 * batch.scored
    assert trl_loss(trl, batch, ["discopop"], replace(SMOOTH, beta=1.0)).isnan()
    how = replace(SMOOTH, f_divergence_type="forward_kl")
    assert trl_loss(trl, batch, ["sigmoid"], how).isnan()
    logp = torch.tensor([-1e-9], requires_grad=True)
    ratio, *_ = trl.orpo.odds_ratio_loss(stand_in(beta=0.1), logp, torch.tensor([-1.0]))
    assert torch.autograd.grad(ratio.sum(), logp)[0].isnan()
