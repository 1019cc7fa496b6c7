"""What one training stage will take: memory by part, steps, tokens and time, with what each figure rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipelines import machine
from pipelines.planning import cost
from pipelines.planning.choices import setup_of
from pipelines.planning.layouts import Row, heaviest, lay_out
from pipelines.planning.memory import Memory, peak
from pipelines.planning.models import Models
from pipelines.planning.readings import Reader
from pipelines.planning.rows import Lengths
from pipelines.planning.setup import Device, Setup
from pipelines.planning.tokens import Counted, tokenizer_of
from pipelines.stage import Stage
from trainers.config import PreferOptions, TrainingOptions, UnlearnOptions

TRAINED = ("sft", "prefer", "unlearn")
PROGRAM = {"cpu": 480e6, "cuda": 900e6}
"""Python with torch, transformers and TRL; on a GPU, the CUDA context and its libraries."""
REFERENCE_FREE = frozenset({"cpo", "cpo_hinge", "cpo_ipo", "simpo", "orpo", "sft"})


@dataclass(frozen=True)
class Here:
    """The machine, as far as a plan asks."""

    device: Device
    name: str
    memory: float
    free: float
    cores: int
    flags: tuple[str, ...] = ()

    @property
    def pace(self) -> tuple[float, str]:
        return cost.pace(self.device, self.name, self.cores, self.flags)


@dataclass(frozen=True)
class Estimate:
    """A stage's costs on one machine; `unknown` says why there are none."""

    stage: Stage
    unknown: str | None = None
    model: str = ""
    setup: Setup | None = None
    choices: Mapping[str, str] = field(default_factory=dict[str, str])
    rows: Lengths = field(default_factory=Lengths)
    heaviest: tuple[Row, ...] = ()
    memory: Memory | None = None
    program: float = 0.0
    steps: cost.Steps | None = None
    tokens: float = 0.0
    """Positions that go through the layers in all, padding included."""
    seconds: float | None = None
    reference_seconds: float = 0.0
    pace: str = ""

    @property
    def total(self) -> float:
        """Bytes of the process at its peak."""
        return 0.0 if self.memory is None else self.memory.total + self.program


class Estimator:
    """Estimates for the stages of one recipe."""

    def __init__(self, base: Path, stages: Sequence[Stage], finished: Mapping[str, Path]) -> None:
        known = {stage.name: stage for stage in stages}
        self.models = Models(base, known)
        self.reader = Reader(base, known, finished)
        self.tokenizers: dict[Path | None, Counted] = {}

    def estimate(self, stage: Stage, here: Here) -> Estimate:
        """Whatever stands in the way is told as `unknown`."""
        try:
            return self._estimate(stage, here)
        except UserError as fault:
            said = (" ".join(line.split()) for line in str(fault).splitlines())
            return Estimate(stage, unknown="; ".join(line for line in said if line))

    def _estimate(self, stage: Stage, here: Here) -> Estimate:
        start = self.models.start(str(getattr(stage, "model", "")))
        options = stage
        assert isinstance(options, TrainingOptions)
        if start.tokenizer not in self.tokenizers:  # it takes a tenth of a second to read
            self.tokenizers[start.tokenizer] = tokenizer_of(start.tokenizer)
        tokenizer = self.tokenizers[start.tokenizer]
        rows = self._rows(stage, tokenizer)
        longest = max((row.longest for row in rows.rows), default=options.max_length or 0)
        setup, choices = setup_of(stage, start, here.device, longest)
        found = Estimate(stage, model=start.where, setup=setup, choices=choices, rows=rows)
        memory_rows = rows
        if not rows.rows:
            if options.max_length is None:
                return replace(found, unknown=rows.problem or "no rows, and no max_length")
            memory_rows = _full_rows(stage, options.max_length, options.per_device_train_batch_size)
        batch = heaviest(memory_rows.rows, options.per_device_train_batch_size, setup.engine)
        batch = beside(stage, batch, self.reader.retain(stage, tokenizer))
        memory = peak(setup, lay_out(batch, setup.engine))
        found = replace(found, heaviest=batch, memory=memory, program=PROGRAM[here.device])
        return _timed(found, options, here) if rows.rows else found

    def _rows(self, stage: Stage, tokenizer: Counted) -> Lengths:
        rows = self.reader.train(stage, tokenizer)
        template = self.reader.templates(stage, tokenizer)
        if not template or not rows.rows:
            return rows
        both = tuple(Row(prompt, (*answers, template)) for prompt, answers in rows.rows)
        return replace(rows, rows=both)


def beside(stage: Stage, batch: tuple[Row, ...], retain: Lengths | None) -> tuple[Row, ...]:
    """An unlearn stage's batch with as many retain rows, the longest there are."""
    if not isinstance(stage, UnlearnOptions) or retain is None or not retain.rows:
        return batch
    longest = sorted(retain.rows, key=lambda row: -row.tokens)
    return (*batch, *(longest * len(batch))[: len(batch)])


def _full_rows(stage: Stage, length: int, batch_size: int) -> Lengths:
    """Rows of the most there can be: a prompt of a half, and answers that fill the other."""
    half = length // 2
    pairs = isinstance(stage, PreferOptions) or getattr(stage, "method", "") in ("idk_dpo", "flat")
    answers = (length - half,) * (2 if pairs else 1)
    return Lengths(rows=(Row(half, answers),) * batch_size, weights=(1.0,) * batch_size, upper=True)


def _timed(found: Estimate, options: TrainingOptions, here: Here) -> Estimate:
    rows, setup = found.rows, found.setup
    assert setup is not None
    turns = cost.steps(
        rows.count,
        options.per_device_train_batch_size,
        options.gradient_accumulation_steps,
        options.num_train_epochs,
        options.max_steps,
    )
    size = options.per_device_train_batch_size
    batch = cost.mean_batch(rows.rows, rows.weights, size, setup.engine)
    beside_it = len(found.heaviest) / max(
        1, min(size, len(rows.rows))
    )  # retain rows ride in the same forward
    micro = min(turns.total * options.gradient_accumulation_steps, turns.epochs * -(-rows.count // size))
    rate, source = here.pace
    seconds = micro * cost.operations(setup, batch) * beside_it / rate
    reference = 0.0
    if needs_reference(found.stage):
        reference = cost.reference_operations(setup, rows.rows, rows.weights) / rate
    return replace(
        found,
        steps=turns,
        tokens=micro * batch.positions * beside_it,
        seconds=seconds + reference,
        reference_seconds=reference,
        pace=source,
    )


def needs_reference(stage: Stage) -> bool:
    """Whether the start's log-probabilities are measured before the first step."""
    if isinstance(stage, UnlearnOptions):
        return stage.method in ("npo", "idk_dpo")
    if not isinstance(stage, PreferOptions):
        return False
    if stage.loss is not None:
        # Of a name the logic is not read here: most have a reference.
        named = not any(sign in stage.loss.formula for sign in "&|~>")
        return named or "ref." in stage.loss.formula.lower()
    names = {stage.loss_type} if isinstance(stage.loss_type, str) else set(stage.loss_type)
    return not names <= REFERENCE_FREE


def this_machine() -> Here:
    """Its first GPU, or its processor."""
    gpus = machine.gpus()
    cores, flags = machine.usable_cores(), tuple(machine.cpu_flags())
    if gpus:
        first: dict[str, Any] = gpus[0]
        total = float(first["memory_mib"] or 0) * 2**20
        free = float(first.get("free_mib") or first["memory_mib"] or 0) * 2**20
        return Here("cuda", str(first["name"]), total, free, cores, flags)
    return Here("cpu", "", float(machine.memory_limit()), float(machine.memory_available()), cores, flags)
