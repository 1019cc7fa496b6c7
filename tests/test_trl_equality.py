"""Ten steps of our trainers against ten steps of TRL's own, on the same rows: the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.training import HOW, pair_rows, run_prefer, run_sft, sft_rows
from trainers import aliases
from trainers.training import watching

STEPS = 10
COMMON: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "seed": 7,
}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Every line our trainer logs."""
    lines: list[dict[str, float]] = []
    monkeypatch.setattr(watching.Teller, "on_log", lambda self, *a, logs=None, **k: lines.append(dict(logs)))
    return lines


def column(history: list[dict[str, float]], key: str) -> list[float]:
    return [line[key] for line in history if key in line]


def trl_lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
    )


def trl_settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **COMMON,
    }


@pytest.mark.parametrize("how", ["full", "lora"])
def test_sft_equals_trl(how: str, tmp_path: Path, logged: list[dict[str, float]]):
    from trl import SFTConfig, SFTTrainer

    run_sft(tmp_path / "ours", **COMMON, max_length=45, **HOW[how])
    theirs = SFTTrainer(
        model=str(aliases.resolve("tiny")),
        args=SFTConfig(**trl_settings(tmp_path / "theirs"), max_length=45),
        train_dataset=Dataset.from_list(sft_rows()),
        peft_config=trl_lora() if how == "lora" else None,
    )
    theirs.train()
    expected = column(theirs.state.log_history, "loss")
    assert len(expected) == STEPS
    assert expected[0] - expected[-1] > 0.05  # something was learned, or equality would mean little
    assert column(logged, "loss") == pytest.approx(expected, abs=1e-5)
    assert column(logged, "grad_norm") == pytest.approx(
        column(theirs.state.log_history, "grad_norm"), rel=1e-4
    )


@pytest.mark.parametrize(
    ("how", "loss"),
    [
        ("full", "sigmoid"),
        ("lora", "ipo"),
        ("full", "apo_zero"),
        pytest.param("lora", "sigmoid", marks=pytest.mark.slow),
        pytest.param("full", "ipo", marks=pytest.mark.slow),
        pytest.param("lora", "apo_zero", marks=pytest.mark.slow),
    ],
)
def test_preference_equals_trl(how: str, loss: str, tmp_path: Path, logged: list[dict[str, float]]):
    from trl import DPOConfig, DPOTrainer

    run_prefer(tmp_path / "ours", "tiny", **COMMON, beta=0.3, loss_type=loss, max_length=50, **HOW[how])
    theirs = DPOTrainer(
        model=str(aliases.resolve("tiny")),
        args=DPOConfig(**trl_settings(tmp_path / "theirs"), beta=0.3, loss_type=[loss], max_length=50),
        train_dataset=Dataset.from_list(pair_rows()),
        peft_config=trl_lora() if how == "lora" else None,
    )
    theirs.train()
    expected = column(theirs.state.log_history, "loss")
    assert len(expected) == STEPS
    assert abs(expected[0] - expected[-1]) > 0.01
    for engine in ("tree", "packed"):
        padded, logged[:] = list(logged), []
        options = {**COMMON, "beta": 0.3, "loss_type": loss, "max_length": 50, **HOW[how]}
        figures = run_prefer(tmp_path / engine, "tiny", engine=engine, **options)
        assert figures["engine"] == engine
        assert column(logged, "loss") == pytest.approx(expected, abs=1e-5)
        logged[:] = padded
    assert column(logged, "loss") == pytest.approx(expected, abs=1e-5)
    for key in ("rewards/chosen", "rewards/rejected", "logps/chosen"):
        assert column(logged, key) == pytest.approx(column(theirs.state.log_history, key), abs=1e-3, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "how", "engines"),
    [("kto", "lora", ("padded", "tree", "packed")), ("apo_zero_unpaired", "full", ("tree",))],
)
def test_single_answers_equal_trl(
    loss: str, how: str, engines: tuple[str, ...], tmp_path: Path, logged: list[dict[str, float]]
):
    from trl import KTOConfig, KTOTrainer

    rows = [
        {"prompt": row["prompt"], "completion": row["chosen" if i % 3 else "rejected"], "label": bool(i % 3)}
        for i, row in enumerate(pair_rows())
    ]
    scale = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    theirs = KTOTrainer(
        model=str(aliases.resolve("tiny")),
        args=KTOConfig(**trl_settings(tmp_path / "theirs"), beta=0.3, loss_type=loss, max_length=60, **scale),
        train_dataset=Dataset.from_list(rows),
        peft_config=trl_lora() if how == "lora" else None,
    )
    theirs.train()
    expected = column(theirs.state.log_history, "loss")
    assert len(expected) == STEPS
    assert abs(expected[0] - expected[-1]) > 0.01
    for engine in engines:
        logged.clear()
        options = {**COMMON, "beta": 0.3, "loss_type": loss, "max_length": 60, **scale, **HOW[how]}
        options["training"] = {"train_sampling_strategy": "sequential"}  # TRL's KTO does not shuffle
        figures = run_prefer(tmp_path / engine, "tiny", rows=rows, engine=engine, **options)
        assert figures["engine"] == engine
        assert column(logged, "loss") == pytest.approx(expected, abs=1e-5)
        if loss == "kto":
            assert column(logged, "kl") == pytest.approx(column(theirs.state.log_history, "kl"), abs=1e-4)
            assert max(column(logged, "kl")) > 0


@pytest.mark.parametrize("alpha", [pytest.param(0.0, marks=pytest.mark.slow), 0.4])
def test_ld_alpha_equals_trl_on_every_engine(alpha: float, tmp_path: Path, logged: list[dict[str, float]]):
    from trl import DPOConfig, DPOTrainer

    theirs = DPOTrainer(
        model=str(aliases.resolve("tiny")),
        args=DPOConfig(**trl_settings(tmp_path / "theirs"), beta=0.3, ld_alpha=alpha),
        train_dataset=Dataset.from_list(pair_rows()),
    )
    theirs.train()
    expected = column(theirs.state.log_history, "loss")
    for engine in ("padded", "tree"):
        logged.clear()
        run_prefer(tmp_path / engine, "tiny", engine=engine, **COMMON, beta=0.3, ld_alpha=alpha)
        assert column(logged, "loss") == pytest.approx(expected, abs=1e-5)
