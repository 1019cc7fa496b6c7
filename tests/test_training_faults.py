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
    from trainers.prepare import load_rows, prepare_sft
    from trainers.sft import train_sft
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
