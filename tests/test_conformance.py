"""Every loss on every engine, adapter and way to save memory: loss and gradients are those of `tests/naive.py`."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import naive
from tests.conformance import HOWS as HOWS_OPTIONS
from tests.conformance import (
    Bench,
    by_hand,
    far,
    judged_rows,
    micro_batches,
    naive_model,
    pair_rows,
    prepared,
    wide_norms,
)
from trainers.config import SMOOTHED, LossType, PreferOptions

HOWS = ("full", "lora", "qlora")
ENGINES = ("padded", "packed", "tree")
CLOSE = 5e-5
"""Relative error of loss and gradients that float32 may have; seen: 3e-6 in full, 2e-5 of adapters, whose gradients
are small differences of large numbers. In float64 the same code is within 1e-10, see below."""
STEEP = 2e-4
"""discopop multiplies a margin by beta / tau, and with it the rounding of its log-probabilities; seen: 7e-5."""

SFT = {"cpo": 1.0, "cpo_hinge": 1.0, "cpo_ipo": 1.0, "orpo": 1.0}
"""Weight of the likelihood that these losses bring, as in TRL."""
UNPAIRED = ("kto", "apo_zero_unpaired")


class Case:
    """A loss with its numbers, on one kind of rows."""

    def __init__(self, name: str, kind: str | None = None, **options: Any) -> None:
        self.names = name.split("+")
        self.judged = self.names[0] in UNPAIRED
        self.kind = kind or ("judged" if self.judged else "pairs")
        extra = {key: options.pop(key) for key in list(options) if key.startswith("f_")}
        self.id = "-".join(
            [name, *([kind] if kind else []), *(f"{k}={v}" for k, v in {**options, **extra}.items())]
        )
        given: dict[str, Any] = {"beta": 0.3, **options}
        if set(self.names) & SMOOTHED:
            given.setdefault("label_smoothing", 0.1)
        if "weighted" in self.kind:
            given["weight_column"] = "agreement"
        self.options = PreferOptions(
            model="tiny", loss_type=tuple(self.names), group_by_prompt="grouped" in self.kind, **given
        )
        self.arguments = extra
        self.how = naive.How(
            **{
                key: getattr(self.options, key)
                for key in (
                    "beta", "label_smoothing", "simpo_gamma", "desirable_weight", "undesirable_weight", "ld_alpha",
                )
            },
            **extra,
        )  # fmt: skip
        weights = self.options.loss_weights or [1.0] * len(self.names)
        self.terms = dict(zip(self.names, weights, strict=True))
        likelihood = self.options.sft_weight
        if likelihood is None:
            likelihood = sum(weight * SFT.get(name, 0.0) for name, weight in self.terms.items())
        if likelihood:
            self.terms["sft"] = self.terms.get("sft", 0.0) + likelihood


CASES = {
    case.id: case
    for case in (
        *(Case(name) for name in get_args(LossType)),
        *(Case(n, ld_alpha=a) for n, a in (("sigmoid", 0.4), ("ipo", 0.0), ("sft", 0.3), ("aot", 0.6))),
        *(
            Case(name, f_divergence_type=kind)
            for name, kind in (
                ("sigmoid", "forward_kl"),
                ("ipo", "js_divergence"),
                ("discopop", "alpha_divergence"),
                ("sigmoid_norm", "forward_kl"),
            )
        ),
        Case("cpo", label_smoothing=0.0, sft_weight=0.0),
        Case("sigmoid", sft_weight=0.7),
        Case("sigmoid+bco_pair+sft", loss_weights=(0.8, 0.2, 1.5)),
        Case("simpo", beta=2.5, simpo_gamma=1.2),
        Case("sigmoid", "weighted", sft_weight=0.5),
        Case("ipo", "weighted", ld_alpha=0.5),
        Case("orpo", "weighted"),
        Case("sigmoid", "grouped", sft_weight=0.5),
        Case("aot", "grouped"),
        Case("apo_zero", "grouped-weighted"),
        Case("kto", "judged", desirable_weight=1.3, undesirable_weight=0.6),
        Case("kto", "judged-weighted"),
        Case("apo_zero_unpaired", "judged-weighted", desirable_weight=0.7),
    )
}
WAYS = list(itertools.product(ENGINES, (False, True), (1, 4)))


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def bench(how: str, engine: str) -> Bench:
        return Bench(tmp_path_factory.mktemp(f"{how}-{engine}"), how, engine)

    return bench


EXPECTED: dict[Any, Any] = {}


def errors(bench: Bench, how: str, case: Case, checkpointing: bool, accumulation: int) -> tuple[float, float]:
    """Relative ones, of the loss and of the gradients."""
    bench.set(case.kind, case.options, case.arguments)
    rows = micro_batches(list(bench.datasets[case.kind]), accumulation)
    loss, grads = bench.step(rows, checkpointing)
    key = how, case.id, accumulation
    if key not in EXPECTED:
        EXPECTED[key] = by_hand(bench.plain_model, case.how, case.terms, rows, case.kind)
    expected, slopes = EXPECTED[key]
    return abs(loss - expected) / max(abs(expected), 1e-3), far(grads, slopes)


def cells() -> list[Any]:
    """Each loss with each kind of weights; over the losses every two of the other choices meet."""
    found = []
    for i, name in enumerate(CASES):
        for j, how in enumerate(HOWS):
            way = WAYS[(5 * i + 7 * j) % len(WAYS)]
            found.append(pytest.param(name, how, *way, id=f"{name}-{how}-{way[0]}-{way[1]:d}-{way[2]}"))
    return found


def close(case: Case) -> float:
    return STEEP if "discopop" in case.names else CLOSE


@pytest.mark.parametrize(("name", "how", "engine", "checkpointing", "accumulation"), cells())
def test_a_step_is_the_naive_one(
    benches: Any, name: str, how: str, engine: str, checkpointing: bool, accumulation: int
) -> None:
    bench = benches(how, engine)
    assert bench.engine == engine
    loss, grads = errors(bench, how, CASES[name], checkpointing, accumulation)
    assert loss < CLOSE
    assert grads < close(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "checkpointing", "accumulation"), WAYS)
@pytest.mark.parametrize("how", HOWS)
def test_every_step_is_the_naive_one(
    benches: Any, how: str, engine: str, checkpointing: bool, accumulation: int
) -> None:
    """The whole product."""
    wrong = {}
    for name, case in CASES.items():
        loss, grads = errors(benches(how, engine), how, case, checkpointing, accumulation)
        if not (loss < CLOSE and grads < close(case)):
            wrong[name] = loss, grads
    assert not wrong


@pytest.mark.parametrize("how", ["qlora-nested", "qlora-stored", "dora"])
def test_other_adapters(benches: Any, how: str) -> None:
    """Double quantisation, 4-bit codes kept as float32, and DoRA."""
    bench = benches(how, "tree")
    assert bench.engine == "tree"
    for name, checkpointing in (("sigmoid", True), ("orpo", False)):
        loss, grads = errors(bench, how, CASES[name], checkpointing, 4)
        assert loss < CLOSE
        assert grads < CLOSE


def test_storage_of_four_bit_codes_is_passed_on(benches: Any) -> None:
    kinds = {}
    for how in ("qlora", "qlora-stored"):
        model = benches(how, "tree").trainer.model
        kinds[how] = {m.weight.dtype for m in model.modules() if hasattr(m, "quant_state")}
    assert kinds == {"qlora": {torch.uint8}, "qlora-stored": {torch.float32}}


@pytest.mark.parametrize("how", HOWS)
def test_what_learns_is_in_float32(benches: Any, how: str) -> None:
    """TRL rounds the adapter of a quantised model to bfloat16, where a step of 1e-6 is lost on all but tiny weights."""
    learning = [p.dtype for p in benches(how, "tree").trainer.model.parameters() if p.requires_grad]
    assert set(learning) == {torch.float32}


@pytest.mark.parametrize("engine", ["packed", "tree"])
def test_in_float64_nothing_is_left(tmp_path: Path, engine: str) -> None:
    """What the cells above allow for is rounding."""
    bench = Bench(tmp_path, "full", engine)
    wide_norms(bench.trainer.model.double())
    model = naive_model(bench.trainer.model)
    for name in ("sigmoid", "discopop", "sigmoid-sft_weight=0.7", "kto", "sigmoid-ld_alpha=0.4"):
        case = CASES[name]
        bench.set(case.kind, case.options, {})
        bench.trainer.batches.reference = lambda p, c: model.reference((tuple(p), tuple(c))).numpy()
        rows = micro_batches(list(bench.datasets[case.kind]), 4)
        loss, grads = bench.step(rows, False)
        expected, slopes = by_hand(model, case.how, case.terms, rows, case.kind)
        assert loss == pytest.approx(expected, rel=1e-10)
        assert far(grads, slopes) < 1e-10


@pytest.mark.parametrize(
    ("how", "engine", "name"), [("lora", "tree", "kto"), ("full", "padded", "sigmoid+sft")]
)
def test_the_loop_hands_these_gradients_to_the_optimiser(
    tmp_path: Path, how: str, engine: str, name: str
) -> None:
    """The first step of a run, from `train()`: four micro-batches in transformers' own loop, checkpointed."""
    from transformers import TrainerCallback

    from trainers.preference import preference_trainer

    case = Case(name)
    rows = judged_rows() if case.judged else pair_rows()
    given = {**HOWS_OPTIONS[how], "engine": engine, "gradient_checkpointing": True, "beta": 0.3}
    given |= {"loss_type": case.options.loss_type, "training": {"train_sampling_strategy": "sequential"}}
    options, work = prepared(tmp_path, rows, **given)
    trainer = preference_trainer(options, "tiny", work)
    model = naive_model(trainer.model)
    seen: dict[str, torch.Tensor] = {}

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            seen.update(
                {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}  # pyright: ignore
            )

    trainer.add_callback(Watch())
    result = trainer.train()
    cut = micro_batches(list(trainer.train_dataset), 4)  # pyright: ignore[reportArgumentType]
    expected, slopes = by_hand(model, case.how, case.terms, cut, case.kind)
    assert result.training_loss == pytest.approx(expected, rel=CLOSE)
    assert far(seen, slopes) < CLOSE


TOKENS = st.integers(3, 900)


@st.composite
def group_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        some = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=16))
        place = st.integers(0, len(some) - 1)
        pairs = draw(st.lists(st.tuples(place, place), min_size=1, max_size=4))
        prompt = draw(st.lists(TOKENS, max_size=5))
        rows.append(
            {"prompt_ids": prompt, "completions": some, "pairs": pairs, "weights": [1.0] * len(pairs)}
        )
    return rows


def _group(prompt: int, several: list[list[int]], pairs: list[tuple[int, int]]) -> list[dict[str, Any]]:
    ids = [3 + i % 800 for i in range(prompt)]
    return [{"prompt_ids": ids, "completions": several, "pairs": pairs, "weights": [1.0] * len(pairs)}]


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=group_rows())
@example(rows=_group(3, [[5, 6]] * 16, [(0, 15)]))
@example(rows=_group(0, [[5], [6, 7], [8, 9, 10]], [(0, 1), (2, 1), (0, 0)]))
@example(rows=_group(500, [list(range(20, 32)), [7]], [(0, 1), (1, 0)]))
def test_groups_of_any_shape(benches: Any, rows: list[dict[str, Any]]) -> None:
    """One-token and identical answers, sixteen of them, no prompt at all, and a row as long as the model reads."""
    case = CASES["sigmoid-sft_weight=0.7"]
    plain = benches("full", "tree").plain_model
    expected, slopes = by_hand(plain, case.how, case.terms, [rows], "grouped")
    for engine in ENGINES:
        bench = benches("full", engine)
        bench.set("grouped", case.options, {})
        bench.trainer.batches.reference = lambda p, c: plain.reference((tuple(p), tuple(c))).float().numpy()
        loss, grads = bench.step([rows], False)
        assert loss == pytest.approx(expected, rel=CLOSE, abs=1e-6)
        assert far(grads, slopes) < CLOSE


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "prompt_ids": st.lists(TOKENS, min_size=1, max_size=3),
                "completion_ids": st.lists(TOKENS, min_size=1, max_size=5),
                "mismatched_ids": st.lists(TOKENS, min_size=1, max_size=5),
                "label": st.booleans(),
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_judged_answers_of_any_shape(benches: Any, rows: list[dict[str, Any]]) -> None:
    case = CASES["kto"]
    plain = benches("full", "tree").plain_model
    expected, slopes = by_hand(plain, case.how, case.terms, [rows], "judged")
    for engine in ENGINES:
        bench = benches("full", engine)
        bench.set("judged", case.options, {})
        bench.trainer.batches.reference = lambda p, c: plain.reference((tuple(p), tuple(c))).float().numpy()
        loss, grads = bench.step([rows], False)
        assert loss == pytest.approx(expected, rel=CLOSE)
        assert far(grads, slopes) < CLOSE
