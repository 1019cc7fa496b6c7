"""The compiled losses: accuracy against 100 digits, gradients, the clamp, precision, values at step 0."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import mpmath
import pytest
import torch

from data.errors import RecipeError
from tests.test_logic_table import QUAD, TABLE, by_marks
from trainers.logic import links
from trainers.logic.algebras import Floats, Mpmath, rho
from trainers.logic.compiled import ClampCount, CompiledLoss, compile_named, log1mexp
from trainers.logic.expansion import Expansion, expand, fold
from trainers.logic.lookup import named
from trainers.logic.measure import check_units, constants, measure, step0_value
from trainers.logic.named import registry
from trainers.logic.structure import Structure, from_core, from_sides, reference_form

AVERAGES, SUMS = (-6.0, -0.02), (-400.0, -5.0)
HARD = (0.0, -1e-9, -1e-4, -400.0)


def _draws(seed: int, n: int, within: tuple[float, float], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low, high = within
    x = low + (high - low) * torch.rand(len(QUAD), n, generator=generator, dtype=torch.float64)
    return dict(zip(QUAD, x.to(dtype), strict=True))


def _exact(name: str, logps: Mapping[str, torch.Tensor], reference: bool) -> list[mpmath.mpf]:
    """rho by the closed form of the table in 100 digits, never by our expansion."""
    found = []
    for a, b, ra, rb in zip(*(logps[atom].tolist() for atom in QUAD), strict=True):
        ratio = TABLE[name].ratio(mpmath.exp(mpmath.mpf(a)), mpmath.exp(mpmath.mpf(b)))
        found.append(mpmath.log(ratio) - (mpmath.mpf(ra) - mpmath.mpf(rb) if reference else 0))
    return found


def _error(name: str, within: tuple[float, float], dtype: torch.dtype, n: int) -> float:
    worst = 0.0
    for reference in (False, True):
        plain = by_marks(TABLE[name].marks)
        loss = CompiledLoss(reference_form(plain) if reference else plain)
        logps = _draws(1, n, within, dtype)
        # 400 digits: with sums, 1 - p differs from 1 only after 170 of them.
        with mpmath.workdps(400 if within == SUMS else 100):
            exact = _exact(name, logps, reference)
            found = loss.rho(logps).tolist()
            worst = max([worst, *(abs(float(x - y)) for x, y in zip(found, exact, strict=True))])
    return worst


@pytest.mark.parametrize("name", TABLE)
def test_float64_against_a_hundred_digits(name: str) -> None:
    assert _error(name, AVERAGES, torch.float64, 60) < 1e-12
    assert _error(name, SUMS, torch.float64, 15) < 1e-12


@pytest.mark.parametrize("name", TABLE)
def test_float32_averages(name: str) -> None:
    assert _error(name, AVERAGES, torch.float32, 100) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_accuracy_on_many_draws(name: str) -> None:
    assert _error(name, AVERAGES, torch.float64, 1000) < 1e-12
    assert _error(name, SUMS, torch.float64, 200) < 1e-12
    assert _error(name, AVERAGES, torch.float32, 2000) < 5e-6


def test_random_structures_in_floats_and_in_a_hundred_digits() -> None:
    rng = random.Random(2)
    for _ in range(60):
        t, b = rng.randrange(1, 1 << 16), rng.randrange(1, 1 << 16)
        if t == b:
            continue
        structure = Structure(t, b, QUAD)
        logps = {name: rng.uniform(*AVERAGES) for name in QUAD}
        with mpmath.workdps(100):
            p = {name: mpmath.exp(mpmath.mpf(x)) for name, x in logps.items()}
            rows = [
                mpmath.fprod(p[name] if row >> i & 1 else 1 - p[name] for i, name in enumerate(QUAD))
                for row in range(16)
            ]
            sides = [mpmath.fsum(x for r, x in enumerate(rows) if mask >> r & 1) for mask in (t, b)]
            exact = mpmath.log(sides[0] / sides[1])
            digits = Mpmath(mpmath, {name: mpmath.mpf(x) for name, x in logps.items()})
            expansion: Expansion = expand(structure)
            expanded = fold(expansion.top, digits) - fold(expansion.bottom, digits)
            assert abs(expanded - exact) < mpmath.mpf(10) ** -95
            assert abs(rho(expansion, logps) - exact) < 1e-12


@pytest.mark.parametrize("within", [AVERAGES, SUMS])
def test_cpo_and_dpo_are_exactly_the_sums_a_person_would_write(within: tuple[float, float]) -> None:
    x = _draws(3, 200, within, torch.float64)
    a, b, ra, rb = (x[name] for name in QUAD)
    assert torch.equal(CompiledLoss(named("CPO").structure).rho(x), a - b)
    assert torch.equal(CompiledLoss(named("DPO").structure).rho(x), (a - ra) - (b - rb))
    expected = -torch.nn.functional.logsigmoid(0.1 * ((a - ra) - (b - rb)))
    torch.testing.assert_close(compile_named(named("DPO"))(x), expected, rtol=0, atol=1e-12)


def _inputs(loss: CompiledLoss, seed: int = 5, n: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (-3 * torch.rand(n, generator=generator, dtype=torch.float64) - 0.2).requires_grad_()
        for name in loss.inputs
    }


@pytest.mark.parametrize("name", registry())
def test_gradcheck(name: str) -> None:
    loss = compile_named(named(name))
    logps = _inputs(loss)

    def run(*values: torch.Tensor) -> torch.Tensor:
        return loss(dict(zip(logps, values, strict=True)), named(name).offset)

    assert torch.autograd.gradcheck(run, tuple(logps.values()))


@pytest.mark.parametrize("name", registry())
def test_the_torch_free_gradient_is_the_gradient(name: str) -> None:
    entry = named(name)
    loss = compile_named(entry)
    logps = _inputs(loss, n=1)
    value = loss(logps, entry.offset)
    value.sum().backward()
    made = constants(entry.constant, entry.offset) if entry.constant else {}
    found = measure(
        entry.structure,
        {atom: x.item() for atom, x in logps.items()} | made,
        link=entry.link,
        beta=entry.beta,
        scale=entry.scale(entry.beta),
    )
    assert found.loss == pytest.approx(value.item(), rel=1e-12, abs=1e-12)
    for atom, x in logps.items():
        assert x.grad is not None
        assert found.grad[atom] == pytest.approx(x.grad.item(), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", registry())
def test_values_and_gradients_are_finite_where_probabilities_are_0_or_1(
    name: str, dtype: torch.dtype
) -> None:
    loss = compile_named(named(name))
    atoms = loss.inputs
    grid = torch.cartesian_prod(*[torch.tensor(HARD)] * len(atoms)).reshape(-1, len(atoms))
    logps = {atom: grid[:, i].to(dtype).clone().requires_grad_() for i, atom in enumerate(atoms)}
    value = loss(logps, named(name).offset)
    assert value.isfinite().all()
    value.sum().backward()
    for x in logps.values():
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_log1mexp_and_its_slope() -> None:
    x = torch.tensor([-1e-3, -0.1, -0.69, -0.7, -5.0, -40.0], dtype=torch.float64, requires_grad=True)
    y = log1mexp(x)
    y.sum().backward()
    assert x.grad is not None
    with mpmath.workdps(50):
        for point, value, slope in zip(x.tolist(), y.tolist(), x.grad.tolist(), strict=True):
            p = mpmath.exp(mpmath.mpf(point))
            assert value == pytest.approx(float(mpmath.log(1 - p)), rel=1e-14)
            assert slope == pytest.approx(float(-p / (1 - p)), rel=1e-14)


def test_the_clamp_bounds_the_gradient_and_is_counted() -> None:
    loss = CompiledLoss(from_core("W"), beta=1.0, floor=1e-4)  # CE: a - log(1-w)
    w = torch.tensor([0.0, -1e-9, -1e-5, -1e-3, -1.0], requires_grad=True)
    rho_value = loss.rho({"Winner": w})
    assert (loss.clamps.clamped, loss.clamps.values) == (3, 5)
    rho_value.sum().backward()
    assert w.grad is not None
    assert w.grad.max() == pytest.approx(1 + 1e4, rel=1e-3)
    assert w.grad[3] == pytest.approx(1 + 1 / math.expm1(1e-3), rel=1e-4)
    loss.rho({"Winner": w.detach()})
    assert (loss.clamps.clamped, loss.clamps.values) == (6, 10)
    loss.clamps.reset()
    assert loss.clamps == ClampCount()
    # A loss without 1 - p has nothing to clamp.
    plain = CompiledLoss(named("CPO").structure)
    plain.rho({"Winner": w, "Loser": w})
    assert plain.clamps.values == 0


def test_low_precision_is_raised_and_autocast_kept_out() -> None:
    loss = CompiledLoss(named("ORPO").structure, beta=1.0)
    x = {"Winner": torch.tensor([-1.25]), "Loser": torch.tensor([-1.5])}  # exact in bfloat16
    full = loss(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(x).dtype == torch.float32
        assert torch.equal(loss(x), full)
    half = loss({name: value.bfloat16() for name, value in x.items()})
    assert half.dtype == torch.float32
    assert torch.equal(half, full)
    assert loss({name: value.double() for name, value in x.items()}).dtype == torch.float64


@pytest.mark.parametrize("link", links.LINKS)
def test_links_in_torch_and_in_floats(link: links.Link) -> None:
    loss = CompiledLoss(named("CPO").structure, link, beta=0.7)
    for gap in (-50.0, -0.71, 0.0, 0.3, 1.4, 60.0):
        a = torch.tensor([-70.0 + gap], dtype=torch.float64, requires_grad=True)
        value = loss({"Winner": a, "Loser": torch.tensor([-70.0], dtype=torch.float64)})
        value.sum().backward()
        assert a.grad is not None
        expected = {
            "logistic": math.log1p(math.exp(-0.7 * gap)),
            "squared": (gap - 1 / 1.4) ** 2,
            "hinge": max(0.0, 0.7 - gap),
            "margin": max(0.0, -gap),
        }[link]
        assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert links.value(link, gap, 0.7) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert links.derivative(link, gap, 0.7) == pytest.approx(a.grad.item(), rel=1e-12, abs=1e-18)
    assert math.isfinite(links.value("logistic", -1e6, 1.0))
    assert links.derivative("logistic", -1e6, 1.0) == -1.0


def test_simpo_odpo_rdpo_and_npo_by_their_own_formulas() -> None:
    x = _draws(7, 50, AVERAGES, torch.float64)
    a, b, ra, rb = (x[name] for name in QUAD)
    log_sigmoid = torch.nn.functional.logsigmoid
    pairs = [
        (
            compile_named(named("SimPO"), beta=2.0)({"Winner": a, "Loser": b}, 0.3),
            -log_sigmoid(2 * (a - b - 0.3)),
        ),
        (compile_named(named("ODPO"))(x, 0.8), -log_sigmoid(0.1 * ((a - b) - (ra - rb) - 0.8))),
        (compile_named(named("R-DPO"))(x, -b), -log_sigmoid(0.1 * ((a - b) - (ra - rb) + b))),
        (compile_named(named("NPO"))(x), 20 * torch.log(1 + torch.exp(0.1 * (b - rb)))),
        (compile_named(named("IPO"))(x), ((a - b) - (ra - rb) - 5).square()),
        (compile_named(named("SLiC"))(x), torch.relu(1 - (a - b))),
        (compile_named(named("RRHF"))(x), torch.relu(b - a)),
        (compile_named(named("DPOP"))(x), -log_sigmoid(0.1 * ((a - b) - (ra - rb) - (ra - a)))),
        (compile_named(named("CE"))(x), -a),
        (compile_named(named("CEUnl"))(x), -a - torch.log1p(-b.exp())),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_npo_weight_of_the_gradient() -> None:
    b, rb = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True), torch.tensor([-2.5]).double()
    compile_named(named("NPO"))({"Loser": b, "Ref.Loser": rb}).sum().backward()
    assert b.grad is not None
    assert b.grad.item() == pytest.approx(2 * torch.sigmoid(0.1 * (b - rb)).item(), rel=1e-14)


def test_the_magnitudes_that_the_specification_measured() -> None:
    """d loss / d log p at averages of -1.3 and -1.5, beta 1."""
    at = {"Winner": -1.3, "Loser": -1.5}
    winner = {"l3": -1.1, "CEUnl": -1.0, "CE": -1.0, "CPO": -0.45, "cCPO": -0.51, "qfUnl": -0.18}
    for name, expected in {**winner, "unCPO": -0.073, "l14": -0.015}.items():
        grad = measure(named(name).structure, at).grad
        assert grad["Winner"] == pytest.approx(expected, abs=0.06 if abs(expected) > 0.9 else 0.006), name
    for name, expected in {"cUNL": 0.66, "CPO": 0.45, "cCPO": 0.37, "unCPO": 0.19}.items():
        assert measure(named(name).structure, at).grad["Loser"] == pytest.approx(expected, abs=0.006), name


def test_summed_log_probs_make_the_lattice_degenerate_and_are_refused() -> None:
    at = {"Winner": -130.0, "Loser": -150.0}
    for name in ("fUnl", "l14", "cfUnl", "unCPO"):
        assert measure(named(name).structure, at).loss == pytest.approx(0, abs=1e-12)
    for name in ("l20", "l5", "qfUnl", "bCPO"):
        assert measure(named(name).structure, at).loss == pytest.approx(math.log(2))
    plain = {"CPO", "DPO", "SLiC", "IPO", "SimPO", "R-DPO", "ODPO", "DPOP", "NPO", "RRHF"}
    for name, entry in registry().items():
        if name in plain:
            check_units(entry.structure, averages=False)
            continue
        with pytest.raises(RecipeError, match="summed"):
            check_units(entry.structure, averages=False)
        check_units(entry.structure, averages=True)
        check_units(entry.structure, averages=False, allow_sums=True)


def test_step0_constants() -> None:
    dpo, npo = named("DPO").structure, named("NPO").structure
    assert step0_value(dpo, "logistic", 0.1) == pytest.approx(math.log(2))
    assert step0_value(dpo, "hinge", 1.0) == 1.0
    assert step0_value(dpo, "squared", 0.2) == pytest.approx(1 / (4 * 0.2**2))
    assert step0_value(npo, "logistic", 0.1, scale=20.0) == pytest.approx(20 * math.log(2))
    # SimPO's reference is no model, so its loss does not start at ln 2 though its structure is DPO's.
    simpo = step0_value(dpo, "logistic", 2.0, {"Winner": -1.0, "Loser": -2.0}, constant="Ref", offset=0.4)
    assert simpo == pytest.approx(math.log1p(math.exp(-2 * 0.6)))
    with pytest.raises(RecipeError, match="depends on the log-probs"):
        step0_value(named("CPO").structure, "logistic", 1.0)


@pytest.mark.parametrize("name", registry())
def test_step0_value_is_what_the_loss_gives_while_policy_and_reference_agree(name: str) -> None:
    entry = named(name)
    loss = compile_named(entry)
    generator = torch.Generator().manual_seed(3)
    policy = {
        n: -3 * torch.rand(8, generator=generator, dtype=torch.float64) - 0.1 for n in ("Winner", "Loser")
    }
    same = policy | {f"Ref.{n}": x for n, x in policy.items()}
    offset = torch.linspace(-1, 1, 8, dtype=torch.float64) if entry.constant else 0.0
    expected = step0_value(
        entry.structure,
        entry.link,
        entry.beta,
        policy,
        scale=entry.scale(entry.beta),
        constant=entry.constant,
        offset=offset,
    )
    assert loss(same, offset).mean().item() == pytest.approx(expected, rel=1e-12)
    if not entry.needs_reference:
        return
    # A reference that is another model is seen.
    other = same | {"Ref.Winner": same["Ref.Winner"] - 0.5, "Ref.Loser": same["Ref.Loser"] + 0.2}
    assert abs(loss(other, offset).mean().item() - expected) > 1e-3


def test_step0_reads_tensors_and_refuses_ragged_ones() -> None:
    cpo = named("CPO").structure
    batch = {"Winner": torch.tensor([-1.0, -2.0]), "Loser": torch.tensor([-2.0, -1.0])}
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    assert step0_value(cpo, "logistic", 1.0, batch) == pytest.approx(expected)
    with pytest.raises(RecipeError, match="a batch of 2 needs 2"):
        step0_value(cpo, "logistic", 1.0, {"Winner": [-1.0, -2.0], "Loser": [-1.0]})


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(RecipeError, match=r"Ref\.Loser"):
        CompiledLoss(named("NPO").structure)({"Loser": torch.tensor([-1.0])})
    with pytest.raises(RecipeError, match=r"Ref\.Loser|Loser"):
        CompiledLoss(named("NPO").structure)({})
    with pytest.raises(RecipeError, match="floor"):
        CompiledLoss(named("NPO").structure, floor=0.0)
    with pytest.raises(RecipeError, match="beta is 0"):
        CompiledLoss(named("NPO").structure, beta=0.0)
    with pytest.raises(RecipeError, match="no log-probability of Winner"):
        measure(from_core("W"), {"Winner": 0.5})
    assert compile_named(named("SimPO")).inputs == ("Winner", "Loser")
    assert compile_named(named("ODPO")).inputs == QUAD


def test_a_copied_atom_has_the_value_of_its_prediction_and_adds_to_its_gradient() -> None:
    structure = from_sides("W & W'", "L")
    found = measure(structure, {"Winner": -1.0, "Loser": -0.5}, beta=1.0)
    assert found.rho == -1.5
    assert found.grad["Winner"] == pytest.approx(-2 * found.grad["Loser"])
    w = torch.tensor([-1.0], requires_grad=True)
    CompiledLoss(structure, beta=1.0)({"Winner": w, "Loser": torch.tensor([-0.5])}).sum().backward()
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(found.grad["Winner"], rel=1e-6)


def test_extreme_log_probs_in_floats() -> None:
    for name, entry in registry().items():
        if entry.constant:
            continue
        for a in HARD:
            for b in HARD:
                at = dict(zip(QUAD, (a, b, b, a), strict=True))
                found = measure(entry.structure, at, link=entry.link, beta=entry.beta)
                assert math.isfinite(found.loss), name
                assert all(math.isfinite(x) for x in found.grad.values()), name
    assert Floats({"Winner": -1.0}).add([]) == 0.0
