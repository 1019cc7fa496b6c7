"""Reference log-probabilities of a preference stage: measured once on the policy it starts from, kept on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from data.errors import ModelError
from trainers.completions import completions_only
from trainers.scoring import REFERENCE, score
from trainers.work import Work

if TYPE_CHECKING:
    from datasets import Dataset

MAX_GAP = 1e-3
"""Nats by which a row measured again may differ from the stored one: another kind of processor, not another policy."""


class Reference:
    """The reference values of one stage, and the check that they are the starting policy's."""

    def __init__(self, work: Work, start: str) -> None:
        self.work = work
        self.start = start
        self.gap = 0.0
        """Largest difference, in nats, between stored values and the policy measured again on the first batch."""

    def add_to(self, dataset: Dataset, name: str, batch_size: int, trainer: Any) -> Dataset:
        """The dataset with its two reference columns; `trainer.model` must hold the starting policy."""
        from datasets import Dataset as Rows
        from datasets import concatenate_datasets

        file = self.work.scratch / f"reference-{name}.safetensors"
        key = self._key(name, batch_size, trainer)
        loader = _loader(dataset, batch_size, trainer)
        stored = _read(file, key)
        if stored is None:
            stored = self._measure(loader, len(dataset), name, trainer)
            if trainer.accelerator.is_main_process:
                _write(file, key, stored)
        else:
            self._check(loader, stored, trainer)
        columns = {column: stored[column].tolist() for column in REFERENCE}
        return concatenate_datasets([dataset, Rows.from_dict(columns)], axis=1)

    def _measure(self, loader: Any, rows: int, name: str, trainer: Any) -> dict[str, torch.Tensor]:
        parts: dict[str, list[torch.Tensor]] = {column: [] for column in REFERENCE}
        done = 0
        for batch in loader:
            values = trainer.accelerator.gather_for_metrics(_log_probs(trainer, batch))
            for column, value in zip(REFERENCE, values, strict=True):
                parts[column].append(value.float().cpu())
            done += len(values[0])
            self.work.progress(done=done, total=rows, unit=f"reference rows ({name})")
        return {column: torch.cat(values) for column, values in parts.items()}

    def _check(self, loader: Any, stored: dict[str, torch.Tensor], trainer: Any) -> None:
        values = trainer.accelerator.gather_for_metrics(_log_probs(trainer, next(iter(loader))))
        for column, value in zip(REFERENCE, values, strict=True):
            gap = (value.float().cpu() - stored[column][: len(value)]).abs().max().item()
            self.gap = max(self.gap, gap)
        if not self.gap <= MAX_GAP:
            raise ModelError(
                f"the stored reference is {self.gap:.3g} nats away from the policy that training starts from",
                where=str(self.work.scratch),
                way_out="The starting policy or the data changed below this stage: rebuild it with --from STAGE.",
            )
        self.work.say(f"reference: read again from disk, {self.gap:.3g} nats from the starting policy")

    def _key(self, name: str, batch_size: int, trainer: Any) -> str:
        """All that the values depend on; the folder is locked to one recipe, so this guards against what is not."""
        args = trainer.args
        rows = hashlib.sha256((self.work.scratch / f"{name}.arrow").read_bytes()).hexdigest()
        content = {
            "rows": rows,
            "policy": _identity(Path(self.start)),
            "ld_alpha": args.ld_alpha,
            "bf16": args.bf16,
            "batch": batch_size,
            "engine": trainer.engine,
            "processes": trainer.accelerator.num_processes,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _log_probs(trainer: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed as the loss sums the policy's, so that both are the same number before the first step."""
    training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), completions_only(), trainer.accelerator.autocast():
        found = score(trainer, trainer.model, batch)
    trainer.model.train(training)
    return found.chosen, found.rejected


def _loader(dataset: Dataset, batch_size: int, trainer: Any) -> Any:
    rows: Any = dataset
    loader = torch.utils.data.DataLoader(
        rows, batch_size=batch_size, collate_fn=trainer.data_collator, shuffle=False
    )
    return trainer.accelerator.prepare(loader)


def _identity(folder: Path) -> object:
    """Names, sizes and times of a local policy's files; a hub model is held by its revision."""
    if not folder.is_dir():
        return str(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json"))
    return [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _read(file: Path, key: str) -> dict[str, torch.Tensor] | None:
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as stored:
            metadata: dict[str, str] = stored.metadata() or {}
            return {c: stored.get_tensor(c) for c in REFERENCE} if metadata.get("key") == key else None
    except SafetensorError:
        return None  # half-written: measured anew


def _write(file: Path, key: str, values: dict[str, torch.Tensor]) -> None:
    aside = file.with_suffix(".tmp")
    save_file(values, str(aside), metadata={"key": key})
    aside.replace(file)
