"""Checkpoints that are either whole or not there: sealed when written, checked before they are used."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers.models import TRAINED

SEAL = "sealed.json"
PREFIX = "checkpoint-"
FOLDER = "checkpoints"
"""Their folder, in the stage's scratch."""


def seal(folder: Path, processes: int = 1) -> None:
    """Write down size and CRC-32 of every file, last; a folder without this never counts as a checkpoint.

    `processes` share its steps: with more or fewer, a step would be of more or fewer rows.
    """
    files = {str(p.relative_to(folder)): _fingerprint(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    aside = folder / (SEAL + ".tmp")
    aside.write_text(json.dumps({"processes": processes, "files": files}, indent=1), encoding="utf-8")
    os.replace(aside, folder / SEAL)


def fault(folder: Path) -> str | None:
    """Why this folder is no whole checkpoint; None when it is one."""
    try:
        files: dict[str, list[int]] = json.loads((folder / SEAL).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "it was not finished"
    except (ValueError, KeyError, TypeError):
        return f"{SEAL} is damaged"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _fingerprint(path) != expected:
            return f"{name} is damaged"
    return None


def processes(folder: Path) -> int:
    """How many made a whole checkpoint together."""
    return int(json.loads((folder / SEAL).read_text(encoding="utf-8")).get("processes", 1))


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint. Broken ones are told and set aside, so that nothing else picks them up."""
    for path in up_to(folder, None):
        why = fault(path)
        if why is None:
            return path
        say(f"{path.name} cannot be used ({why}); going back to the one before")
        broken = path.with_name(f"broken-{path.name}")
        shutil.rmtree(broken, ignore_errors=True)
        path.rename(broken)
    return None


def rotate(folder: Path, keep: int, spared: int | None = None) -> None:
    """Remove the oldest whole checkpoints beyond `keep`, and what is left of broken ones.

    The newest of a step up to `spared` stays: the last that is known to be good.
    """
    good = [] if spared is None else up_to(folder, spared)[:1]
    for path in up_to(folder, None)[keep:]:
        if path not in good:
            shutil.rmtree(path)
    for path in folder.glob(f"broken-{PREFIX}*"):
        shutil.rmtree(path)


def up_to(folder: Path, step: int | None) -> list[Path]:
    """Checkpoints, whole or not, of steps up to this one (None: all), the newest first."""
    found = [p for p in folder.glob(PREFIX + "*") if p.is_dir() and p.name[len(PREFIX) :].isdigit()]
    return sorted((p for p in found if step is None or step_of(p) <= step), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    return int(path.name[len(PREFIX) :])


def _fingerprint(path: Path) -> list[int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]


class SealedCheckpoints:
    """Mixin over a Trainer: seals each checkpoint, rotates only after that, and keeps only what is trained.

    transformers rotates before a checkpoint is known to be whole, and saves every adapter of a stack but loads one.
    """

    keep_checkpoints: int = 2
    watch: Any = None
    """Watchdogs: what they remember goes into each checkpoint, and the last good one stays."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        me: Any = self
        folder = Path(me.args.output_dir) / f"{PREFIX}{me.state.global_step}"
        if me.args.should_save and folder.exists():
            shutil.rmtree(folder)  # left by a run that was killed while it wrote this one
        me.accelerator.wait_for_everyone()  # before another process writes into it
        super()._save_checkpoint(model, trial)  # pyright: ignore[reportAttributeAccessIssue]
        me.accelerator.wait_for_everyone()  # each process writes its own random state
        if me.args.should_save:
            if self.watch is not None:
                self.watch.save(folder)
            seal(folder, me.args.world_size)
            rotate(folder.parent, self.keep_checkpoints, None if self.watch is None else self.watch.spared())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes one into every checkpoint; ours is written once, beside the finished model."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from peft import PeftModel

        me: Any = self
        model = me.accelerator.unwrap_model(me.model)
        if not isinstance(model, PeftModel):
            super()._save(output_dir, state_dict)  # pyright: ignore[reportAttributeAccessIssue]
            return
        if me.args.should_save:
            model.save_pretrained(
                output_dir or me.args.output_dir, selected_adapters=[TRAINED], state_dict=state_dict
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from peft import PeftModel, set_peft_model_state_dict
        from safetensors.torch import load_file

        me: Any = self
        target = me.accelerator.unwrap_model(model if model is not None else me.model)
        if not isinstance(target, PeftModel) or me.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # pyright: ignore[reportAttributeAccessIssue]
            return
        weights = load_file(str(Path(resume_from_checkpoint) / "adapter_model.safetensors"))
        set_peft_model_state_dict(target, weights, adapter_name=TRAINED)
