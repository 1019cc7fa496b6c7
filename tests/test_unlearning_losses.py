"""Losses of forgetting against arithmetic written out, and the vocabulary's KL against torch.distributions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from data.errors import RecipeError
from trainers.engine import tiles, vocabulary_kl
from trainers.engine.logprobs import completion_log_probs
from trainers.engine.vocabulary_kl import KLDirection, head_kl, logits_kl
from trainers.losses import Term, combine, step0, totals
from trainers.losses.inputs import Pairs, Rows, Settings
from trainers.losses.known import UNPAIRED
from trainers.losses.unlearning import (
    METHODS,
    FlatDivergence,
    answer_means,
    answer_sums,
    flat,
    idk_dpo,
    mean_probability,
    npo_weight,
    simnpo_weight,
)

DIRECTIONS: tuple[KLDirection, ...] = get_args(KLDirection)
FLATS: tuple[FlatDivergence, ...] = get_args(FlatDivergence)
LN2 = math.log(2)
F64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def rows(*logps: float, lengths: tuple[int, ...], reference: tuple[float, ...] | None = None) -> Rows:
    return Rows(tensor(*logps), torch.tensor(lengths), None if reference is None else tensor(*reference))


# ---------------------------------------------------------------- ga and npo


def test_gradient_ascent_is_minus_the_mean_token_nll() -> None:
    batch = rows(-6.0, -1.0, lengths=(3, 1))
    found, _ = combine([Term(UNPAIRED["ga"])], batch, Settings())
    assert found.item() == pytest.approx(-7 / 4, rel=1e-12)  # not the mean of -2 and -1
    nll, _ = combine([Term(UNPAIRED["nll"])], batch, Settings())
    assert found.item() == -nll.item()


def test_gradient_ascent_over_micro_batches_is_that_of_the_step() -> None:
    whole = rows(-6.0, -1.0, -8.0, lengths=(3, 1, 2))
    parts = [rows(-6.0, -1.0, lengths=(3, 1)), rows(-8.0, lengths=(2,))]
    over = totals(parts[0]) + totals(parts[1])
    of = [Term(UNPAIRED["ga"])]
    summed = sum(combine(of, part, Settings(), over=over)[0].item() for part in parts)
    assert (
        summed == pytest.approx(combine(of, whole, Settings())[0].item(), rel=1e-12) == pytest.approx(-15 / 6)
    )


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_npo_where_policy_and_reference_agree(beta: float) -> None:
    how = Settings(beta=beta)
    batch = rows(-6.0, -31.0, lengths=(3, 9), reference=(-6.0, -31.0))
    assert UNPAIRED["npo"](batch, how).tolist() == pytest.approx([2 / beta * LN2] * 2, rel=1e-12)
    assert npo_weight(batch, how).tolist() == [1.0, 1.0]


def test_the_gradient_of_npo_is_its_weight() -> None:
    how = Settings(beta=0.3)
    logps, reference = tensor(-50.0, -7.0, -2.0), tensor(-5.0, -6.0, -9.0)
    batch = Rows(logps.requires_grad_(), torch.tensor([5, 2, 3]), reference)
    (slope,) = torch.autograd.grad(UNPAIRED["npo"](batch, how).sum(), logps)
    power, ref_power = (logps.detach() * 0.3).exp(), (reference * 0.3).exp()
    by_definition = 2 * power / (power + ref_power)
    torch.testing.assert_close(slope, by_definition, rtol=1e-12, atol=0)
    torch.testing.assert_close(npo_weight(batch, how), by_definition, rtol=1e-12, atol=0)
    # Forgotten: hardly pushed any more. Not yet: at most twice as hard as gradient ascent.
    assert slope[0] < 3e-6
    assert 1 < slope[2] < 2


def test_npo_pushes_like_gradient_ascent_as_beta_goes_to_0() -> None:
    logps, reference, lengths = (
        tensor(-30.0, -3.0, -12.0),
        tensor(-5.0, -20.0, -12.0),
        torch.tensor([7, 3, 4]),
    )
    batch = Rows(logps.requires_grad_(), lengths, reference)
    by_token, _ = combine([Term(UNPAIRED["ga"])], batch, Settings())
    (ascent,) = torch.autograd.grad(by_token, logps)
    assert ascent.tolist() == [1 / 14] * 3
    for beta, near in ((1e-2, 0.2), (1e-4, 2e-3), (1e-6, 2e-5)):
        mean, _ = combine([Term(UNPAIRED["npo"])], batch, Settings(beta=beta))
        (slope,) = torch.autograd.grad(mean, logps)
        # One direction; longer by the 14 / 3 tokens of an answer.
        torch.testing.assert_close(slope, ascent * 14 / 3, rtol=near, atol=0)
        shifted = mean.item() - 2 / beta * LN2
        assert shifted == pytest.approx((logps - reference).mean().item(), abs=100 * near)


def test_simnpo_and_its_weight() -> None:
    how = Settings(beta=4.5, simnpo_gamma=0.5)
    logps = tensor(-6.0, -1.0).requires_grad_()
    batch = Rows(logps, torch.tensor([3, 4]))
    loss = UNPAIRED["simnpo"](batch, how)
    # -(2/4.5) log sigma(4.5 * 2 - 0.5), and with 4.5 * 0.25 - 0.5.
    assert loss.tolist() == pytest.approx(
        [2 / 4.5 * math.log1p(math.exp(-x)) for x in (8.5, 0.625)], rel=1e-12
    )
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    assert slope.tolist() == pytest.approx(
        [2 / 3 / (1 + math.exp(8.5)), 2 / 4 / (1 + math.exp(0.625))], rel=1e-12
    )
    torch.testing.assert_close(simnpo_weight(batch, how), slope, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- idk_dpo


def test_idk_dpo_is_dpo_times_2_over_beta() -> None:
    # log-ratios +3 of the template and -5 of the answer to forget: a margin of 8.
    pairs = Pairs(
        tensor(-7.0), tensor(-15.0), torch.tensor([4]), torch.tensor([6]), tensor(-10.0), tensor(-10.0)
    )
    assert idk_dpo(pairs, Settings(beta=0.1)).item() == pytest.approx(
        20 * math.log1p(math.exp(-0.8)), rel=1e-12
    )
    same = replace(pairs, ref_chosen=pairs.chosen, ref_rejected=pairs.rejected)
    method: Any = METHODS["idk_dpo"].forget
    assert (
        method(same, Settings(beta=0.1)).item()
        == pytest.approx(20 * LN2)
        == step0([Term(method)], Settings())
    )


# ---------------------------------------------------------------- flat


def sech2(x: float) -> float:
    return 1 / math.cosh(x) ** 2


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# g*(P_e), f*(g*(P_f)) by composing the printed g* and f*, and the two weights of the table.
TABLE: dict[str, Any] = {
    "kl": (lambda v: v, lambda u: math.exp(u - 1), lambda e: 1.0, lambda f: math.exp(f - 1)),
    "tv": (lambda v: math.tanh(v) / 2, lambda u: u, lambda e: sech2(e) / 2, lambda f: sech2(f) / 2),
    "js": (
        lambda v: LN2 - math.log(1 + math.exp(-v)),
        lambda u: -math.log(2 - math.exp(u)),
        lambda e: sigma(-e),
        lambda f: sigma(f),
    ),
    "pearson": (lambda v: v, lambda u: u**2 / 4 + u, lambda e: 1.0, lambda f: 1 + f / 2),
}


@pytest.mark.parametrize("divergence", FLATS)
def test_flat_is_its_table(divergence: FlatDivergence) -> None:
    reward, conjugate, template_weight, forget_weight = TABLE[divergence]
    for e, f in ((0.0, 1.0), (0.3, 0.6), (0.99, 0.01), (1.0, 0.0), (0.5, 0.5)):
        template, forget = tensor(e).requires_grad_(), tensor(f).requires_grad_()
        loss = flat(template, forget, divergence)
        assert loss.item() == pytest.approx(-(reward(e) - conjugate(reward(f))), abs=1e-12)
        up, down = torch.autograd.grad(loss.sum(), (template, forget))
        assert -up.item() == pytest.approx(template_weight(e), abs=1e-12)
        assert down.item() == pytest.approx(forget_weight(f), abs=1e-12)
        assert up.item() < 0 < down.item()  # the template rises, the answer to forget falls


def test_flat_refuses_what_would_learn_the_answer() -> None:
    for name in ("reverse_kl", "squared_hellinger", "neyman"):
        with pytest.raises(RecipeError, match="would learn the answer"):
            flat(tensor(0.5), tensor(0.5), name)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RecipeError, match="no divergence 'renyi'"):
        flat(tensor(0.5), tensor(0.5), "renyi")  # pyright: ignore[reportArgumentType]


def test_why_they_are_refused() -> None:
    """Their variational forms on probabilities: f*(g*(v)) is -1 - v, e^-v - 1 and 2 - 2 e^(v/2)."""
    for reward, penalty in (
        (lambda v: -v.exp(), lambda v: -1 - v),
        (lambda v: 1 - v.exp(), lambda v: (-v).exp() - 1),
        (lambda v: 1 - v.exp(), lambda v: 2 - 2 * (v / 2).exp()),
    ):
        template, forget = tensor(0.2).requires_grad_(), tensor(0.7).requires_grad_()
        up, down = torch.autograd.grad(penalty(forget) - reward(template), (template, forget))
        assert up.item() > 0 > down.item()


# ---------------------------------------------------------------- answers' own tokens


def test_means_run_over_an_answers_own_tokens() -> None:
    logps = tensor(0.5, 0.25, 0.25, 0.9, 0.1).log()
    offsets = torch.tensor([0, 3, 3, 5])
    assert mean_probability(logps, offsets).tolist() == pytest.approx([1 / 3, 0.0, 0.5], rel=1e-12)
    assert answer_sums(logps.exp(), offsets).tolist() == pytest.approx([1.0, 0.0, 1.0], rel=1e-12)
    assert answer_means(logps, offsets)[0].item() == pytest.approx(-5 * LN2 / 3, rel=1e-12)


@pytest.mark.parametrize("engine", ["padded", "packed", "tree"])
def test_prompts_and_padding_do_not_count(engine: Any) -> None:
    from tests.test_logprobs import build, naive
    from trainers.engine import engines

    model = build()
    engines.install(model, engine)
    draw = torch.Generator().manual_seed(5)

    def ids(n: int) -> list[int]:
        return torch.randint(3, 97, (n,), generator=draw).tolist()

    groups: Any = [(ids(3), [ids(4), ids(2)]), (ids(17), [ids(9)])]
    token = completion_log_probs(model, groups)
    together = mean_probability(token.tokens, token.offsets)
    with torch.no_grad():
        for (prompt, answer), found in zip(
            ((p, a) for p, answers in groups for a in answers), together.tolist(), strict=True
        ):
            alone = naive(model, [(prompt, [answer])]).exp()
            assert len(alone) == len(answer)
            assert found == pytest.approx(alone.mean().item(), rel=1e-9)


# ---------------------------------------------------------------- KL


def heads(seed: int = 0, count: int = 11, width: int = 6, vocabulary: int = 23) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=F64)

    return {
        "hidden": normal(count, width),
        "weight": normal(vocabulary, width),
        "ref_hidden": normal(count, width),
        "ref_weight": normal(vocabulary, width),
        "bias": normal(vocabulary),
        "ref_bias": normal(vocabulary),
    }


def plain(of: dict[str, Tensor], direction: KLDirection, scale: float, softcap: float | None) -> Tensor:
    """The same by torch.distributions, with all logits."""
    found = []
    for prefix in ("", "ref_"):
        logits = of[prefix + "hidden"] @ of[prefix + "weight"].T * 1.0
        if prefix + "bias" in of:
            logits = logits + of[prefix + "bias"]
        logits = logits * scale
        found.append(
            Categorical(logits=logits if softcap is None else softcap * torch.tanh(logits / softcap))
        )
    policy, reference = found
    return (
        kl_divergence(reference, policy)
        if direction == "reference_to_policy"
        else kl_divergence(policy, reference)
    )


def kl(of: Any, direction: KLDirection, scale: float = 1.0, softcap: float | None = None) -> Tensor:
    return head_kl(**of, direction=direction, scale=scale, softcap=softcap)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_kl_of_logits(direction: KLDirection) -> None:
    of = heads()
    logits, ref_logits = of["hidden"] @ of["weight"].T, of["ref_hidden"] @ of["ref_weight"].T
    found = logits_kl(logits, ref_logits, direction)
    without_bias = {name: value for name, value in of.items() if "bias" not in name}
    torch.testing.assert_close(found, plain(without_bias, direction, 1.0, None), rtol=1e-12, atol=1e-13)
    assert bool((found > 0).all())
    assert bool((logits_kl(logits, logits, direction) == 0).all())


def test_which_way_round() -> None:
    policy, reference = tensor(0.5, 0.5).log()[None], tensor(0.9, 0.1).log()[None]
    to_policy = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    to_reference = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert logits_kl(policy, reference, "reference_to_policy").item() == pytest.approx(to_policy, rel=1e-12)
    assert logits_kl(policy, reference, "policy_to_reference").item() == pytest.approx(
        to_reference, rel=1e-12
    )
    with pytest.raises(RecipeError, match="kl_direction is 'forward'"):
        logits_kl(policy, reference, "forward")  # pyright: ignore[reportArgumentType]


HOW = [(True, 1.0, None), (True, 0.4, 5.0), (False, 1.7, None)]


@pytest.mark.parametrize(("biased", "scale", "softcap"), HOW)
@pytest.mark.parametrize("learns", [True, False], ids=["learning", "frozen"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_kl_in_pieces_is_the_kl(
    direction: KLDirection,
    learns: bool,
    biased: bool,
    scale: float,
    softcap: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = heads()
    if not biased:
        del of["bias"], of["ref_bias"]
    wanted = ["hidden", *(name for name in ("weight", "bias") if learns and name in of)]
    for name in wanted:
        of[name].requires_grad_()
    upstream = torch.linspace(-1, 2, 11, dtype=F64)
    expected = plain(of, direction, scale, softcap)
    slopes = torch.autograd.grad(expected @ upstream, [of[name] for name in wanted])
    for size in (3, 100):

        def cut(count: int, vocabulary: int, device: object, size: int = size) -> list[slice]:
            return [slice(i, min(i + size, count)) for i in range(0, count, size)]

        monkeypatch.setattr(tiles, "pieces", cut)
        found = kl(of, direction, scale, softcap)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        ours = torch.autograd.grad(found @ upstream, [of[name] for name in wanted])
        for name, one, other in zip(wanted, ours, slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_kl_of_a_model_to_itself_is_0_and_so_is_its_gradient(direction: KLDirection) -> None:
    of = heads()
    hidden = of["hidden"].float().requires_grad_()
    weight = of["weight"].float()
    found = head_kl(hidden, weight, hidden, weight, direction)
    assert bool((found == 0).all())
    (slope,) = torch.autograd.grad(found.sum(), hidden)
    assert bool((slope == 0).all())
    assert found.dtype == torch.float32
    assert not head_kl(
        of["hidden"], of["weight"], of["ref_hidden"], of["ref_weight"], direction
    ).requires_grad


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_kl_in_half_precision_and_under_autocast(direction: KLDirection) -> None:
    of = {name: value.bfloat16() for name, value in heads().items()}
    exact = plain({name: value.double() for name, value in of.items()}, direction, 1.0, None)
    found = kl(of, direction)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0.02)
    wide = {name: value.float().requires_grad_() for name, value in of.items()}
    with torch.autocast("cpu", torch.bfloat16):
        under = kl(wide, direction)
    torch.testing.assert_close(under, found, rtol=0, atol=0)
    slopes = torch.autograd.grad(under.sum(), [wide["hidden"], wide["weight"], wide["bias"]])
    assert all(slope.dtype == torch.float32 and bool(slope.isfinite().all()) for slope in slopes)
    reference = [value for name, value in wide.items() if name.startswith("ref_")]
    slopes = torch.autograd.grad(kl(wide, direction).sum(), reference, allow_unused=True)
    assert slopes == (None, None, None)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_memory_does_not_grow_with_the_rows(direction: KLDirection, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of the vocabulary's width has more rows than a piece, forward and backward."""
    of = heads(count=300, vocabulary=4099)
    seen: list[int] = []
    true = vocabulary_kl._divergence

    def watching(rows: Tensor, *more: Any) -> Any:
        seen.append(len(rows))
        return true(rows, *more)

    monkeypatch.setattr(vocabulary_kl, "_divergence", watching)
    monkeypatch.setattr(tiles, "pieces", lambda n, v, d: [slice(i, i + 32) for i in range(0, n, 32)])
    hidden, weight = of["hidden"].requires_grad_(), of["weight"].requires_grad_()
    found = head_kl(hidden, weight, of["ref_hidden"], of["ref_weight"], direction)
    kept = [t for t in found.grad_fn.saved_tensors if t is not None]  # pyright: ignore
    assert max(t.numel() for t in kept) == 4099 * 6  # the heads themselves; the logits would be 300 x 4099
    found.sum().backward()
    assert max(seen) == 32
    assert len(seen) == 2 * 10


# ---------------------------------------------------------------- the methods


def test_what_each_method_needs() -> None:
    needs = {
        name: (m.needs_reference(None), m.template, m.beta, m.gamma, m.alpha) for name, m in METHODS.items()
    }
    assert needs == {
        "ga": (False, False, None, 1.0, 0.0),
        "graddiff": (False, False, None, 1.0, 1.0),
        "npo": (True, False, 0.1, 1.0, 1.0),
        "simnpo": (False, False, 4.5, 0.125, 1.0),
        "idk_dpo": (True, True, 0.1, 1.0, 1.0),
        "flat": (False, True, None, 1.0, 0.0),
    }
    assert all(method.needs_reference("kl") for method in METHODS.values())
    assert not METHODS["graddiff"].needs_reference("nll")
