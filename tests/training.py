"""Small training runs for the tests: rows, options and one call per stage, without recipe or command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.ledger import LedgerLimits
from data.sources import Mixture
from trainers.config import PreferOptions, SftOptions
from trainers.work import Work

QUIET: dict[str, Any] = {"say": lambda _: None}

HOW: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"use_peft": True, "lora_r": 4},
    "qlora": {"use_peft": True, "lora_r": 4, "load_in_4bit": True},
}


def sft_rows(count: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {i} times seven, modulo thirteen?"}],
            "completion": [{"role": "assistant", "content": f"It is {i * 7 % 13}" + "!" * (i % 5)}],
        }
        for i in range(count)
    ]


def pair_rows(count: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": [{"role": "assistant", "content": f"I would rather not say {i}."}],
        }
        for i, row in enumerate(sft_rows(count))
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run_sft(
    folder: Path, start: str = "tiny", rows: list[dict[str, Any]] | None = None, **options: Any
) -> Any:
    from trainers.sft import train_sft
    from trainers.training.prepare import prepare_sft

    folder.mkdir(parents=True, exist_ok=True)
    file = write_rows(folder / "rows-in.jsonl", rows or sft_rows())
    work = Work(out=folder, **QUIET)
    given = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    chosen = SftOptions(model=start, **{**given, **options})
    prepare_sft(chosen, start, Mixture.model_validate(str(file)), None, folder, LedgerLimits(), work)
    return train_sft(chosen, start, work, name="sft")


def run_prefer(folder: Path, start: str, rows: list[dict[str, Any]] | None = None, **options: Any) -> Any:
    from trainers.preference import train_preference
    from trainers.training.prepare import prepare_pairs

    folder.mkdir(parents=True, exist_ok=True)
    file = write_rows(folder / "rows-in.jsonl", rows or pair_rows())
    work = Work(out=folder, **QUIET)
    given = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    chosen = PreferOptions(model=start, **{**given, **options})
    prepare_pairs(chosen, start, Mixture.model_validate(str(file)), None, folder, LedgerLimits(), work)
    return train_preference(chosen, start, work, name="dpo")


def weights(model_folder: Path) -> dict[str, Any]:
    """Every tensor below a model folder, by file and name."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in sorted(model_folder.rglob("*.safetensors")):
        for name, tensor in load_file(str(file)).items():
            found[f"{file.relative_to(model_folder)}:{name}"] = tensor
    return found
