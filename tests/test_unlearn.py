"""Unlearning against arithmetic written out: losses and gradients, draws, resumes, collapse, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.errors import DataError
from data.ledger import LedgerLimits
from tests.training import HOW, run_sft, sft_rows, weights
from tests.unlearning import (
    TEMPLATED,
    WITHOUT_RETAIN,
    forget_rows,
    prepared,
    retain_rows,
    run_unlearn,
    trainer_of,
)
from trainers.config import UNLEARN_DEFAULTS, AdapterOptions, UnlearnOptions
from trainers.losses.unlearning import METHODS
from trainers.models import load_policy
from trainers.training import watching
from trainers.work import Work

LN2 = math.log(2)
SEED = 42
ROOT = Path(__file__).parent.parent


class Stop(Exception):  # noqa: N818 - it stands for a signal
    """Stands for the process that ends in the middle of training."""


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model that has learned the rows, for each way of training."""
    root = tmp_path_factory.mktemp("sft")
    for how, options in HOW.items():
        run_sft(root / how, max_steps=10, **options)
    return {how: str(root / how / "model") for how in HOW}


def keep(how: str) -> dict[str, Any]:
    """Quantisation is inherited, not asked for again."""
    return {k: v for k, v in HOW[how].items() if k != "load_in_4bit"}


# ---------------------------------------------------------------- the naive computation


def fresh(start: str, how: str, folder: Path) -> Any:
    """The starting policy once more, with its untrained adapter, in float64; 4-bit weights as what they stand for."""
    quiet = Work(out=folder, say=lambda _: None)
    options = UnlearnOptions(model=start, method="npo", **keep(how))
    train = AdapterOptions(**{k: v for k, v in keep(how).items() if k.startswith(("use_peft", "lora"))})
    model: Any = load_policy(start, options, quiet, train=train, exact=True, seed=SEED).model
    model.eval()
    if how == "qlora":
        plain(model)
    return model.double()


def plain(model: Any) -> None:
    """Linear layers with the values that the 4-bit codes stand for."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            coded: Any = module.weight
            weight: Any = dequantize_4bit(coded.data, coded.quant_state)
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
            linear.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
            if module.bias is not None:
                linear.bias = torch.nn.Parameter(module.bias.data.float(), requires_grad=False)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, linear)


def learning(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def nudge(model: Any) -> None:
    """Move what is trained by fixed noise, so that policy and reference differ."""
    with torch.no_grad():
        for name, parameter in sorted(learning(model).items()):
            make = torch.Generator().manual_seed(len(name) + parameter.numel())
            noise = torch.randn(parameter.shape, generator=make, dtype=torch.float64)
            parameter += (0.02 * noise).to(parameter)


def logits_of(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Those that predict the answer's tokens; no padding, no engine."""
    ids = torch.tensor([[*prompt, *answer]])
    return model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()


def token_logps(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    found = logits_of(model, prompt, answer).log_softmax(-1)
    return found[torch.arange(len(answer)), torch.tensor(answer)]


def naive(
    method: str,
    rows: list[dict[str, Any]],
    policy: Any,
    start: Any,
    *,
    gamma: float,
    alpha: float,
    beta: float,
    retain: str | None,
) -> torch.Tensor:
    """The loss of one optimiser step by the definitions of its paper, row by row."""
    terms: list[torch.Tensor] = []
    tokens = 0
    for row in rows:
        prompt, answer = list(row["prompt_ids"]), [list(ids) for ids in row["completions"]]
        mine = [token_logps(policy, prompt, ids) for ids in answer]
        with torch.no_grad():
            ref = [token_logps(start, prompt, ids).sum() for ids in answer]
        log_pi = mine[0].sum()
        if method == "npo":
            terms.append(2 / beta * torch.log1p(torch.exp(beta * (log_pi - ref[0]))))
        elif method == "simnpo":
            terms.append(2 / beta * torch.log1p(torch.exp(beta * log_pi / len(answer[0]))))
        elif method == "idk_dpo":
            margin = (mine[1].sum() - ref[1]) - (log_pi - ref[0])
            terms.append(2 / beta * torch.log1p(torch.exp(-beta * margin)))
        elif method == "flat":
            p_template, p_forget = mine[1].exp().mean(), mine[0].exp().mean()
            terms.append(torch.tanh(p_forget) / 2 - torch.tanh(p_template) / 2)
        else:  # gradient ascent: minus the mean token NLL of the whole step
            terms.append(log_pi)
            tokens += len(answer[0])
    forget = torch.stack(terms).sum() / (tokens or len(terms))
    if retain is None:
        return gamma * forget
    kept: list[torch.Tensor] = []
    for row in rows:
        prompt, answer = list(row["retain_prompt_ids"]), list(row["retain_ids"])
        if retain == "nll":
            kept.append(-token_logps(policy, prompt, answer))
            continue
        now = logits_of(policy, prompt, answer).log_softmax(-1)
        with torch.no_grad():
            then = logits_of(start, prompt, answer).log_softmax(-1)
        first, second = (then, now) if retain == "reference_to_policy" else (now, then)
        kept.append(F.kl_div(second, first, log_target=True, reduction="none").sum(-1))
    return gamma * forget + alpha * torch.cat(kept).mean()


def drawn(trainer: Any, epoch: int) -> list[dict[str, Any]]:
    """An epoch's rows in their order, by the formulas that the draws are documented with."""
    forget, retain = trainer.rows.forget, trainer.rows.retain
    found: list[dict[str, Any]] = []
    for i in np.random.default_rng([SEED, 1, epoch]).permutation(len(forget)).tolist():
        row = forget[i]
        both = "completions" in row
        answers = (
            [row["completions"][0], row["completions"][1:][epoch % 3]] if both else [row["completion_ids"]]
        )
        made = {"prompt_ids": row["prompt_ids"], "completions": answers}
        if retain is not None:
            partner = retain[int(np.random.default_rng([SEED, 2, epoch, i]).integers(len(retain)))]
            made |= {"retain_prompt_ids": partner["prompt_ids"], "retain_ids": partner["completion_ids"]}
        found.append(made)
    return found


def one_step(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The logged loss and the gradients of one optimiser step, before any clipping."""
    from transformers import TrainerCallback

    grads: dict[str, torch.Tensor] = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            grads.update(
                {name: p.grad.clone() for name, p in learning(trainer.model).items() if p.grad is not None}
            )

    trainer.add_callback(Catch())
    trainer.train()
    return next(line["loss"] for line in trainer.state.log_history if "loss" in line), grads


def compare(sft: dict[str, str], tmp_path: Path, how: str, engine: str, accumulate: int, retain: str) -> None:
    kl = {} if retain == "nll" else {"retain_loss_type": "kl", "kl_direction": retain}
    options = {
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "gamma": 0.7,
        "alpha": 1.3,
        "beta": 0.2,
        "engine": engine,
    }
    trainer = trainer_of(
        tmp_path / "stage",
        sft[how],
        "npo",
        gradient_accumulation_steps=accumulate,
        per_device_train_batch_size=8 // accumulate,
        **options,
        **kl,
        **keep(how),
    )
    assert trainer.engine == engine
    nudge(trainer.model)
    trainer.first_loss = 0.0  # the policy is not its reference any more
    # TRL rounds a 4-bit model's new adapter to bfloat16 once: the values themselves are compared from.
    begun = {name: p.detach().clone() for name, p in learning(trainer.model).items()}
    found, grads = one_step(trainer)

    policy, start = fresh(sft[how], how, tmp_path), fresh(sft[how], how, tmp_path)
    assert learning(policy).keys() == begun.keys()
    with torch.no_grad():
        for name, parameter in learning(policy).items():
            parameter.copy_(begun[name])
    rows = drawn(trainer, 0)
    assert len(rows) == 8
    expected = naive("npo", rows, policy, start, gamma=0.7, alpha=1.3, beta=0.2, retain=retain)
    expected.backward()
    assert found == pytest.approx(expected.item(), rel=1e-4)
    true: dict[str, Any] = {name: p.grad for name, p in learning(policy).items()}
    assert true.keys() == grads.keys()
    gap = torch.cat([(grads[n].double() - true[n].double()).flatten() for n in true])
    size = torch.cat([true[n].double().flatten() for n in true])
    assert size.norm() > 1e-3
    assert (gap.norm() / size.norm()).item() < 1e-3


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("engine", ["tree", "padded"])
@pytest.mark.parametrize("how", HOW)
def test_npo_and_its_gradient(
    how: str, engine: str, accumulate: int, sft: dict[str, str], tmp_path: Path
) -> None:
    compare(sft, tmp_path, how, engine, accumulate, "nll")


@pytest.mark.parametrize("direction", ["reference_to_policy", "policy_to_reference"])
@pytest.mark.parametrize("engine", ["tree", "padded"])
@pytest.mark.parametrize("how", HOW)
def test_retain_kl_and_its_gradient(
    how: str, engine: str, direction: str, sft: dict[str, str], tmp_path: Path
) -> None:
    compare(sft, tmp_path, how, engine, 2, direction)


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_of_every_method(method: str, sft: dict[str, str], tmp_path: Path) -> None:
    """The second loss is of the weights after the first step, and of the next rows."""
    from transformers import TrainerCallback

    trainer = trainer_of(tmp_path / "stage", sft["full"], method, max_steps=2)
    first: list[dict[str, torch.Tensor]] = []

    class Catch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            first.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})

    trainer.add_callback(Catch())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]

    beta, gamma = UNLEARN_DEFAULTS.get(method, (0.1, 1.0))
    policy, start = fresh(sft["full"], "full", tmp_path), fresh(sft["full"], "full", tmp_path)
    rows = drawn(trainer, 0)
    retain = None if method in WITHOUT_RETAIN else "nll"
    how: dict[str, Any] = {"gamma": gamma, "alpha": 1.0, "beta": beta, "retain": retain}
    with torch.no_grad():
        assert losses[0] == pytest.approx(
            naive(method, rows[:4], policy, start, **how).item(), rel=2e-4, abs=1e-6
        )
        for name, parameter in policy.named_parameters():
            parameter.copy_(first[0][name])
        assert losses[1] == pytest.approx(
            naive(method, rows[4:], policy, start, **how).item(), rel=2e-4, abs=1e-6
        )


def test_the_defaults_are_those_of_the_methods() -> None:
    for name, method in METHODS.items():
        options = UnlearnOptions(model="tiny", method=name)  # pyright: ignore[reportArgumentType]
        assert options.gamma == method.gamma
        assert (method.alpha == 0) == (name in WITHOUT_RETAIN)
        assert method.template == (name in TEMPLATED)
        assert options.beta == method.beta


def test_figures_of_npo(sft: dict[str, str], tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path / "stage", sft["lora"], "npo", max_steps=2, retain_loss_type="kl", **keep("lora")
    )
    trainer.train()
    first, second = [line for line in trainer.state.log_history if "loss" in line]
    assert first["loss/forget"] == pytest.approx(20 * LN2, abs=1e-4)
    assert first["weights/forget"] == pytest.approx(1.0, abs=1e-4)  # 2 sigmoid(0)
    assert abs(first["retain_kl"]) < 1e-5
    assert second["weights/forget"] < 1
    assert second["logps/forget"] != first["logps/forget"]
    assert first["loss"] == pytest.approx(first["loss/forget"] + first["loss/retain"], abs=1e-5)
    assert trainer.start.copy is None  # no second model


def test_only_answers_are_scored(sft: dict[str, str], tmp_path: Path) -> None:
    """Whatever stands in the prompts: the targets are the answers' tokens and no other."""
    trainer = trainer_of(tmp_path / "stage", sft["full"], "idk_dpo")
    rows = [trainer.train_dataset[i] for i in range(4)]
    batch = trainer.batches(rows)
    scored = set(batch["layout"].targets.tolist())
    answers = [ids for row in rows for ids in [*row["completions"], row["retain_ids"]]]
    bounds = batch["layout"].offsets.tolist()
    found = [batch["layout"].targets[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    for side, which in (("forget", 0), ("template", 1)):
        assert [found[i] for i in batch[side].tolist()] == [list(row["completions"][which]) for row in rows]
    assert [found[i] for i in batch["retain"].tolist()] == [list(row["retain_ids"]) for row in rows]
    assert scored == {token for ids in answers for token in ids}


# ---------------------------------------------------------------- draws and resumes


def test_draws_depend_on_seed_epoch_and_row_alone(sft: dict[str, str], tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "stage", sft["full"], "idk_dpo", num_train_epochs=3, max_steps=-1)
    rows, size = trainer.train_dataset, 8
    first = [rows[i] for i in range(size)]
    assert first == [rows[i] for i in range(size)]
    other = [rows[size + i] for i in range(size)]
    assert [r["prompt_ids"] for r in first] == [r["prompt_ids"] for r in other]
    assert [r["retain_ids"] for r in first] != [r["retain_ids"] for r in other]
    for i in range(size):  # three epochs, three templates: each once
        templates = [tuple(rows[epoch * size + i]["completions"][1]) for epoch in range(3)]
        assert len(set(templates)) == 3
    places = trainer.places
    orders = []
    for epoch in range(2):
        places.set_epoch(epoch)
        orders.append(list(places))
    assert sorted(orders[1]) == list(range(size, 2 * size))
    assert [p - size for p in orders[1]] != orders[0]


def stop_at_5(self: object, args: object, state: object, control: object, **_: object) -> None:
    if state.global_step == 5:  # pyright: ignore
        raise Stop


@pytest.mark.parametrize(
    ("how", "method", "more"),
    [
        pytest.param(
            "full",
            "npo",
            {"training": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}},
            marks=pytest.mark.slow,
        ),
        (
            "lora",
            "npo",
            {"retain_loss_type": "kl", "watch": {"every": 2, "utility_drop": {"action": "warn"}}},
        ),
        pytest.param("qlora", "idk_dpo", {}, marks=pytest.mark.slow),
    ],
)
def test_resume_in_the_middle_of_an_epoch_ends_in_the_same_weights(
    how: str,
    method: str,
    more: dict[str, Any],
    sft: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """12 rows in batches of 4: step 4, from which it goes on, is the first of the second epoch."""
    given: dict[str, Any] = {"max_steps": 7, "save_steps": 2, "forget": forget_rows(12), **keep(how), **more}
    run_unlearn(tmp_path / "straight", sft[how], method, **given)
    with monkeypatch.context() as patched:
        patched.setattr(watching.Teller, "on_step_end", stop_at_5)
        with pytest.raises(Stop):
            run_unlearn(tmp_path / "broken", sft[how], method, **given)
    assert (tmp_path / "broken" / "scratch" / "checkpoints" / "checkpoint-4").is_dir()
    run_unlearn(tmp_path / "broken", sft[how], method, **given)
    straight, resumed = weights(tmp_path / "straight" / "model"), weights(tmp_path / "broken" / "model")
    assert straight.keys() == resumed.keys()
    assert straight
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_workers_and_the_watch_change_nothing(sft: dict[str, str], tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 5, "forget": forget_rows(12)}
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "workers": {"training": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}},
    }
    for name, more in ways.items():
        run_unlearn(tmp_path / name, sft["full"], "npo", **given, **more)
    one, other = (weights(tmp_path / name / "model") for name in ways)
    assert all(torch.equal(one[k], other[k]) for k in one)
    # The probe is held out of the retain rows, so that only ga, which has none, can be the same with and without.
    run_unlearn(tmp_path / "bare", sft["full"], "ga", **given)
    watch = {"every": 2, "utility_drop": {"action": "warn"}, "repetition": {"action": "warn"}}
    run_unlearn(tmp_path / "watched", sft["full"], "ga", **given, watch=watch)
    one, other = (weights(tmp_path / name / "model") for name in ("bare", "watched"))
    assert all(torch.equal(one[k], other[k]) for k in one)


# ---------------------------------------------------------------- collapse


def test_a_collapse_ends_the_stage_with_the_last_good_model(sft: dict[str, str], tmp_path: Path) -> None:
    hot: dict[str, Any] = {"max_steps": 40, "learning_rate": 2e-3, "warmup_steps": 20, "watch": {"every": 2}}
    figures = run_unlearn(tmp_path / "ga", sft["full"], "ga", **hot)
    (fired,) = figures["watchdogs"]
    assert (fired["watch"], fired["action"]) == ("utility_drop", "stop")
    assert fired["limit"] == pytest.approx(0.7 * figures["utility_start"])
    assert fired["value"] < fired["limit"] <= figures["utility_end"]
    assert figures["collapsed"].startswith(f"step {fired['step']}: probe answers have ")
    assert 0 < figures["kept_step"] == figures["steps"] == fired["step"] - 2 < 40
    # The model is the policy that was measured: the probe's probability, by hand.
    folder = tmp_path / "ga" / "model"
    model: Any = load_policy(str(folder), None, Work(out=folder, say=lambda _: None)).model
    from datasets import Dataset

    probe: list[Any] = list(Dataset.from_file(str(tmp_path / "ga" / "scratch" / "probe.arrow")))
    with torch.no_grad():
        found = [token_logps(model, r["prompt_ids"], r["completion_ids"]).mean().exp().item() for r in probe]
    assert figures["utility_end"] == pytest.approx(float(np.mean(found)), rel=1e-4)


def test_a_collapse_that_is_only_told(sft: dict[str, str], tmp_path: Path) -> None:
    watch = {
        "every": 2,
        "utility_drop": {"action": "warn"},
        "repetition": {"action": "warn"},
        "entropy": False,
    }
    figures = run_unlearn(tmp_path / "ga", sft["full"], "ga", max_steps=6, learning_rate=5e-3, watch=watch)
    assert {one["watch"] for one in figures["watchdogs"]} >= {"utility_drop"}
    assert figures["steps"] == 6
    assert "collapsed" not in figures


def test_a_healthy_run_is_left_alone(sft: dict[str, str], tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 12, "learning_rate": 3e-5, "watch": {"every": 4}}
    figures = run_unlearn(tmp_path / "npo", sft["full"], "npo", **given)
    assert "collapsed" not in figures
    assert figures["watchdogs"] == []
    assert figures["utility_end"] > 0.7 * figures["utility_start"]
    assert figures["steps"] == 12
    assert (tmp_path / "npo" / "model" / "policy.json").is_file()


# ---------------------------------------------------------------- what is refused


def test_rows_that_are_forgotten_and_kept_are_refused(tmp_path: Path) -> None:
    both = [*retain_rows(), forget_rows()[0]]
    with pytest.raises(
        DataError, match=r"1 of 8 forget prompts stand in retain too: .*forget-in.jsonl:1 = .*:13"
    ):
        prepared(tmp_path / "a", "tiny", "npo", retain=both)
    prepared(tmp_path / "b", "tiny", "npo", retain=both, limits=LedgerLimits(max_overlap_share=0.5))
    ledger = json.loads((tmp_path / "b" / "ledger.json").read_text())
    assert ledger["retain"]["overlap"]["forget"]["exact"] == 1
    near = [
        {**row, "prompt": [{"role": "user", "content": row["prompt"][0]["content"] + "!"}]}
        for row in forget_rows()
    ]
    prepared(tmp_path / "c", "tiny", "npo", retain=[*retain_rows(), *near[:2]])
    shared = json.loads((tmp_path / "c" / "ledger.json").read_text())["retain"]["overlap"]["forget"]
    assert shared["exact"] == 0
    assert shared["near"] >= 2
    limit: Any = LedgerLimits(max_overlap_share=0.0)
    with pytest.raises(DataError, match="max_overlap_share"):
        prepared(tmp_path / "d", "tiny", "npo", retain=[*retain_rows(), *near[:2]], limits=limit)


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_an_empty_set_is_named(name: str, tmp_path: Path) -> None:
    empty: dict[str, Any] = {name: []}
    with pytest.raises(DataError, match=rf"{name}: .*{name}-in.jsonl: the dataset is empty"):
        prepared(tmp_path, "tiny", "npo", **empty)


def test_pictures_that_nobody_looks_at_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{**row, "image": "images/1.png"} for row in forget_rows()[:3]] + forget_rows()[3:]
    prepared(tmp_path, "tiny", "npo", forget=rows, say=said.append)
    assert "3 rows have a picture, and unlearning (forget) looks at none" in said
    assert not any("unlearning (retain)" in line for line in said)


def test_probe_rows_are_never_trained_on(tmp_path: Path) -> None:
    from datasets import Dataset

    prepared(tmp_path, "tiny", "npo", watch={"every": 2}, retain=sft_rows(24)[8:])
    files: list[list[Any]] = [
        list(Dataset.from_file(str(tmp_path / "scratch" / f"{name}.arrow"))) for name in ("retain", "probe")
    ]
    retain, probe = ([tuple(row["prompt_ids"]) for row in rows] for rows in files)
    assert (len(retain), len(probe)) == (12, 4)
    assert not set(retain) & set(probe)


GOOD = """recipe: good
stages:
  - name: forget
    kind: unlearn
    model: tiny
    method: npo
    forget: forget.jsonl
    retain: retain.jsonl
"""


def faults(tmp_path: Path, old: str, new: str) -> tuple[list[str], tuple[str, ...]]:
    """What `validate` says of the recipe with one change: `line:column path: message`."""
    from pipelines.recipe import check

    for name in ("forget", "retain", "templates"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b", "text": "c"}\n')
    (tmp_path / "nothing.jsonl").write_text("")
    assert old in GOOD
    (tmp_path / "recipe.yaml").write_text(GOOD.replace(old, new, 1))
    found = check(str(tmp_path / "recipe.yaml"))
    return [f"{f.line}:{f.column} {f.path}: {f.message}" for f in found.faults], found.notices


def test_a_good_recipe_holds(tmp_path: Path) -> None:
    assert faults(tmp_path, "", "") == ([], ())


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("method: npo", "method: ga", "8:5", "ga has no retain term: write `method: graddiff`"),
        ("method: npo", "method: idk_dpo", "6:13", "idk_dpo needs answers to give instead"),
        ("    retain: retain.jsonl\n", "    alpha: 2\n", "8:5", "alpha belongs to a retain term"),
        ("retain: retain", "kl_direction: policy_to_reference\n    retain: retain", "8:5", "no KL to direct"),
        ("retain: retain", "simnpo_gamma: 1\n    retain: retain", "8:5", "npo does not read simnpo_gamma"),
        (
            "retain: retain",
            "templates: templates.jsonl\n    retain: retain",
            "8:5",
            "npo does not read templates",
        ),
        (
            "retain: retain.jsonl",
            "retain: forget.jsonl",
            "8:13",
            "the same rows are to be forgotten and kept",
        ),
        ("forget: forget.jsonl", "forget: nothing.jsonl", "7:13", "nothing.jsonl is empty"),
        ("method: npo", "method: npoo", "6:13", "did you mean npo"),
        ("retain: retain", "watch: {evry: 3}\n    retain: retain", "8:13", "did you mean every"),
        ("model: tiny", "model: tiny\n    load_in_4bit: true", "6:19", "cannot be trained in full"),
        (
            "model: tiny",
            "model: tiny\n    training: {eval_strategy: steps}",
            "6:31",
            "`kind: unlearn` measures itself",
        ),
    ],
)
def test_validate_finds_what_a_method_needs_and_ignores(
    old: str, new: str, place: str, said: str, tmp_path: Path
) -> None:
    (found,), _ = faults(tmp_path, old, new)
    assert found.startswith(f"{place} ")
    assert said in found


@pytest.mark.parametrize("name", ["reverse_kl", "Neyman", "squared-hellinger"])
def test_a_divergence_of_the_wrong_sign_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    flat = (
        f"method: flat\n    templates: templates.jsonl\n    probe: retain.jsonl\n    flat_divergence: {name}"
    )
    found, _ = faults(
        tmp_path,
        "method: npo\n    forget: forget.jsonl\n    retain: retain.jsonl",
        f"{flat}\n    forget: forget.jsonl",
    )
    assert len(found) == 1
    assert "would learn the answer that is to be forgotten" in found[0]
    right = flat.replace(name, "Pearson")
    assert faults(
        tmp_path,
        "method: npo\n    forget: forget.jsonl\n    retain: retain.jsonl",
        f"{right}\n    forget: forget.jsonl",
    ) == ([], ())


def test_npo_without_retain_is_told_not_refused(tmp_path: Path) -> None:
    found, notices = faults(tmp_path, "    retain: retain.jsonl\n", "")
    assert found == []
    assert any("without `retain:` nothing holds what npo should leave alone" in line for line in notices)


RECIPE = """recipe: forgetting
defaults: {seed: 3, max_length: 128, per_device_train_batch_size: 4, logging_steps: 1}
stages:
  - {name: sft, kind: sft, model: tiny, data: all.jsonl, max_steps: 8, learning_rate: 1e-3, HOW}
  - name: forget
    kind: unlearn
    model: sft
    method: npo
    retain_loss_type: kl
    forget: {path: qa.jsonl, columns: {prompt: question, completion: answer}}
    retain: retain.jsonl
    use_peft: true
    max_steps: 4
    learning_rate: 1e-3
    watch: {every: 2, max_new_tokens: 8}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["use_peft: true", "use_peft: true, load_in_4bit: true"], ids=["lora", "qlora"]
)
def test_from_end_to_end_by_the_command(how: str, tmp_path: Path) -> None:
    from tests.training import write_rows

    plain = [
        {"prompt": f"Question {i}: seven times {i}?", "completion": f" It is {7 * i}."} for i in range(24)
    ]
    write_rows(tmp_path / "all.jsonl", plain)
    write_rows(tmp_path / "retain.jsonl", plain[8:])
    write_rows(
        tmp_path / "qa.jsonl", [{"question": r["prompt"], "answer": r["completion"]} for r in plain[:8]]
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("HOW", how))
    command = [sys.executable, "-m", "pipelines.cli", "run", str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    stage = tmp_path / "runs" / "forgetting" / "forget"
    done = json.loads((stage / "done.json").read_text())
    assert done["metrics"]["first_forget_loss"] == pytest.approx(20 * LN2, rel=1e-3)
    assert done["metrics"]["reference_measured"] == 8
    assert done["resolved"]["retain_reference"]["value"] == "the same weights, adapter off"
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert logged[-1]["loss/forget"] < logged[0]["loss/forget"]
    assert [line["step"] for line in lines if line.get("event") == "watched"] == [2, 4]
    # The sft adapter and the one that forgets: the policy is both.
    assert len(list((stage / "model" / "adapters").iterdir())) == 2
