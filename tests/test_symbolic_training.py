"""Losses stated as logic, trained: against the losses they are and against arithmetic; and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.errors import RecipeError, UserError
from pipelines.recipe import load
from tests.training import pair_rows, run_prefer, weights
from trainers import losses
from trainers.config import PreferOptions
from trainers.logic.lookup import named
from trainers.logic.named import LATTICE, registry
from trainers.logic.stated import Stated, state
from trainers.losses.objective import Objective
from trainers.training import watching
from trainers.work import Work

Batch = losses.Pairs
CONFIG = SimpleNamespace(
    f_divergence_type="reverse_kl",
    f_alpha_divergence_coef=0.5,
    discopop_tau=0.05,
    use_weighting=False,
)


def options(**given: Any) -> PreferOptions:
    return PreferOptions(model="tiny", **given)


def objective(**given: Any) -> Objective:
    return Objective(options(**given), CONFIG)


def batch(size: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """Sums over 5 to 40 tokens at 0.2 to 4 nats each; policy and reference near one another."""
    make = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(5, 40, (size,), generator=make) for _ in range(2)]
    sums = [-(0.2 + 3.8 * torch.rand(size, generator=make, dtype=torch.float64)) * n for n in lengths]
    moved = [x + torch.randn(size, generator=make, dtype=torch.float64) for x in sums]
    return Batch(*(x.to(dtype) for x in sums), *lengths, *(x.clamp(max=-0.01).to(dtype) for x in moved))


def rows(of: Objective, pairs: Batch) -> torch.Tensor:
    """The first summand, row by row."""
    return of.terms[0].loss(pairs, of.settings)


def total(of: Objective, pairs: Batch) -> torch.Tensor:
    return losses.combine(of.terms, pairs, of.settings)[0]


def averages(pairs: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return pairs.chosen / pairs.chosen_length, pairs.rejected / pairs.rejected_length


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


# The arithmetic of the sixteen, from probabilities and not from their logarithms.
RATIO: dict[str, Callable[[Any, Any], Any]] = {
    "CEUnl": lambda w, x: w * (1 - x) / (x + (1 - x) * (1 - w)),
    "sCE": lambda w, x: w / (x + (1 - x) * (1 - w)),
    "l3": lambda w, x: w * (1 - x) / (1 - w),
    "CE": lambda w, x: w / (1 - w),
    "cUNL": lambda w, x: w * (1 - x) / x,
    "l20": lambda w, x: (1 - x) / (x + (1 - x) * (1 - w)),
    "fUnl": lambda w, x: (1 - x) / x,
    "ORPO": lambda w, x: w * (1 - x) / (x * (1 - w)),
    "CPO": lambda w, x: w / x,
    "l14": lambda w, x: (x * w + 1 - x) / x,
    "l5": lambda w, x: (x * w + 1 - x) / (x + (1 - x) * (1 - w)),
    "qfUnl": lambda w, x: (1 - x) / (1 - w),
    "bCPO": lambda w, x: (x * w + 1 - x) / (1 - w),
    "cfUnl": lambda w, x: (1 - x) / (x * (1 - w)),
    "cCPO": lambda w, x: w / (x * (1 - w)),
    "unCPO": lambda w, x: (x * w + 1 - x) / (x * (1 - w)),
}
COLLAPSE = {"fUnl", "cfUnl", "unCPO", "l14"}
"""Satisfied by two improbable answers: named in the specification, derived in the code."""


def test_dpo_is_sigmoid_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        pairs = batch(200, dtype=dtype)
        stated, known = objective(loss="dpo", beta=0.3), objective(beta=0.3)
        assert torch.equal(rows(stated, pairs), rows(known, pairs))
        assert [term.loss.name for term in stated.terms] == ["DPO"]
        assert losses.step0(stated.terms, stated.settings) == math.log(2)


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        # TRL adds the likelihood with weight 1 to cpo and orpo; a stated loss has none that it does not need.
        ({"loss": "cpo", "beta": 0.2, "sft_weight": 1.0}, {"loss_type": "cpo", "beta": 0.2}),
        ({"loss": "orpo", "beta": 1.0, "sft_weight": 1.0}, {"loss_type": "orpo", "beta": 1.0}),
        # TRL's gamma stands inside the sigmoid, the offset beside rho: gamma is beta times the offset.
        (
            {"loss": {"formula": "SimPO", "offset": 0.3, "beta": 2.5}},
            {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.75},
        ),
        ({"loss": {"formula": "ipo", "average_log_prob": True}}, {"loss_type": "ipo"}),
        (
            {"loss": {"formula": "dpo", "average_log_prob": True, "beta": 3}},
            {"loss_type": "sigmoid_norm", "beta": 3},
        ),
        ({"loss": {"formula": "cpo", "link": "squared", "average_log_prob": True}, "sft_weight": 1.0},
         {"loss_type": "cpo_ipo"}),
    ],
)  # fmt: skip
def test_equal_where_the_definitions_agree(stated: dict[str, Any], known: dict[str, Any]) -> None:
    one, other = objective(**stated), objective(**known)
    pairs = batch()
    same(total(one, pairs), total(other, pairs))
    assert one.needs_reference == other.needs_reference


def test_where_the_definitions_differ() -> None:
    pairs = batch()
    a, b = pairs.chosen, pairs.rejected
    # TRL's hinge is relu(1 - beta rho), SLiC's max(0, beta - rho): beta times the SLiC of 1 / beta.
    trl = rows(objective(loss_type="cpo_hinge", beta=0.25), pairs)
    slic = rows(objective(loss="slic", beta=0.25), pairs)
    same(slic, (0.25 - (a - b)).clamp(min=0))
    assert (trl - slic).abs().max() > 0.5
    same(trl, 0.25 * rows(objective(loss="slic", beta=4.0), pairs))
    same(
        rows(objective(loss_type="hinge", beta=0.25), pairs),
        0.25 * rows(objective(loss={"formula": "dpo", "link": "hinge", "beta": 4.0}), pairs),
    )
    # ORPO's beta stands before the logarithm in TRL, and before rho here.
    orpo = rows(objective(loss_type="orpo", beta=0.2), pairs)
    same(orpo, 0.2 * rows(objective(loss="orpo", beta=1.0), pairs))
    assert (orpo - rows(objective(loss="orpo", beta=0.2), pairs)).abs().max() > 0.1
    # IPO of sums, as its paper has it, is another loss than TRL's of averages.
    summed = rows(objective(loss="ipo", beta=0.1), pairs)
    ratio = (a - pairs.ref_chosen) - (b - pairs.ref_rejected)  # pyright: ignore
    same(summed, (ratio - 5) ** 2)
    assert (summed - rows(objective(loss_type="ipo"), pairs)).abs().max() > 1


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("name", RATIO)
def test_the_sixteen_by_arithmetic(name: str, reference: bool) -> None:
    spelled = (f"REF-{name}" if reference else name).swapcase()
    pairs, one = batch(), objective(loss=spelled, beta=0.7)
    # CPO and DPO are sums of log-probs and so are taken as sums; all others use 1 - p.
    a, b = (pairs.chosen, pairs.rejected) if name == "CPO" else averages(pairs)
    odds = torch.log(RATIO[name](a.exp(), b.exp()))
    if reference:
        ref = Batch(pairs.ref_chosen, pairs.ref_rejected, pairs.chosen_length, pairs.rejected_length)  # pyright: ignore
        ra, rb = (ref.chosen, ref.rejected) if name == "CPO" else averages(ref)
        odds = odds - (ra - rb)
    torch.testing.assert_close(rows(one, pairs), torch.log1p(torch.exp(-0.7 * odds)), rtol=1e-9, atol=1e-12)
    assert one.needs_reference == reference
    weight = {term.loss.name: term.weight for term in one.terms}.get("sft", 0.0)
    assert weight == (0.01 if name in COLLAPSE else 0.0)


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ({"formula": "Loser -> Winner", "given": "W | L", "also": "W and L"}, "CPO"),
        ({"formula": "~winner => not Loser", "given": "L or Winner", "also": "~(~L | ~W)"}, "CPO"),
        ({"formula": "l ⇒ w ∧ (l ∨ w)", "given": "w ⊕ l"}, "ORPO"),
        ({"formula": "(L & (Judge -> Judge)) -> W"}, None),
        ({"formula": "(X | ~X) & (L -> W)"}, None),
        (
            {
                "formula": "(Ref.Winner & Loser) -> (Ref.Loser & Winner)",
                "given": "(Ref.Winner & Loser) | (Ref.Loser & Winner)",
                "also": "Ref.Winner & Loser & Ref.Loser & Winner",
            },
            "DPO",
        ),
        ({
                "formula": "~(ref.w & l) or (reference.Loser and w)",
                "given": "(rw & l) ^ (rl & w) | (rw & l & rl & w)",
                "also": "rw & l & rl & w",
            },
            "DPO"),
    ],
)  # fmt: skip
def test_a_formula_is_its_truth_table(formula: dict[str, str], name: str | None) -> None:
    if name is None:
        with pytest.raises(RecipeError, match="is no prediction of a row"):
            state(options(loss=formula).loss)  # pyright: ignore[reportArgumentType]
        return
    pairs = batch()
    one, other = objective(loss=formula, beta=0.4), objective(loss=name, beta=0.4)
    if one.stated and other.stated and one.stated.structure != other.stated.structure:
        pytest.fail(f"{one.stated.structure.core().texts()} is not {name}")
    assert torch.equal(rows(one, pairs), rows(other, pairs))
    assert one.needs_reference == other.needs_reference


def test_atoms_that_simplify_away_need_no_reference() -> None:
    one = objective(loss="(Loser & (Ref.Winner | ~Ref.Winner)) -> Winner")
    assert not one.needs_reference
    pairs = batch()
    bare = Batch(pairs.chosen, pairs.rejected, pairs.chosen_length, pairs.rejected_length)
    assert torch.equal(rows(one, bare), rows(objective(loss="unCPO"), bare))
    with pytest.raises(UserError, match="ref_chosen"):
        rows(objective(loss="dpo"), bare)


@pytest.mark.parametrize("name", [*registry(), "L -> W"])
def test_gradients(name: str) -> None:
    given: dict[str, Any] = {"formula": name, "beta": 0.6}
    if name in ("R-DPO", "ODPO"):
        given |= {"offset": 0.3, "length_alpha": 0.02}
    one, pairs = objective(loss=given), batch(4)

    def value(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return rows(
            one,
            Batch(
                chosen,
                rejected,
                pairs.chosen_length,
                pairs.rejected_length,
                pairs.ref_chosen,
                pairs.ref_rejected,
            ),
        )

    leaves = [x.clone().requires_grad_() for x in (pairs.chosen, pairs.rejected)]
    assert torch.autograd.gradcheck(value, leaves, atol=1e-6)


def test_margins() -> None:
    pairs = batch()
    ratio = (pairs.chosen - pairs.ref_chosen) - (pairs.rejected - pairs.ref_rejected)  # pyright: ignore
    longer = (pairs.chosen_length - pairs.rejected_length).double()

    def logistic(x: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.exp(-x))

    odpo = objective(loss={"formula": "odpo", "offset": 0.8, "beta": 0.5})
    same(rows(odpo, pairs), logistic(0.5 * (ratio - 0.8)))
    assert losses.step0(odpo.terms, odpo.settings) == pytest.approx(math.log1p(math.exp(0.4)))
    rdpo = objective(loss={"formula": "r-dpo", "length_alpha": 0.05, "beta": 0.5})
    torch.testing.assert_close(rows(rdpo, pairs), logistic(0.5 * ratio + 0.05 * longer), rtol=1e-6, atol=1e-9)
    assert losses.step0(rdpo.terms, rdpo.settings) is None
    # The same margin by a model of one's own, and by subtraction: one loss.
    made = {"formula": "(L & Ref.W & Gap.W) -> (W & Ref.L & Gap.L)", "given": "L & rw & Gap.W | W & rl & Gap.L",
            "also": "W & L & rw & rl & Gap.W & Gap.L", "offset": 0.8, "beta": 0.5}  # fmt: skip
    plain = {"formula": "dpo", "offset": 0.8, "beta": 0.5}
    for loss in (made, plain):
        same(rows(objective(loss=loss), pairs), rows(odpo, pairs))
        assert objective(loss=loss).needs_reference
        assert losses.step0(objective(loss=loss).terms, CONFIG) == pytest.approx(  # pyright: ignore
            math.log1p(math.exp(0.4))
        )
    assert not objective(loss="simpo").needs_reference


def test_the_value_at_step_0_is_that_of_a_policy_that_is_its_reference() -> None:
    pairs = batch()
    tied = Batch(
        pairs.chosen, pairs.rejected, pairs.chosen_length, pairs.rejected_length, pairs.chosen, pairs.rejected
    )
    known: set[str] = set()
    for name in registry():
        given = {"formula": name, "offset": 0.3} if name in ("R-DPO", "ODPO") else {"formula": name}
        one = objective(loss=given, sft_weight=0)
        expected = losses.step0(one.terms, one.settings)
        found = rows(one, tied)
        if expected is None:
            assert found.std() > 1e-4, name  # the data decide it
        else:
            known.add(name)
            torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-9, atol=1e-9)
    assert known == {"DPO", "IPO", "R-DPO", "ODPO", "DPOP", "NPO"}


def test_low_precision_and_autocast_stay_outside() -> None:
    pairs, one = batch(dtype=torch.float32), objective(loss="cCPO")
    half = Batch(
        *(x.bfloat16() for x in (pairs.chosen, pairs.rejected)), pairs.chosen_length, pairs.rejected_length
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rows(one, pairs)
        assert rows(one, half).dtype == torch.float32
    assert found.dtype == torch.float32
    assert torch.equal(found, rows(one, pairs))


def test_what_is_clamped_and_saturated_is_counted() -> None:
    one = objective(loss={"formula": "orpo", "floor": 1e-3, "beta": 2.0})
    ones = torch.ones(3, dtype=torch.long)
    chosen = torch.tensor([-1e-9, -1e-5, -1.0], requires_grad=True)
    found = rows(one, Batch(chosen, torch.tensor([-1.5, -20.0, -0.7]), ones, ones))
    found.sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.isfinite().all()
    counts = {name: (float(value), count) for name, (value, count) in one.counts().items()}
    # Two of six values of 1 - p at the floor. rho = log(w/(1-w)) - log(l/(1-l)).
    assert counts["clamped"] == (2.0, 6)
    floor = math.log(1 / 1e-3) - 1e-3
    rho = [
        floor - math.log(math.exp(-1.5) / (1 - math.exp(-1.5))),
        floor + 20,
        math.log(math.exp(-1) / (1 - math.exp(-1))) - math.log(math.exp(-0.7) / (1 - math.exp(-0.7))),
    ]
    assert counts["rho"] == (pytest.approx(sum(rho), rel=1e-3), 3)
    assert counts["saturated"] == (sum(2 * abs(x) > 30 for x in rho), 3) == (1, 3)
    assert one.counts() == {}
    # TRL's orpo has the same floor; dpo has none.
    for name, clamped in (("orpo", True), ("sigmoid", False)):
        known = objective(loss_type=name)
        rows(known, batch())
        assert ("clamped" in known.counts()) == clamped


REFUSED = [
    ({"loss": {"formula": "cCPO", "average_log_prob": False}}, r"loss.average_log_prob: .*1 - p.*\n.*allow_sums"),
    ({"loss": {"formula": "cCPO", "allow_sums": True}}, r"loss.allow_sums: .*average_log_prob: false"),
    ({"loss": "cCPO", "loss_type": "ipo"}, r"`loss` and `loss_type` exclude each other"),
    ({"loss": "cCPO", "label_smoothing": 0.1}, r"`label_smoothing` is read by the losses of `loss_type`"),
    ({"loss": "cCPO", "loss_weights": (1.0,)}, r"`loss_weights` is read by"),
    ({"loss": "simpo", "simpo_gamma": 1.0}, r"write `offset:`"),
    ({"loss": "R-DPO"}, r"R-DPO subtracts a margin of its own .*\n.*`offset:`.*`length_alpha:`"),
    ({"loss": "odpo"}, r"ODPO subtracts a margin of its own"),
    ({"loss": {"formula": "ipo", "length_alpha": 0.1}}, r"loss.length_alpha: .*squared link"),
    ({"loss": "dpoo"}, r"no loss is called 'dpoo'\n.*did you mean DPO"),
    ({"loss": {"formula": "dpo", "given": "W"}}, r"loss.given: DPO brings its own conditions"),
    ({"loss": "W -> (L"}, r"loss.formula, character 8: expected a connective or '\)', found the end"),
    ({"loss": {"formula": "L -> W", "also": "W & Losr"}}, r"loss.also, character 5: `Losr` is no .*mean Loser\?"),
    ({"loss": {"formula": "Judge.W -> W", "given": "Other.W", "offset": 1.0}}, r"`Judge.Winner` is no prediction"),
    ({"loss": {"formula": "L -> W", "given": "L -> W"}}, r"loss.formula: degenerate"),
    ({"loss": {"formula": "L -> W", "also": "T"}}, r"loss.formula: constant"),
    ({"loss": "Ref.L -> Ref.W"}, r"no atom belongs to the model in training"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "says"), REFUSED)
def test_refusals(given: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        objective(**given)


def test_a_divergence_is_refused_too() -> None:
    config = SimpleNamespace(**{**vars(CONFIG), "f_divergence_type": "js_divergence"})
    with pytest.raises(RecipeError, match="DPO has no form for f_divergence_type"):
        Objective(options(loss="dpo"), config)


def test_sums_on_demand() -> None:
    """With sums over tokens 1 - p is 1: cCPO turns into CPO, which is why they must be asked for."""
    one = objective(loss={"formula": "cCPO", "average_log_prob": False, "allow_sums": True})
    pairs = batch()
    torch.testing.assert_close(
        rows(one, pairs), rows(objective(loss="cpo", beta=1.0), pairs), rtol=1e-2, atol=1e-2
    )
    deep = Batch(pairs.chosen - 300, pairs.rejected - 300, pairs.chosen_length, pairs.rejected_length)
    assert torch.equal(rows(one, deep), rows(objective(loss="cpo", beta=1.0), deep))


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    work = Work(out=tmp_path, say=said.append)
    objective(loss="fUnl").tell(work)
    assert work.resolved["average_log_prob"]["value"] is True
    assert work.resolved["sft_weight"]["value"] == 0.01
    text = "\n".join(said)
    assert "loss: fUnl: -log sigmoid(beta * rho), rho = log (1-l) / l, beta 1, averages" in text
    assert "the chosen answer has no gradient" in text
    said.clear()
    objective(loss="simpo").tell(work)
    assert "log(rw/rl) = 0.5" in said[0]
    said.clear()
    objective(loss={"formula": "fUnl", "sft_weight": 0.2, "average_log_prob": True}).tell(
        Work(out=tmp_path, say=said.append)
    )
    assert not any(line.startswith(("sft_weight", "average_log_prob")) for line in said)
    objective().tell(Work(out=tmp_path, say=pytest.fail))


def test_options_are_the_same_after_a_round_trip() -> None:
    for given in (
        {"loss": "cCPO"},
        {"loss": "cCPO", "beta": 0.5},
        {"loss": {"formula": "L -> W", "beta": 0.5}},
        {"loss": "dpo"},
    ):
        one = options(**given)
        again = PreferOptions.model_validate(json.loads(json.dumps(one.model_dump(mode="json"))))
        assert again == one
        assert again.loss is not None
        assert again.loss.beta == again.beta == state(again.loss).beta
    assert [options(loss=name).beta for name in ("cCPO", "dpo", "simpo", "L -> W")] == [1.0, 0.1, 2.0, 1.0]
    assert options(loss="cCPO", beta=0.5).beta == 0.5


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Every line the trainer logs."""
    lines: list[dict[str, float]] = []
    monkeypatch.setattr(watching.Teller, "on_log", lambda self, *a, logs=None, **k: lines.append(dict(logs)))
    return lines


def _column(logged: list[dict[str, float]], name: str = "loss") -> list[float]:
    return [line[name] for line in logged if name in line]


@pytest.mark.parametrize("how", [{}, {"use_peft": True, "lora_r": 4}])
def test_training_on_dpo_is_training_on_sigmoid(
    how: dict[str, Any], tmp_path: Path, logged: list[dict[str, float]]
) -> None:
    run_prefer(tmp_path / "known", "tiny", loss_type="sigmoid", **how)
    known = _column(logged)
    logged.clear()
    found = run_prefer(tmp_path / "stated", "tiny", loss="DPO", **how)
    assert len(known) == 6
    assert _column(logged) == pytest.approx(known, abs=1e-6)
    assert known[-1] < known[0]
    expected = weights(tmp_path / "known" / "model")
    trained = weights(tmp_path / "stated" / "model")
    assert trained.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-6)
    assert found["rho"] == pytest.approx(found["rewards/margins"] / 0.1, rel=1e-5)
    assert found["saturated"] == 0
    assert "clamped" not in found


@pytest.fixture(scope="module")
def measured() -> Batch:
    """Log-probabilities of all of `pair_rows` under `tiny`, by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainers.aliases import resolve

    folder = str(resolve("tiny"))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    def score(prompt: Any, answer: Any) -> tuple[float, int]:
        start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template([*prompt, *answer], return_dict=False)
        assert whole[: len(start)] == start
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0, :-1]
        logps = logits.log_softmax(-1)[torch.arange(len(whole) - 1), torch.tensor(whole[1:])]
        return logps[len(start) - 1 :].sum().item(), len(whole) - len(start)

    found = [[score(row["prompt"], row[side]) for side in ("chosen", "rejected")] for row in pair_rows()]
    sums = [torch.tensor([pair[i][0] for pair in found], dtype=torch.float64) for i in range(2)]
    lengths = [torch.tensor([pair[i][1] for pair in found]) for i in range(2)]
    return Batch(*sums, *lengths)


def _slow_but(quick: set[str]) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in LATTICE]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("name", _slow_but({"CPO", "ORPO", "unCPO"}))
def test_every_loss_of_the_lattice_trains(
    name: str, reference: bool, tmp_path: Path, measured: Batch, logged: list[dict[str, float]]
) -> None:
    """The first value is that of the arithmetic on log-probabilities taken apart; the second is lower."""
    spelled = f"ref-{name}" if reference else name
    found = run_prefer(
        tmp_path, "tiny", loss=spelled, max_steps=2, per_device_train_batch_size=24,
        learning_rate=5e-3, use_peft=True, lora_r=4,
    )  # fmt: skip
    curve = _column(logged)
    a, b = (measured.chosen, measured.rejected) if name == "CPO" else averages(measured)
    odds = torch.log(RATIO[name](a.exp(), b.exp()))
    if reference:
        odds = odds - (a - b)
    beta = named(spelled).beta
    first = torch.log1p(torch.exp(-beta * odds)).mean().item()
    if name in COLLAPSE:
        first += 0.01 * (-measured.chosen.sum() / measured.chosen_length.sum()).item()
    assert found["first_loss"] == pytest.approx(first, rel=2e-5)
    assert curve[0] == pytest.approx(first, rel=2e-5)
    assert len(curve) == 2
    assert math.isfinite(curve[1])
    assert curve[1] < curve[0]
    assert ("reference_gap" in found) == reference
    assert _column(logged, "rho")[0] == pytest.approx(odds.mean().item(), rel=2e-5, abs=1e-5)
    assert ("clamped" in found) == (name != "CPO")


RECIPE = Path(__file__).parent.parent / "recipes" / "symbolic.yaml"


def test_the_example_recipe_says_what_it_says() -> None:
    stages = {stage.name: stage for stage in load(RECIPE).stages}
    stated: dict[str, Stated] = {}
    for name in ("by-name", "by-formula", "unlike"):
        stage: Any = stages[name]
        stated[name] = state(stage.loss, stage.sft_weight)
    assert stated["by-name"].structure == stated["by-formula"].structure == named("DPO").structure
    assert [one.beta for one in stated.values()] == [0.1, 0.1, 1.0]
    assert [one.sft_weight for one in stated.values()] == [0.0, 0.01, 0.01]
    unlike = stated["unlike"]
    assert (unlike.structure, unlike.averages, unlike.needs_reference) == (
        named("cfUnl").structure,
        True,
        False,
    )


def test_it_is_judged_without_torch() -> None:
    code = (
        "import sys; from pipelines.recipe import load; load(sys.argv[1]); "
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(RECIPE)],
        cwd=RECIPE.parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_the_example_recipe_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPE.parent.parent)}
    command = [sys.executable, "-m", "pipelines.cli", "run", str(RECIPE)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {name: json.loads((tmp_path / "runs/symbolic" / name / "done.json").read_text())
            for name in ("by-name", "by-formula", "unlike")}  # fmt: skip
    assert told["by-name"]["metrics"]["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert told["by-formula"]["metrics"]["first_loss"] > math.log(2)  # and 0.01 of the likelihood
    assert "reference_gap" not in told["unlike"]["metrics"]
    assert told["unlike"]["resolved"]["sft_weight"]["value"] == 0.01
    assert told["unlike"]["config"]["loss"]["beta"] == told["unlike"]["config"]["beta"] == 1.0
