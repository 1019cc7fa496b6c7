"""Every loss against arithmetic written out, at step 0, under weights and at its edges; TRL in test_trl_losses."""

from __future__ import annotations

import inspect
import itertools
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from data.errors import RecipeError
from trainers.logic.compiled import ClampCount
from trainers.losses import (
    PAIRED,
    UNPAIRED,
    Divergence,
    Loss,
    Pairs,
    Rows,
    Settings,
    Term,
    check,
    combine,
    reduce,
    step0,
    terms,
    totals,
)

DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
BY_ROW = [name for name, loss in PAIRED.items() if not loss.by_rank]
LN2 = math.log(2)
SMOOTH = Settings(label_smoothing=0.1)

# ---------------------------------------------------------------- batches


def numbers(*values: float, lengths: tuple[int, int] = (1, 1), dtype: torch.dtype = torch.float64) -> Pairs:
    """One pair from chosen, rejected and, where given, their references."""
    sums = [torch.tensor([value], dtype=dtype) for value in values]
    chosen, rejected = (torch.tensor([n]) for n in lengths)
    return Pairs(sums[0], sums[1], chosen, rejected, *sums[2:])


def random_pairs(seed: int = 0, n: int = 5, dtype: torch.dtype = torch.float64) -> Pairs:
    draw = torch.Generator().manual_seed(seed)
    sums = (-20 * torch.rand(4, n, generator=draw, dtype=torch.float64) - 1).to(dtype)
    length = torch.randint(1, 20, (2, n), generator=draw)
    return Pairs(sums[0], sums[1], length[0], length[1], sums[2], sums[3])


def random_rows(seed: int = 0, n: int = 6, dtype: torch.dtype = torch.float64) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    sums = (-20 * torch.rand(2, n, generator=draw, dtype=torch.float64) - 1).to(dtype)
    length = torch.randint(1, 20, (n,), generator=draw)
    return Rows(sums[0], length, sums[1], torch.arange(n) % 2 == 0, torch.tensor(0.3, dtype=dtype))


def with_sums(inputs: Any, policy: tuple[Tensor, ...]) -> Any:
    return replace(inputs, **dict(zip(("chosen", "rejected"), policy, strict=True)))


# ---------------------------------------------------------------- arithmetic

# chosen -10 over 5 tokens, rejected -12 over 4, references -11 and -11.5:
# log-ratios 1 and -0.5, averages -2 and -3, log-ratios per token 0.2 and -0.125.
PAIR = (-10.0, -12.0, -11.0, -11.5)
BY_HAND = {
    "sigmoid": (Settings(beta=0.1), math.log(1 + math.exp(-0.15))),
    "hinge": (Settings(beta=0.1), 0.85),
    "ipo": (Settings(beta=0.5), (0.325 - 1) ** 2),
    "sigmoid_norm": (Settings(beta=2.0), math.log(1 + math.exp(-0.65))),
    "sppo_hard": (Settings(beta=0.5), 0.25),
    "bco_pair": (Settings(beta=1.0), math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-0.5))),
    "apo_zero": (Settings(beta=1.0), 1 / (1 + math.e) + 1 / (1 + math.exp(0.5))),
    "cdpo": (SMOOTH, 0.9 * math.log(1 + math.exp(-0.15)) + 0.1 * math.log(1 + math.exp(0.15))),
    "sft": (Settings(), 2.0),
    "cpo": (Settings(beta=0.1), math.log(1 + math.exp(-0.2))),
    "cpo_hinge": (Settings(beta=0.1), 0.8),
    "cpo_ipo": (Settings(beta=0.25), 1.0),
    "simpo": (Settings(beta=2.0, simpo_gamma=0.5), math.log(1 + math.exp(-1.5))),
    # odds e^-2/(1-e^-2) over e^-3/(1-e^-3)
    "orpo": (Settings(beta=0.1), 0.1 * math.log(1 + math.exp(-1) * (1 - math.exp(-2)) / (1 - math.exp(-3)))),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_pairs_by_hand(name: str) -> None:
    how, expected = BY_HAND[name]
    found = PAIRED[name](numbers(*PAIR, lengths=(5, 4)), how)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_forgetting_by_hand() -> None:
    rows = Rows(torch.tensor([-10.0]).double(), torch.tensor([5]), torch.tensor([-13.0]).double())
    # (pi / pi_ref)^beta = e^0.3
    assert UNPAIRED["npo"](rows, Settings(beta=0.1)).item() == pytest.approx(20 * math.log(1 + math.exp(0.3)))
    how = Settings(beta=2.5, simnpo_gamma=0.5)
    # the average is -2: -beta * average - gamma = 4.5
    assert UNPAIRED["simnpo"](rows, how).item() == pytest.approx(0.8 * math.log(1 + math.exp(-4.5)))
    assert UNPAIRED["nll"](rows, how).item() == 2.0


def test_the_gradient_of_npo_is_its_adaptive_weight() -> None:
    """2 pi^beta / (pi^beta + pi_ref^beta): 1 at the start, gone where the answer is forgotten."""
    ratio = torch.tensor([0.0, -5.0, -400.0, 7.0], dtype=torch.float64, requires_grad=True)
    reference = torch.full((4,), -30.0, dtype=torch.float64)
    losses = UNPAIRED["npo"](Rows(ratio + reference, torch.ones(4), reference), Settings(beta=0.1))
    (weight,) = torch.autograd.grad(losses.sum(), ratio)
    expected = [2 / (1 + math.exp(-0.1 * x)) for x in ratio.tolist()]
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=torch.float64))
    assert weight[0] == 1


def test_npo_is_gradient_ascent_at_small_beta() -> None:
    rows, beta = random_rows(), 1e-6
    found = UNPAIRED["npo"](rows, Settings(beta=beta)) - 2 / beta * LN2
    torch.testing.assert_close(found, rows.logps - rows.ref_logps, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- identities


def test_smoothing_of_nothing_changes_nothing() -> None:
    pairs = random_pairs()
    for name in ("cdpo", "robust"):
        torch.testing.assert_close(PAIRED[name](pairs, Settings()), PAIRED["sigmoid"](pairs, Settings()))


@pytest.mark.parametrize("smooth", ["cdpo", "cpo"])
def test_smoothing_mixes_the_pair_and_its_reverse(smooth: str) -> None:
    pairs = random_pairs()
    reverse = Pairs(
        pairs.rejected,
        pairs.chosen,
        pairs.rejected_length,
        pairs.chosen_length,
        pairs.ref_rejected,
        pairs.ref_chosen,
    )
    loss, plain, eps = PAIRED[smooth], Settings(), SMOOTH.label_smoothing
    mixed = (1 - eps) * loss(pairs, plain) + eps * loss(reverse, plain)
    torch.testing.assert_close(loss(pairs, SMOOTH), mixed)
    if smooth == "cdpo":
        # What robust is for: over labels that are wrong with probability eps, it is `sigmoid` on right ones.
        robust = PAIRED["robust"]
        unbiased = (1 - eps) * robust(pairs, SMOOTH) + eps * robust(reverse, SMOOTH)
        torch.testing.assert_close(unbiased, PAIRED["sigmoid"](pairs, plain))


def test_exo_is_a_divergence_from_the_smoothed_label() -> None:
    """0, and flat, exactly where the odds of the pair are (1 - eps) / eps; above 0 elsewhere."""
    best = math.log(0.9 / 0.1) / SMOOTH.beta
    margin = torch.tensor([best, best - 5, best + 5, 0.0], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(4, dtype=torch.float64), torch.ones(4)
    losses = PAIRED["exo_pair"](Pairs(margin, zero, one, one, zero, zero), SMOOTH)
    (slope,) = torch.autograd.grad(losses.sum(), margin)
    assert losses[0].item() == pytest.approx(0, abs=1e-15)
    assert slope[0].item() == pytest.approx(0, abs=1e-15)
    assert bool((losses[1:] > 0).all())


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo", "cpo", "simpo", "orpo", "aot", "discopop"])
def test_a_preferred_answer_that_becomes_likelier_costs_less(name: str) -> None:
    loss, how = PAIRED[name], Settings(beta=0.1)
    low, high = (loss(numbers(chosen, -3.0, -2.0, -2.0), how).item() for chosen in (-2.2, -2.0))
    assert high < low


def test_aot_does_not_mind_the_order_of_the_batch() -> None:
    pairs, turn = random_pairs(), torch.tensor([3, 0, 4, 1, 2])
    assert pairs.ref_chosen is not None
    assert pairs.ref_rejected is not None
    turned = replace(pairs, chosen=pairs.chosen[turn], rejected=pairs.rejected[turn])
    torch.testing.assert_close(PAIRED["aot"](pairs, Settings()), PAIRED["aot"](turned, Settings()))
    turned = replace(pairs, rejected=pairs.rejected[turn], ref_rejected=pairs.ref_rejected[turn])
    for_both = [PAIRED["aot_unpaired"](x, Settings()) for x in (pairs, turned)]
    torch.testing.assert_close(*for_both)


# ---------------------------------------------------------------- step 0


@pytest.mark.parametrize("beta", [0.1, 0.7, 3.0])
def test_the_value_while_policy_and_reference_agree(beta: float) -> None:
    how = replace(SMOOTH, beta=beta)
    pairs = random_pairs()
    pairs = replace(pairs, ref_chosen=pairs.chosen, ref_rejected=pairs.rejected)
    rows = random_rows()
    rows = replace(rows, ref_logps=rows.logps, kl=torch.tensor(0.0))
    checked = 0
    for loss, inputs in [
        *((loss, pairs) for loss in PAIRED.values()),
        *((loss, rows) for loss in UNPAIRED.values()),
    ]:
        term: list[Any] = [Term(loss)]
        expected = step0(term, how)
        assert (expected is None) == (not loss.needs_reference), loss.name
        if expected is not None:
            assert combine(term, inputs, how)[0].item() == pytest.approx(expected, rel=1e-12), loss.name
            for divergence in DIVERGENCES if loss.diverges else ():
                other = replace(how, f_divergence_type=divergence)
                assert combine(term, inputs, other)[0].item() == pytest.approx(expected, rel=1e-12)
            checked += 1
    assert checked == 18


def test_known_values_at_step_0() -> None:
    how = Settings(beta=0.2)
    assert step0(terms(["sigmoid"]), how) == LN2
    assert step0(terms(["hinge"]), how) == 1
    assert step0(terms(["ipo"]), how) == pytest.approx(1 / (4 * 0.04))
    assert step0([Term(UNPAIRED["npo"])], how) == pytest.approx(10 * LN2)
    assert step0(terms(["sigmoid", "hinge"], [0.5, 2.0]), how) == pytest.approx(LN2 / 2 + 2)
    assert step0(terms(["sigmoid", "sft"]), how) is None
    assert step0([Term(UNPAIRED["kto"])], replace(how, desirable_weight=2.0)) is None


# ---------------------------------------------------------------- weights and means


@pytest.mark.parametrize("name", BY_ROW)
def test_weight_two_is_the_row_twice(name: str) -> None:
    pairs = random_pairs()
    twice = torch.tensor([0, 1, 1, 2, 3, 4])
    doubled = Pairs(*(getattr(pairs, f)[twice] for f in list(Pairs.__dataclass_fields__)[:6]))
    of = terms([name])
    found, _ = combine(of, pairs, SMOOTH, weights=torch.tensor([1, 2, 1, 1, 1]))
    expected, _ = combine(of, doubled, SMOOTH)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", UNPAIRED)
def test_weight_two_is_the_row_twice_for_single_answers(name: str) -> None:
    rows = random_rows()
    twice = torch.tensor([0, 1, 1, 2, 3, 4, 5])
    doubled = Rows(*(getattr(rows, f)[twice] for f in ("logps", "length", "ref_logps", "label")), rows.kl)
    of = [Term(UNPAIRED[name])]
    found, _ = combine(of, rows, SMOOTH, weights=torch.tensor([1.0, 2, 1, 1, 1, 1]))
    torch.testing.assert_close(found, combine(of, doubled, SMOOTH)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BY_ROW)
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    pairs, weights = random_pairs(n=6), torch.tensor([1.0, 0.5, 2, 1, 0, 3])
    of = terms([name])
    parts = [
        Pairs(*(getattr(pairs, f)[cut] for f in list(Pairs.__dataclass_fields__)[:6]))
        for cut in (slice(0, 2), slice(2, 6))
    ]
    cuts = weights[:2], weights[2:]
    over = totals(parts[0], cuts[0]) + totals(parts[1], cuts[1])
    summed = sum(combine(of, p, SMOOTH, weights=w, over=over)[0] for p, w in zip(parts, cuts, strict=True))
    torch.testing.assert_close(summed, combine(of, pairs, SMOOTH, weights=weights)[0])


def test_reduce() -> None:
    losses = torch.tensor([1.0, 4.0])
    assert reduce(losses) == 2.5
    assert reduce(losses, torch.tensor([3, 1])) == 1.75
    assert reduce(losses, torch.tensor([3, 1]), total=14) == 0.5
    assert reduce(losses, torch.zeros(2)) == 0


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_sorted_losses_refuse_weights(name: str) -> None:
    with pytest.raises(RecipeError, match="sorts the batch"):
        combine(terms([name]), random_pairs(), SMOOTH, weights=torch.ones(5))
    with pytest.raises(RecipeError, match="sorts the batch"):
        check(terms([name]), SMOOTH, weighted=True)


# ---------------------------------------------------------------- numerics


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", PAIRED)
def test_gradcheck_of_pairs(name: str, divergence: Divergence) -> None:
    loss = PAIRED[name]
    if divergence != "reverse_kl" and not loss.diverges:
        return
    pairs, how = random_pairs(), replace(SMOOTH, f_divergence_type=divergence)
    # Apart from each other, so that no margin is on a kink and no rank changes.
    sums = [x.requires_grad_() for x in (pairs.chosen / 4, pairs.rejected / 4)]
    apart = torch.linspace(-0.4, 0.9, 5, dtype=torch.float64)
    pairs = replace(pairs, ref_chosen=sums[0].detach() + apart, ref_rejected=sums[1].detach() - apart**2)

    def run(*policy: Tensor) -> Tensor:
        return loss(with_sums(pairs, policy), how)

    assert torch.autograd.gradcheck(run, sums)


@pytest.mark.parametrize("name", UNPAIRED)
def test_gradcheck_of_single_answers(name: str) -> None:
    rows = random_rows()
    assert torch.autograd.gradcheck(
        lambda logps: UNPAIRED[name](replace(rows, logps=logps), SMOOTH), [rows.logps.requires_grad_()]
    )


EXTREME = (-1e4, -88.0, -1e-9, 0.0, 1e4)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", PAIRED)
def test_finite_at_extremes(name: str, divergence: Divergence) -> None:
    loss = PAIRED[name]
    if divergence != "reverse_kl" and not loss.diverges:
        return
    grid = torch.tensor(list(itertools.product(EXTREME, repeat=4))).T.contiguous()
    chosen, rejected = (x.clone().requires_grad_() for x in grid[:2])
    length = torch.ones(grid.shape[1])
    for coefficient in (0.5, 2.0):
        how = replace(SMOOTH, f_divergence_type=divergence, f_alpha_divergence_coef=coefficient)
        losses = loss(Pairs(chosen, rejected, length, length, grid[2], grid[3]), how)
        assert bool(losses.isfinite().all())
        # aot's and sft's gradients leave one side out.
        slopes = torch.autograd.grad(losses.sum(), (chosen, rejected), allow_unused=True)
        assert all(bool(slope.isfinite().all()) for slope in slopes if slope is not None)


@pytest.mark.parametrize("name", UNPAIRED)
def test_single_answers_are_finite_at_extremes(name: str) -> None:
    grid = torch.tensor(list(itertools.product(EXTREME, repeat=2))).T.contiguous()
    for wanted in (True, False):
        logps = grid[0].clone().requires_grad_()
        label, length = torch.full(logps.shape, wanted), torch.ones_like(grid[0])
        losses = UNPAIRED[name](Rows(logps, length, grid[1], label, torch.tensor(0.0)), Settings())
        (slope,) = torch.autograd.grad(losses.sum(), logps)
        assert bool(losses.isfinite().all())
        assert bool(slope.isfinite().all())


def test_orpo_counts_its_clamps() -> None:
    clamps = ClampCount()
    pairs = numbers(-1e-9, -2.0)
    PAIRED["orpo"](pairs, Settings(clamps=clamps))
    assert (clamps.values, clamps.clamped) == (2, 1)


@pytest.mark.parametrize("name", PAIRED)
def test_autocast_and_half_precision_change_nothing(name: str) -> None:
    loss, pairs = PAIRED[name], random_pairs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(pairs, SMOOTH)
    assert torch.equal(inside, loss(pairs, SMOOTH))
    assert loss(random_pairs(dtype=torch.bfloat16), SMOOTH).dtype == torch.float32


def test_a_loss_runs_outside_autocast() -> None:
    seen: list[bool] = []

    def function(pairs: Pairs, how: Settings) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return pairs.chosen

    with torch.autocast("cpu", torch.bfloat16):
        Loss("spy", function)(random_pairs(), SMOOTH)
    assert seen == [False]


def test_an_answer_without_tokens_has_average_0() -> None:
    pairs = numbers(0.0, -3.0, 0.0, -3.0, lengths=(0, 3))
    assert PAIRED["ipo"](pairs, Settings(beta=0.5)) == 1
    assert PAIRED["sft"](pairs, Settings()) == 0
    assert PAIRED["simpo"](pairs, Settings(beta=1.0, simpo_gamma=0.0)) == pytest.approx(
        math.log(1 + 1 / math.e)
    )


def test_a_divergence_goes_on_along_its_tangent() -> None:
    """From a log-ratio of -30 down the score of forward_kl grows by e^30 for each unit, and so never goes flat."""
    how = Settings(beta=1.0, f_divergence_type="forward_kl")
    found = [PAIRED["hinge"](numbers(x, 0.0, 0.0, 0.0), how).item() for x in (-30.0, -31.0, -40.0)]
    assert found == pytest.approx([math.exp(30) * n for n in (1, 2, 11)], rel=1e-12)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("names", "how", "what"),
    [
        (["sigmoid"], Settings(beta=0.0), "beta is 0.0"),
        (["sigmoid"], Settings(beta=math.nan), "beta is nan"),
        (["robust"], Settings(label_smoothing=0.5), "label_smoothing is 0.5"),
        (["sigmoid", "hinge"], Settings(label_smoothing=0.1), "no effect on sigmoid, hinge"),
        (["exo_pair"], Settings(), "exo_pair needs label_smoothing"),
        (["discopop"], Settings(discopop_tau=2.0), "discopop_tau"),
        (["sigmoid", "nca_pair"], Settings(f_divergence_type="forward_kl"), "nca_pair has no form"),
    ],
)
def test_settings_without_a_meaning_are_refused(names: list[str], how: Settings, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        check(terms(names), how)


def test_wrong_names_weights_and_inputs_are_refused() -> None:
    with pytest.raises(RecipeError, match="called dpo"):
        terms(["dpo"])
    with pytest.raises(RecipeError, match="1 losses and 2 loss_weights"):
        terms(["sigmoid"], [1.0, 2.0])
    one = torch.ones(1)
    for name, loss in PAIRED.items():
        if loss.needs_reference:
            with pytest.raises(RecipeError, match="needs ref_chosen"):
                loss(Pairs(one, one, one, one), SMOOTH)
        else:
            assert loss(Pairs(one, one, one, one), SMOOTH).shape == (1,), name
    for name in ("npo", "kto", "apo_zero_unpaired"):
        with pytest.raises(RecipeError, match="needs"):
            UNPAIRED[name](Rows(one, one), Settings())
    with pytest.raises(ValueError, match="rejected has shape"):
        Pairs(one, torch.ones(2), one, one)


def test_every_loss_says_in_a_docstring_what_it_is() -> None:
    for loss in (*PAIRED.values(), *UNPAIRED.values()):
        assert inspect.getdoc(loss.function), loss.name
        assert loss.function.__name__ == loss.name
