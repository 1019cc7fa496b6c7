"""Small unlearning runs for the tests: rows, and one call per stage, without recipe or command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.ledger import LedgerLimits
from data.sources import Mixture
from tests.training import sft_rows, write_rows
from trainers.config import UnlearnOptions
from trainers.forgetting.prepare import UnlearnData, prepare_unlearn
from trainers.work import Work

TEMPLATED = ("idk_dpo", "flat")
WITHOUT_RETAIN = ("ga", "flat")
GIVEN: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "watch": None,
}


def forget_rows(count: int = 8) -> list[dict[str, Any]]:
    return sft_rows(24)[:count]


def retain_rows(count: int = 12) -> list[dict[str, Any]]:
    return sft_rows(24)[24 - count :]


def template_rows() -> list[dict[str, Any]]:
    return [{"text": text} for text in ("I don't know.", "No idea, sorry.", "That is beyond me.")]


def prepared(
    folder: Path,
    start: str,
    method: str,
    *,
    forget: list[dict[str, Any]] | None = None,
    retain: list[dict[str, Any]] | None = None,
    limits: LedgerLimits | None = None,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> tuple[UnlearnOptions, Work]:
    """Options and folder of a stage whose rows are ready."""
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(out=folder, say=say)

    def mixture(name: str, rows: list[dict[str, Any]]) -> Mixture:
        return Mixture.model_validate(str(write_rows(folder / f"{name}-in.jsonl", rows)))

    data = UnlearnData(
        mixture("forget", forget_rows() if forget is None else forget),
        None if method in WITHOUT_RETAIN else mixture("retain", retain_rows() if retain is None else retain),
        mixture("templates", template_rows()) if method in TEMPLATED else None,
        mixture("probe", retain_rows()[:4]) if method in WITHOUT_RETAIN and options.get("watch") else None,
    )
    chosen = UnlearnOptions(model=start, method=method, **{**GIVEN, **options})  # pyright: ignore[reportArgumentType]
    prepare_unlearn(chosen, start, data, folder, limits or LedgerLimits(), work)
    return chosen, work


def trainer_of(folder: Path, start: str, method: str, **options: Any) -> Any:
    from trainers.forgetting.train import unlearn_trainer

    chosen, work = prepared(folder, start, method, **options)
    return unlearn_trainer(chosen, start, work)


def run_unlearn(folder: Path, start: str, method: str, **options: Any) -> Any:
    from trainers.forgetting.train import train_unlearn

    chosen, work = prepared(folder, start, method, **options)
    return train_unlearn(chosen, start, work, name="forget")
