"""The reference is measured once for all stages that start from the same policy, and only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import ModelError
from tests.training import HOW, pair_rows, run_prefer
from trainers.config import AdapterOptions, ModelOptions
from trainers.models import load_policy
from trainers.store import reference
from trainers.store.identity import model_identity, weights_digest
from trainers.work import Work


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One store for all stages of the test, as the runs of one folder have it."""
    monkeypatch.setattr(Work, "references", property(lambda self: tmp_path / "store"))
    return tmp_path


def prefer(folder: Path, rows: list[dict[str, Any]] | None = None, **options: Any) -> tuple[int, int]:
    figures = run_prefer(folder, "tiny", rows=rows, max_steps=1, **options)
    return figures["reference_measured"], figures["reference_read"]


def test_other_losses_rates_ranks_and_seeds_read_what_is_there(shared: Path):
    """TRL measures all of it again for each of these."""
    assert prefer(shared / "a") == (48, 0)
    assert prefer(shared / "b", loss_type="ipo", beta=0.5, learning_rate=1e-5) == (0, 48)
    assert prefer(shared / "c", use_peft=True, lora_r=4) == (0, 48)
    assert prefer(shared / "d", use_peft=True, lora_r=8, seed=1, ld_alpha=0.5) == (0, 48)
    assert prefer(shared / "e", gradient_accumulation_steps=2, per_device_train_batch_size=2) == (0, 48)


def test_more_rows_cost_only_themselves(shared: Path):
    assert prefer(shared / "a", pair_rows(24)) == (48, 0)
    assert prefer(shared / "b", pair_rows(30)) == (12, 48)


def test_what_changes_the_numbers_is_measured_again(shared: Path):
    assert prefer(shared / "a") == (48, 0)
    assert prefer(shared / "b", engine="padded") == (48, 0)
    assert prefer(shared / "c", dtype="bfloat16", use_peft=True) == (48, 0)
    assert prefer(shared / "d", **HOW["qlora"]) == (48, 0)
    assert prefer(shared / "e", **HOW["qlora"], use_bnb_nested_quant=True) == (48, 0)


def test_a_damaged_record_costs_one_answer(shared: Path):
    assert prefer(shared / "a") == (48, 0)
    (file,) = (shared / "store").glob("*/*.tokens")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert prefer(shared / "b", loss_type="ipo") == (1, 47)


def test_pairs_of_one_prompt_score_each_answer_once(shared: Path):
    """Three ranked answers, three pairs: three answers in the store, and the losses of the same pairs one by one."""
    prompt = [{"role": "user", "content": "Say a number."}]
    answers = [
        [{"role": "assistant", "content": text}] for text in ("One.", "Two, or so.", "I will not say.")
    ]
    rows = [
        {"prompt": prompt, "chosen": answers[i], "rejected": answers[j]} for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    for beta in (0.1, 0.7):
        options: dict[str, Any] = {"beta": beta, "learning_rate": 1e-2, "max_steps": 4, "warmup_steps": 0}
        together = run_prefer(
            shared / f"together{beta}",
            "tiny",
            rows,
            group_by_prompt=True,
            per_device_train_batch_size=1,
            **options,
        )
        apart = run_prefer(
            shared / f"apart{beta}", "tiny", rows, engine="padded", per_device_train_batch_size=3, **options
        )
        assert together["train_loss"] == pytest.approx(apart["train_loss"], abs=1e-5)
        assert together["train_loss"] < 0.6931
    assert together["rows"] == 1
    assert together["reference_read"] == 3


def test_a_row_without_a_finite_reference_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured = reference._log_probs

    def broken(trainer, groups):
        for tokens in measured(trainer, groups):
            tokens = tokens.copy()
            tokens[0] = float("nan")
            yield tokens

    monkeypatch.setattr(reference, "_log_probs", broken)
    with pytest.raises(ModelError, match=r"row \d+ of the tokenised train rows: .*not finite"):
        run_prefer(tmp_path / "dpo", "tiny", max_steps=1)


@pytest.mark.parametrize("how", ["full", "lora", "qlora"])
def test_the_identity_is_that_of_the_weights_below_what_is_trained(how: str, tmp_path: Path):
    quiet = Work(out=tmp_path, say=lambda _: None)
    quantised = HOW[how].get("load_in_4bit")

    def loaded(seed: int, **adapter: Any) -> Any:
        options = ModelOptions(model="tiny", load_in_4bit=quantised)
        train = AdapterOptions(use_peft=how != "full", **adapter)
        return load_policy("tiny", options, quiet, train=train, seed=seed).model

    model = loaded(0)
    same = loaded(1, **({} if how == "full" else {"lora_r": 2, "use_rslora": True}))
    assert model_identity(model, None) == model_identity(same, None)
    parameters = [(n, p) for n, p in same.named_parameters() if not p.requires_grad or how == "full"]
    moved = [parameters[0], parameters[-1], next(p for p in parameters if "layers.1.mlp.up_proj" in p[0])]
    before = weights_digest(same)
    for _, parameter in moved:
        flat = parameter.data.view(-1)
        kept = flat[0].clone()
        flat[0] += 1
        assert weights_digest(same) != before
        flat[0] = kept
    assert weights_digest(same) == before


def test_the_constants_of_quantised_weights_are_part_of_the_identity(tmp_path: Path):
    """Twice the weights have the same 4-bit codes."""
    options = ModelOptions(model="tiny", load_in_4bit=True)
    model = load_policy("tiny", options, Work(out=tmp_path, say=lambda _: None)).model
    before = weights_digest(model)
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    state.absmax = state.absmax * 2
    assert weights_digest(model) != before
    assert torch.is_tensor(state.absmax)
