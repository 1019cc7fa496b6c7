"""A stage whose watchdogs roll back and then stop, for two processes to run: one alone that did would leave the other
waiting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conformance import prepared
from tests.training import weights
from trainers.training import checkpoints

LIMIT = 0.2
"""Of the pairs may teach nothing: few for rows as easy as these. Each process has another half of them."""
WATCH: dict[str, Any] = {
    "every": 1,
    "samples": 2,
    "max_new_tokens": 8,
    "roll_backs": 1,
    "roll_back_factor": 0.9,
    "saturated": {"limit": LIMIT, "action": "roll_back", "patience": 1},
    "repetition": False,
    "entropy": False,
}


def stage(out: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One of a job of `tests.two_processes`."""
    given: dict[str, Any] = {
        "max_steps": 5,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "training": {"optim": "sgd"},
        "per_device_train_batch_size": 2,
        "watch": WATCH,
    }
    prepared(out, rows, **given)
    options = {"model": "tiny", **given}
    return {"kind": "prefer", "out": str(out), "store": str(out / "store"), "options": options}


def check(out: Path) -> None:
    """Every process fired at the same steps, by the same figures, and went back to the same checkpoint."""
    first, second = (json.loads((out / f"told-{rank}.json").read_text()) for rank in (0, 1))
    figures, others = first["figures"], second["figures"]
    fired = figures["watchdogs"]
    assert [one["action"] for one in fired] == ["roll_back", "stop"]
    assert all(one["watch"] == "saturated" and one["value"] > LIMIT for one in fired)
    assert others["watchdogs"] == fired
    assert others["kept_step"] == figures["kept_step"] == fired[1]["to"] == figures["steps"]
    for figure in (
        "log_z_squared_start",
        "log_z_squared_end",
        "attention_logits_start",
        "attention_logits_end",
    ):
        assert others[figure] == figures[figure], figure
    told = [[line for line in one["lines"] if line.get("event") == "watchdog"] for one in (first, second)]
    assert [line["step"] for line in told[0]] == [one["step"] for one in fired]
    assert told[1] == []  # by the first alone
    kept = out / "scratch" / "checkpoints" / f"checkpoint-{figures['kept_step']}"
    assert checkpoints.fault(kept) is None
    assert checkpoints.processes(kept) == 2
    saved, model = weights(kept), weights(out / "model")
    assert saved
    assert all((saved[name] == tensor).all() for name, tensor in model.items())
