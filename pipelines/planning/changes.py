"""What would make a stage smaller, the changes that leave its result alone first, each with the peak it would have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.planning.estimate import Estimate
from pipelines.planning.layouts import Row, heaviest, lay_out
from pipelines.planning.memory import peak
from pipelines.planning.setup import Setup
from trainers.config import TrainingOptions


@dataclass(frozen=True)
class Change:
    """Settings to write, what they cost beside memory, and the process's peak with them."""

    settings: dict[str, Any]
    price: str
    total: float

    def text(self) -> str:
        return ", ".join(f"{key}: {_yaml(value)}" for key, value in self.settings.items())


def changes(found: Estimate) -> list[Change]:
    """From the cheapest to the dearest."""
    if found.setup is None or not isinstance(found.stage, TrainingOptions):
        return []
    made: list[Change] = []
    for settings, price in _candidates(found.stage, found):
        total = _total(found, settings)
        if total < found.total * 0.97:
            made.append(Change(settings, price, total))
    return made


def cheapest(found: Estimate, room: float) -> Change | None:
    """The first change that fits; None where the stage fits as it is, or nothing makes it."""
    if found.memory is None or found.total <= room:
        return None
    return next((change for change in changes(found) if change.total <= room), None)


def _candidates(stage: TrainingOptions, found: Estimate) -> Iterator[tuple[dict[str, Any], str]]:
    options: Any = stage
    batch, times = stage.per_device_train_batch_size, stage.gradient_accumulation_steps
    setup = found.setup
    assert setup is not None
    smallest: dict[str, Any] = {}
    size = batch
    while size > 1 and size % 2 == 0:
        size //= 2
        smallest = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times * batch // size}
        yield smallest, "the same result, a little slower"
    if size > 1:
        smallest = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": times * batch}
        yield smallest, "the same result, a little slower"
    if not setup.checkpointing:
        yield {"gradient_checkpointing": True}, "the same result, a third slower"
        if smallest:
            yield {**smallest, "gradient_checkpointing": True}, "the same result, a third slower"
    small = {**smallest, "gradient_checkpointing": True}
    if not options.use_peft:
        yield {**small, "use_peft": True}, "trains an adapter instead of the weights"
    if setup.quantised is None:
        yield {**small, "use_peft": True, "load_in_4bit": True}, "an adapter on weights rounded to 4 bits"
    for share in (2, 4):
        length = max((row.longest for row in found.heaviest), default=0) // share
        if length >= 16:
            more = {"use_peft": True, "load_in_4bit": True} if setup.quantised is None else {}
            yield (
                {**small, **more, "max_length": length},
                f"{cut_rows(found, length):.0%} of the rows are cut",
            )


def cut_rows(found: Estimate, length: int) -> float:
    """The share of rows that are longer."""
    total = found.rows.count
    weights = zip(found.rows.rows, found.rows.weights, strict=True)
    return sum(weight for row, weight in weights if row.longest > length) / total if total else 1.0


def _total(found: Estimate, settings: dict[str, Any]) -> float:
    setup = found.setup
    assert setup is not None
    changed: Setup = replace(
        setup,
        use_peft=settings.get("use_peft", setup.use_peft),
        quantised="nf4" if settings.get("load_in_4bit") else setup.quantised,
        checkpointing=settings.get("gradient_checkpointing", setup.checkpointing),
        accumulation=settings.get("gradient_accumulation_steps", setup.accumulation),
        copies=0 if settings.get("use_peft") else setup.copies,
    )
    stage: Any = found.stage
    size = settings.get("per_device_train_batch_size", stage.per_device_train_batch_size)
    per_row = len(found.heaviest) // max(1, min(stage.per_device_train_batch_size, len(found.heaviest)))
    batch = heaviest(found.heaviest, size * max(1, per_row), setup.engine)
    if "max_length" in settings:
        batch = tuple(_cut(row, int(settings["max_length"])) for row in batch)
    return peak(changed, lay_out(batch, setup.engine)).total + found.program


def _cut(row: Row, length: int) -> Row:
    prompt = min(row.prompt, length - 1)
    return Row(prompt, tuple(min(answer, length - prompt) for answer in row.answers))


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
