"""Settings of one stage that do not go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pipelines.reading.stage_values import Placed
from pipelines.reading.tree import Tree
from pipelines.rules.illume import illume_findings
from pipelines.rules.losses import check_stated
from pipelines.stage import Stage
from pipelines.stages.illume import Illume
from pipelines.stages.judge import Judge
from pipelines.stages.prefer import Prefer
from pipelines.stages.sample import Sample
from pipelines.stages.sft import Sft
from pipelines.stages.unlearn import Unlearn
from trainers.config import SMOOTHED, AdapterOptions, ModelOptions, TrainingOptions

Finding = tuple[tuple[str, ...], str, tuple[str, ...]]
"""The keys that do not go together, what is wrong, and the path it is told at."""


def check_combinations(tree: Tree, placed: list[Placed], names: Mapping[str, int]) -> None:
    at = {one.index: one for one in placed}
    for one in placed:
        for keys, message, path in _findings(one.stage):
            # What was refused already has its default here, and a default is nobody's contradiction.
            if not one.wrong & set(keys):
                tree.fault(one.at(*path), message)
        if isinstance(one.stage, AdapterOptions):
            _without_adapter(tree, one, one.stage)
        if isinstance(one.stage, Prefer):
            check_stated(tree, one)
        stage = one.stage
        if isinstance(stage, Illume) and stage.placebo_of is not None and "placebo_of" not in one.wrong:
            copied = at.get(names.get(stage.placebo_of, -1))
            if copied is not None and not isinstance(copied.stage, Illume):
                tree.fault(one.at("placebo_of"), f"`{stage.placebo_of}` is no illume stage")
        if isinstance(stage, Judge) and "candidates" not in one.wrong:
            sampled = at.get(names.get(stage.candidates, -1))
            if sampled is None or not isinstance(sampled.stage, Sample) or sampled.wrong:
                continue
            if sampled.stage.num_return_sequences < 2:
                message = f"`{stage.name}` makes pairs of these answers: a pair needs at least 2"
                tree.fault(sampled.at("num_return_sequences"), message)


def _without_adapter(tree: Tree, one: Placed, stage: AdapterOptions) -> None:
    """Settings of an adapter that is not trained: given on the stage itself, they would be read by nobody."""
    if stage.use_peft or "use_peft" in one.wrong:
        return
    own = cast("Mapping[str, Any]", tree.value["stages"][one.index])
    for key in AdapterOptions.model_fields:
        if key != "use_peft" and key in own:
            tree.notice(one.at(key), "no effect without an adapter: `use_peft: true` trains one")


def _findings(stage: Stage) -> Iterator[Finding]:
    if isinstance(stage, ModelOptions) and stage.load_in_4bit and stage.load_in_8bit:
        yield ("load_in_4bit", "load_in_8bit"), "load_in_4bit is set too: keep one of them", ("load_in_8bit",)
    if isinstance(stage, TrainingOptions):
        yield from _training(stage)
    if isinstance(stage, Sft) and stage.packing and stage.max_length is None:
        yield (
            ("packing", "max_length"),
            "packing fills rows up to `max_length`: write a length",
            ("max_length",),
        )
    if isinstance(stage, Prefer) and stage.loss is None:
        yield from _losses(stage)
    if isinstance(stage, Illume):
        yield from illume_findings(stage)


def _training(stage: TrainingOptions) -> Iterator[Finding]:
    if stage.max_steps == 0:
        yield (
            ("max_steps",),
            "0 steps train nothing; write a number of steps, or -1 for whole epochs",
            ("max_steps",),
        )
    if stage.training.get("fp16") is True and stage.bf16 is not False:
        path = ("training", "fp16")
        yield ("bf16", "training"), "fp16 and bf16 exclude each other: write `bf16: false` too", path
    evaluates = stage.training.get("eval_strategy", "no") != "no"
    held_out = "eval_data" if isinstance(stage, Sft) else "eval_pairs"
    if evaluates and isinstance(stage, (Unlearn, Illume)):
        path = ("training", "eval_strategy")
        when = "after every epoch" if isinstance(stage, Illume) else "every `watch: {every: ...}` steps"
        yield ("training",), f"`kind: {stage.kind}` measures itself {when}: leave it out", path
    elif evaluates and getattr(stage, held_out, None) is None:
        path = ("training", "eval_strategy")
        yield ("training", held_out), f"there is nothing to evaluate on: give `{held_out}:`", path
    if stage.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy") and not evaluates:
        message = "this schedule follows an evaluation: write `training: {eval_strategy: steps}` too"
        yield ("lr_scheduler_type", "training"), message, ("lr_scheduler_type",)


def _losses(stage: Prefer) -> Iterator[Finding]:
    # A stage with a refused value was not converted: a list is still a list there, and no tuple.
    told = cast("object", stage.loss_type)
    losses = [told] if isinstance(told, str) else list(cast("tuple[str, ...]", told))
    if stage.loss_weights is not None and len(stage.loss_weights) != len(losses):
        count, weights = len(losses), len(stage.loss_weights)
        message = f"found {weights} weights for {count} loss{'es' if count != 1 else ''}: write one for each"
        yield ("loss_type", "loss_weights"), message, ("loss_weights",)
    if stage.label_smoothing and not SMOOTHED & set(losses):
        meant = (
            ": write `loss_type: cdpo`"
            if losses == ["sigmoid"]
            else f"; {', '.join(sorted(SMOOTHED))} read it"
        )
        message = f"{', '.join(losses)} ignores label_smoothing{meant}"
        yield ("loss_type", "label_smoothing"), message, ("label_smoothing",)
    if "exo_pair" in losses and stage.label_smoothing == 0:
        message = "exo_pair takes the logarithm of it: write a number above 0, such as 1e-3"
        yield ("loss_type", "label_smoothing"), message, ("label_smoothing",)
