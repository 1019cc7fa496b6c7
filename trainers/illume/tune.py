"""One iteration's tuning: train on the mixture, measure every epoch on held-out prompts, keep the best one's model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import SFTConfig

from data.illume.items import Item
from data.illume.loop import Mix
from data.jsonl import replacing
from data.ledger import Ledger
from trainers import policy
from trainers.illume.config import IllumeOptions
from trainers.illume.explaining import Collate, ExplainingTrainer, two_part_rows
from trainers.models import TRAINED, Loaded, load_policy, save_policy
from trainers.training import checkpoints
from trainers.training.arguments import build, training_arguments
from trainers.training.loop import MODEL, run_training
from trainers.training.prepare import check_context
from trainers.training.watching import Teller
from trainers.work import LEDGER, Work

Measure = Callable[[Loaded], dict[str, Any]]
"""Figures of a model on held-out prompts."""


def tune(
    options: IllumeOptions,
    start: str,
    previous: Path | None,
    items: dict[str, Item],
    mixed: Mix,
    measure: Measure | None,
    work: Work,
    *,
    name: str,
) -> dict[str, Any]:
    """Leave the chosen epoch's policy in `work.out/model`; return the figures. The same call goes on after a kill."""
    loaded = _load(options, start, previous, work)
    ledger = Ledger(name="train")
    rows = two_part_rows(items, mixed, loaded, options.max_length, ledger)
    for line in ledger.lines():
        work.say(line)
    with replacing(work.out / LEDGER) as file:
        file.write(json.dumps({"train": ledger.to_json()}, indent=2, ensure_ascii=False).encode() + b"\n")
    check_context(loaded.model, work)
    args = training_arguments(
        SFTConfig,
        options,
        work.scratch / checkpoints.FOLDER,
        work,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    epochs = None if measure is None else EpochMeasure(measure, loaded, work, options.select_by, name)
    tokenizer: Any = loaded.tokenizer
    trainer = build(
        ExplainingTrainer,
        model=loaded.model,
        args=args,
        data_collator=Collate(tokenizer.pad_token_id, loaded.eyes),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[Teller(work), *([epochs] if epochs is not None else [])],
        weight=options.explanation_weight * mixed.weight,
    )
    keys = ("loss", "loss/answers", "loss/explanations")
    figures = run_training(trainer, loaded, work, name=name, keep=options.save_total_limit, keys=keys)
    return figures | (epochs.choose() if epochs is not None else {})


def _load(options: IllumeOptions, start: str, previous: Path | None, work: Work) -> Loaded:
    """The start, or the iteration before: full weights are read there, an adapter is filled from there."""
    goes_on = previous is not None and options.each_iteration == "continue"
    begin = str(previous) if goes_on and not options.use_peft else start
    loaded = load_policy(begin, options, work, train=options, seed=options.seed)
    if goes_on and options.use_peft:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        weights = policy.read(str(previous)).adapters[-1] / "adapter_model.safetensors"
        set_peft_model_state_dict(loaded.model, load_file(str(weights)), adapter_name=TRAINED)
    return loaded


class EpochMeasure(TrainerCallback):
    """Measures at the end of every epoch, and keeps the model of the best one; `epoch-STEP.json` says what was found.

    A checkpoint may be older than the measurement, or the measurement may be missing for the checkpoint a killed run
    goes on from: both are looked at when training begins.
    """

    def __init__(self, measure: Measure, loaded: Loaded, work: Work, select_by: str, name: str) -> None:
        self.measure, self.loaded, self.work = measure, loaded, work
        self.select_by, self.name = select_by, name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self._maybe(args, state, **kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._maybe(args, state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._maybe(args, state, **kwargs)

    def _maybe(self, args: Any, state: Any, *, model: Any, train_dataloader: Any, **kwargs: Any) -> None:
        step = state.global_step
        an_epoch = max(math.ceil(len(train_dataloader) / args.gradient_accumulation_steps), 1)
        # An interrupted loop also says that its epoch is over.
        if step % an_epoch and step != state.max_steps:
            return
        if self._file(step).is_file():
            return
        found = self.measure(replace(self.loaded, model=model))
        earlier = self._measured()
        if all(self._value(found) > self._value(one) for one in earlier.values()):
            loaded = self.loaded
            save_policy(
                model, loaded.tokenizer, loaded.policy, self.name, self._folder(step), eyes=loaded.eyes
            )
        with replacing(self._file(step)) as file:
            file.write(json.dumps(found, indent=1, ensure_ascii=False).encode() + b"\n")
        self.work.log(
            {"step": step, **{f"held_out/{k}": v for k, v in found.items() if isinstance(v, float)}}
        )
        best = self._best()
        for other in earlier:
            if other != best:
                shutil.rmtree(self._folder(other), ignore_errors=True)

    def choose(self) -> dict[str, Any]:
        """Put the chosen epoch's model in place; its figures."""
        found, best = self._measured(), self._best()
        if self.select_by == "last":
            best = max(found)
        elif self._folder(best).is_dir():
            shutil.rmtree(self.work.out / MODEL, ignore_errors=True)
            self._folder(best).rename(self.work.out / MODEL)
        for other in found:
            shutil.rmtree(self._folder(other), ignore_errors=True)
        return {"chosen_step": best, "held_out": found[best]}

    def _best(self) -> int:
        """The earliest of the best; every later one had to be strictly better to be saved."""
        found = self._measured()
        return max(sorted(found), key=lambda step: self._value(found[step]))

    def _value(self, figures: dict[str, Any]) -> float:
        return float(figures["acceptance" if self.select_by == "last" else self.select_by])

    def _measured(self) -> dict[int, dict[str, Any]]:
        files = sorted(self.work.out.glob("epoch-*.json"))
        return {int(f.stem.split("-")[1]): json.loads(f.read_text(encoding="utf-8")) for f in files}

    def _file(self, step: int) -> Path:
        return self.work.out / f"epoch-{step}.json"

    def _folder(self, step: int) -> Path:
        return self.work.out / f"{MODEL}-{step}"
