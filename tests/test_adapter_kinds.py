"""Training on 8-bit weights, in bfloat16 and with paged optimisers; and the patched model as others see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance import pair_rows, prepared
from tests.training import run_prefer
from trainers.preference import preference_trainer


def built(folder: Path, **options: Any) -> Any:
    chosen, work = prepared(folder, pair_rows(), **options)
    return preference_trainer(chosen, "tiny", work)


@pytest.mark.parametrize("engine", ["tree", "packed"])
def test_generation_and_evaluation_see_no_padding(tmp_path: Path, engine: str) -> None:
    """With the engine in the model, rows padded left or right give what the same rows give alone."""
    trainer = built(tmp_path, engine=engine)
    model = trainer.model.eval()
    assert model.config._attn_implementation == "heliograph_segments"
    rows = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]
    longest = max(map(len, rows))
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([row])).logits[0] for row in rows]
        for side in ("left", "right"):
            ids, mask = torch.full((3, longest), 3), torch.zeros(3, longest, dtype=torch.long)
            for i, row in enumerate(rows):
                where = slice(longest - len(row), None) if side == "left" else slice(len(row))
                ids[i, where], mask[i, where] = torch.tensor(row), 1
            places = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits
            for i, one in enumerate(alone):
                torch.testing.assert_close(logits[i][mask[i].bool()], one, rtol=1e-5, atol=1e-5)
            if side == "left":
                how: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
                together = model.generate(input_ids=ids, attention_mask=mask, **how)[:, longest:]
                for i, row in enumerate(rows):
                    single = torch.tensor([row])
                    own = model.generate(input_ids=single, attention_mask=torch.ones_like(single), **how)
                    assert together[i].tolist() == own[0, len(row) :].tolist()


@pytest.mark.parametrize("engine", ["padded", "packed", "tree"])
def test_an_evaluation_is_the_same_in_batches_of_any_size(tmp_path: Path, engine: str) -> None:
    trainer = built(tmp_path, engine=engine, per_device_eval_batch_size=1)
    found: list[dict[str, float]] = []
    for size in (1, 4):
        trainer.args.per_device_eval_batch_size = size
        found.append(trainer.evaluate(eval_dataset=trainer.train_dataset))
    # The figures beside it are TRL's: means of batches, whose last one may be smaller.
    assert found[0]["eval_loss"] == pytest.approx(found[1]["eval_loss"], rel=1e-5)
    assert found[0]["eval_loss"] == pytest.approx(0.693147, abs=1e-5)


KINDS: dict[str, dict[str, Any]] = {
    "8-bit": {"use_peft": True, "lora_r": 4, "load_in_8bit": True},
    "bfloat16": {"use_peft": True, "lora_r": 4, "dtype": "bfloat16"},
    "mixed": {"use_peft": True, "lora_r": 4, "bf16": True},
    "mixed-4-bit": {"use_peft": True, "lora_r": 4, "load_in_4bit": True, "bf16": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast")
def test_other_numbers_train_alike_on_every_engine(tmp_path: Path, kind: str) -> None:
    """Half precision and 8-bit codes are not the naive model; but engines agree, and the loss falls."""
    first, last = {}, {}
    for engine in ("padded", "tree"):
        given = {**KINDS[kind], "engine": engine, "beta": 0.5, "max_steps": 4, "learning_rate": 3e-3}
        given |= {"lr_scheduler_type": "constant", "per_device_train_batch_size": 8}
        figures = run_prefer(tmp_path / engine, "tiny", **given)
        assert figures["engine"] == engine
        first[engine], last[engine] = figures["first_loss"], figures["train_loss"]
    assert first["tree"] == pytest.approx(0.6931, abs=0.02)
    assert first["padded"] == pytest.approx(0.6931, abs=0.02)
    assert last["tree"] < 0.69
    assert last["tree"] == pytest.approx(last["padded"], rel=0.1)


@pytest.mark.filterwarnings("ignore:.*[Pp]aged.*:UserWarning")
def test_eight_bit_optimisers_work_here_too(tmp_path: Path) -> None:
    """On a CPU as well, where bitsandbytes has nothing to page to: the steps of AdamW, but for its 8-bit state."""
    losses = {}
    for optim in ("adamw_torch", "paged_adamw_8bit"):
        given = {"max_steps": 4, "training": {"optim": optim}, "per_device_train_batch_size": 8}
        losses[optim] = run_prefer(tmp_path / optim, "tiny", **given)["train_loss"]
    assert losses["adamw_torch"] < 0.65
    assert losses["paged_adamw_8bit"] == pytest.approx(losses["adamw_torch"], rel=0.02)
    assert losses["paged_adamw_8bit"] != losses["adamw_torch"]
