"""Back to the last good checkpoint: as the model a stage ends with, or to go on from with a lower learning rate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from transformers import TrainerState

from data.errors import TrainingError
from data.jsonl import replacing
from trainers.training import checkpoints
from trainers.training.watch_config import WatchOptions
from trainers.watchdogs.rules import Firing
from trainers.watchdogs.state import WatchState, read_state
from trainers.watchdogs.words import way_out
from trainers.work import Work

RECORD = "rolled-back.json"
"""Beside the checkpoints: of each roll-back the watches that fired. What is in here holds after a kill too."""


class GoingBack:
    """Which checkpoint to go back to, and what a roll-back leaves behind."""

    def __init__(self, options: WatchOptions, work: Work) -> None:
        self.options, self.work = options, work
        self.folder = work.scratch / checkpoints.FOLDER
        self.rolled: list[list[Firing]] = []
        """Of each roll-back of this stage, the watches that fired together."""
        self.fired: list[Firing] = []
        """Those that ended this pass of training."""
        self.target: Path | None = None
        self.resumed: Path | None = None
        """The checkpoint that this pass goes on from."""
        self.kept: int | None = None
        """The step of the checkpoint that the stage ended with."""

    def recall(self) -> None:
        """At the start of an attempt: the roll-backs before it, and no checkpoint of what they undid."""
        file = self.folder / RECORD
        if file.exists():
            groups = json.loads(file.read_text(encoding="utf-8"))
            self.rolled = [[Firing(**one) for one in group] for group in groups]
            self._forget_what_was_undone()

    def left(self) -> bool:
        return len(self.rolled) < self.options.roll_backs

    def good(self, until: int, accelerator: Accelerator) -> Path | None:
        """The newest whole checkpoint of a step up to this one, as the first process sees it: a folder that several
        machines share does not look the same from each at once."""
        step = torch.tensor([-1], device=accelerator.device)
        if accelerator.is_main_process:
            whole = (p for p in checkpoints.up_to(self.folder, until) if checkpoints.fault(p) is None)
            step.fill_(next((checkpoints.step_of(p) for p in whole), -1))
        found = int(broadcast(step).item())  # pyright: ignore[reportAttributeAccessIssue]
        return None if found < 0 else self.folder / f"{checkpoints.PREFIX}{found}"

    def told(self, firing: Firing, asked: Collection[str]) -> str:
        """What happens, in words."""
        if firing.to is None:
            return "There is no checkpoint from before it"
        if firing.action == "roll_back":
            rate = self.options.roll_back_factor ** (len(self.rolled) + 1)
            return f"Back to step {firing.to}, and on with {rate:g} of the learning rate"
        ends = f"he stage ends with the model of step {firing.to}"
        spent = "roll_back" in asked and not self.left()
        return f"No roll-back is left, and t{ends}" if spent else f"T{ends}"

    @property
    def pending(self) -> bool:
        """Whether this pass ended to roll back."""
        return bool(self.fired) and self.fired[0].action == "roll_back"

    def roll_back(self, trainer: Any) -> Path:
        """Undo everything behind the target, on disk before in memory, and return it to go on from."""
        target = self._target()
        self.rolled.append(self.fired)
        if trainer.args.should_save:
            with replacing(self.folder / RECORD) as file:
                groups = [[asdict(one) for one in group] for group in self.rolled]
                file.write((json.dumps(groups, indent=1) + "\n").encode())
            self._forget_what_was_undone()
        trainer.accelerator.wait_for_everyone()
        # Made anew, as a new process would make them, and then filled from the checkpoint.
        trainer.optimizer = trainer.lr_scheduler = None
        trainer._metrics["train"].clear()
        return target

    def _forget_what_was_undone(self) -> None:
        """Checkpoints behind the target of a roll-back that they know nothing of."""
        for path in checkpoints.up_to(self.folder, None):
            if checkpoints.fault(path) is not None:
                continue  # told and set aside by whoever looks for the newest
            later = self.rolled[read_state(path).roll_backs :]
            if any(group[0].to is not None and checkpoints.step_of(path) > group[0].to for group in later):
                shutil.rmtree(path)

    def lower(self, trainer: Any, state: WatchState) -> None:
        """Bring a learning rate that was saved before a roll-back down to what holds after it."""
        times = self.options.roll_back_factor ** (len(self.rolled) - state.roll_backs)
        state.roll_backs = len(self.rolled)
        if times == 1:
            return
        for group in trainer.optimizer.param_groups:
            group["lr"] *= times
            if "initial_lr" in group:
                group["initial_lr"] *= times
        schedule = trainer.lr_scheduler
        for name in ("base_lrs", "_last_lr"):
            if hasattr(schedule, name):
                setattr(schedule, name, [rate * times for rate in getattr(schedule, name)])

    def keep_good(self, trainer: Any, *, forgets: bool) -> WatchState:
        """Make the model and the trainer's account of itself those of the target."""
        target = self._target() if self.target else None
        first = self.fired[0]
        if target is None:
            raise TrainingError(
                f"the watchdog {first.watch} stopped the stage at step {first.step}, and no checkpoint is from before "
                f"step {first.since}",
                where=str(self.work.out),
                way_out=f"{way_out(first.watch, forgets=forgets)} To have one to end with, write a smaller "
                f"`save_steps` or `watch: {{every: ...}}`; to go on all the same, `watch: {{{first.watch}: "
                "{action: warn}}`.",
            )
        trainer._load_from_checkpoint(str(target))
        trainer.state = TrainerState.load_from_json(str(target / "trainer_state.json"))
        self.kept = trainer.state.global_step
        return read_state(target)

    def _target(self) -> Path:
        if self.target is None:
            raise RuntimeError("there is nothing to go back to")
        return self.target
