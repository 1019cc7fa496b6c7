"""What goes wrong in training ends with a sentence that names it, and keeps what was there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.errors import DataError, RecipeError, TrainingError
from tests.training import pair_rows, run_prefer, run_sft, sft_rows
from trainers import aliases


def test_a_loss_that_is_not_finite_names_the_step(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny"), dtype=torch.float32)
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(aliases.resolve("tiny")).save_pretrained(tmp_path / "nan")
    with pytest.raises(TrainingError, match="the loss is nan at step 1") as stopped:
        run_sft(tmp_path / "sft", str(tmp_path / "nan"))
    assert "learning_rate" in str(stopped.value)
    assert not (tmp_path / "sft" / "model").exists()


def test_rows_that_all_fall_away_are_counted(tmp_path: Path):
    with pytest.raises(DataError, match="no row is left"):
        run_sft(tmp_path / "sft", max_length=8)
    same = [{**row, "rejected": row["chosen"]} for row in pair_rows(4)]
    with pytest.raises(DataError, match="no row is left"):
        run_prefer(tmp_path / "dpo", "tiny", rows=same)


def test_the_ledger_of_a_stage_adds_up(tmp_path: Path):
    import json

    from data.ledger import Ledger

    rows = pair_rows(10)
    rows[3] = {**rows[3], "rejected": rows[3]["chosen"]}
    run_prefer(tmp_path / "dpo", "tiny", rows=rows, max_steps=1, max_length=50)
    ledger = Ledger.from_json(json.loads((tmp_path / "dpo" / "ledger.json").read_text())["train"])
    assert (ledger.rows_read, ledger.rows_dropped, ledger.kept, ledger.unaccounted) == (10, 1, 9, 0)
    assert ledger.cut.rows == 9  # every rejected answer reaches beyond 50 tokens
    assert ledger.longest == 50


def test_trl_refuses_what_only_it_can_know(tmp_path: Path):
    with pytest.raises(RecipeError, match="DPOConfig"):
        run_prefer(tmp_path / "dpo", "tiny", training={"lr_scheduler_kwargs": "{not json"})


def test_held_out_rows_are_measured(tmp_path: Path):
    """eval_loss of a model that was not trained is its mean token loss on the completions, by definition."""
    from data.ledger import LedgerLimits
    from data.sources import Mixture
    from tests.training import QUIET, write_rows
    from trainers.config import SftOptions
    from trainers.models import load_policy
    from trainers.sft import train_sft
    from trainers.training.prepare import load_rows, prepare_sft
    from trainers.work import Work

    train = write_rows(tmp_path / "train.jsonl", sft_rows(8))
    held = write_rows(tmp_path / "held.jsonl", sft_rows(14)[6:])
    work = Work(out=tmp_path / "sft", **QUIET)
    options = SftOptions(model="tiny", max_steps=1, learning_rate=1e-30, per_device_eval_batch_size=8)
    parse = Mixture.model_validate
    prepare_sft(options, "tiny", parse(str(train)), parse(str(held)), tmp_path, LedgerLimits(), work)
    metrics = train_sft(options, "tiny", work, name="sft")

    model = load_policy("tiny", None, Work(out=tmp_path, **QUIET)).model
    total, count = 0.0, 0
    _, rows = load_rows(tmp_path / "sft")
    assert rows is not None
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        with torch.no_grad():
            logp = torch.log_softmax(model(ids[None]).logits[0, :-1].double(), -1)
        taught = labels[1:] != -100
        total -= logp[torch.arange(len(ids) - 1), ids[1:]][taught].sum().item()
        count += int(taught.sum())
    assert metrics["eval_loss"] == pytest.approx(total / count, abs=1e-4)
    import json

    overlap = json.loads((tmp_path / "sft" / "ledger.json").read_text())["train"]["overlap"]["eval"]
    assert (overlap["prompts"], overlap["exact"]) == (8, 2)  # rows 6 and 7 stand in both


def test_packing_cuts_long_rows_in_the_ledger(tmp_path: Path):
    import json

    long = [{"role": "assistant", "content": "9 " * 90}]
    rows = [*sft_rows(6), {"prompt": [{"role": "user", "content": "count"}], "completion": long}]
    figures = run_sft(tmp_path / "sft", rows=rows, packing=True, max_length=128, max_steps=1)
    ledger = json.loads((tmp_path / "sft" / "ledger.json").read_text())["train"]
    assert (ledger["kept"], ledger["cut"]["rows"], ledger["longest"]) == (7, 1, 128)
    assert figures["rows"] == 4  # the cut one alone, the others two in a row


def test_rows_with_labels_are_not_learned_blindly(tmp_path: Path):
    rows = [{"prompt": "a", "completion": "b", "label": False}]
    with pytest.raises(DataError, match="sft would learn them all"):
        run_sft(tmp_path / "sft", rows=rows)


def test_rows_beyond_the_models_positions_are_refused(tmp_path: Path):
    rows = [{"text": "seven " * 900}]
    with pytest.raises(DataError, match="the model was made for 512"):
        run_sft(tmp_path / "sft", rows=rows, max_length=None)


def test_lora_dropout_works_in_preference_training(tmp_path: Path):
    from tests.training import weights

    for name, dropout in (("without", 0.0), ("with", 0.5)):
        run_prefer(tmp_path / name, "tiny", use_peft=True, lora_r=4, lora_dropout=dropout, max_steps=2)
    found = [weights(tmp_path / name / "model") for name in ("without", "with")]
    assert any(not torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_tracker_that_does_not_exist_is_the_recipes_fault(tmp_path: Path):
    with pytest.raises(RecipeError, match="foo"):
        run_sft(tmp_path / "sft", report_to=("foo",))


def test_the_first_loss_is_checked_against_what_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reference that is not the policy: caught before the first step changes anything."""
    from trainers.store import reference

    measured = reference._log_probs

    def moved(trainer, groups):
        for place, tokens in enumerate(measured(trainer, groups)):
            yield tokens + 1.0 if place % 2 else tokens

    monkeypatch.setattr(reference, "_log_probs", moved)
    with pytest.raises(TrainingError, match=r"of a policy that is its own reference it is 0\.693"):
        run_prefer(tmp_path / "dpo", "tiny", max_steps=1)


def test_the_figures_cover_the_steps_after_the_last_even_line(tmp_path: Path):
    folder = tmp_path / "dpo"
    figures = run_prefer(folder, "tiny", max_steps=3, logging_steps=2)
    every = run_prefer(tmp_path / "every", "tiny", max_steps=3, logging_steps=1)
    assert figures["train_loss"] == pytest.approx(every["train_loss"])
    assert figures["loss"] == pytest.approx(every["loss"])  # of the last step alone


def test_train_loss_covers_the_steps_before_a_resume():
    from trainers.training.loop import mean_loss

    history = [{"step": 2, "loss": 4.0}, {"step": 3, "loss": 1.0}, {"step": 3, "eval_loss": 9.0}]
    assert mean_loss(history, 0.0) == (2 * 4.0 + 1 * 1.0) / 3
    assert mean_loss([], 0.5) == 0.5


@pytest.mark.parametrize("loss", ["cpo", "simpo", "orpo", "cdpo"])
def test_losses_that_trl_has_elsewhere_train(loss: str, tmp_path: Path):
    options = {"label_smoothing": 0.1} if loss == "cdpo" else {}
    figures = run_prefer(
        tmp_path / loss, "tiny", loss_type=loss, use_peft=True, learning_rate=3e-3, **options
    )
    assert figures["rewards/margins"] > 0
    assert ("reference_gap" in figures) == (loss == "cdpo")  # the others have no reference to measure


def test_the_names_of_losses_are_those_there_are():
    from typing import get_args

    from trainers.config import JUDGED, SMOOTHED, LossType
    from trainers.losses import PAIRED, UNPAIRED

    assert set(get_args(LossType)) == set(PAIRED) | JUDGED
    assert set(UNPAIRED) >= JUDGED
    assert {name for name, loss in PAIRED.items() if loss.smooths} == SMOOTHED
