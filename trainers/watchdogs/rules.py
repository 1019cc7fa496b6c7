"""A watch as a rule over one figure: beyond its bound often enough in a row, it fires. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from trainers.training.watch_config import Action

USUAL = 20
"""Steps whose gradient norms make up what is usual."""
FEWEST = 5
"""Norms that must be known before one of them can be unusual."""
GRAM = 4


@dataclass(frozen=True)
class Reading:
    """A figure and its bound."""

    value: float
    bound: float
    below: bool = False
    """Whether it must not fall below the bound, instead of not rising above it."""

    @property
    def beyond(self) -> bool:
        """A value that is no number is beyond every bound."""
        return not (self.value >= self.bound if self.below else self.value <= self.bound)


@dataclass
class Streak:
    """How often in a row a figure was beyond its bound, and when it last was not."""

    count: int = 0
    quiet: int = 0
    """The last step whose weights were within; what lies behind it may be part of the fault."""
    fired: bool = False
    """Since it went beyond; it fires once until it comes back."""

    def add(self, step: int, reading: Reading, patience: int) -> bool:
        """Whether it fires."""
        if not reading.beyond:
            self.count, self.quiet, self.fired = 0, step, False
            return False
        self.count += 1
        if self.fired or self.count < patience:
            return False
        self.fired = True
        return True


@dataclass(frozen=True)
class Firing:
    """A watch that fired, as the record of the run tells it."""

    watch: str
    step: int
    value: float | None
    """None: it is no finite number."""
    limit: float
    action: Action
    since: int
    """The first step that may be part of the fault."""
    to: int | None = None
    """The step of the checkpoint that the stage went back to, or ended with."""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if not (key == "to" and value is None)}


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass
class Norms:
    """The gradient norms of the first and of the last steps."""

    first: list[float] = field(default_factory=list[float])
    last: list[float] = field(default_factory=list[float])

    def times_usual(self, norm: float) -> float | None:
        """The norm in times of the larger of both medians: a stage whose gradients have died down has not forgotten
        what they were. None while too few are known. The norm itself counts from the next step on."""
        usual = max(median(self.first), median(self.last)) if len(self.first) >= FEWEST else 0.0
        if math.isfinite(norm):
            if len(self.first) < USUAL:
                self.first.append(norm)
            self.last = [*self.last, norm][-USUAL:]
        if not math.isfinite(norm):
            return math.inf
        return norm / usual if usual else None


def both_fall(chosen: float, rejected: float) -> float:
    """Of two falls: what both have lost, less what the margin between them has gained.

    Chosen answers that lose a little while rejected ones lose much are preference training at work.
    """
    return min(chosen, rejected) - max(0.0, rejected - chosen)


def repetition(answers: Sequence[Sequence[int]]) -> float:
    """The share of 4-grams that stood before in the same answer, mean over the answers; 0 for one too short."""
    shares: list[float] = []
    for ids in answers:
        grams = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return fmean(shares) if shares else 0.0


@dataclass(frozen=True)
class Measured:
    """What one measurement found; None is what this stage does not measure."""

    step: int
    repetition: float | None = None
    """Share of 4-grams of tokens in greedy answers that stood before in the same answer."""
    entropy: float | None = None
    """Nats, of the next token, mean over the greedy answers' tokens."""
    log_z_squared: float | None = None
    """Mean over the same tokens of the squared logarithm of the softmax's sum."""
    attention_logits: float | None = None
    """The largest logit of any head in prompt and greedy answer."""
    utility: float | None = None
    """Mean over the probe's answers of exp(mean token log-probability)."""
    chosen_logps: float | None = None
    """Mean log-probability per token of the probe's chosen answers."""
    rejected_logps: float | None = None

    def figures(self) -> dict[str, float]:
        return {k: v for k, v in asdict(self).items() if v is not None and k != "step"}


def readings(
    rules: Mapping[str, Any], now: Measured, start: Measured, *, forgets: bool
) -> dict[str, Reading]:
    """The measured figures against their bounds. `forgets`: a model that only grows surer is not at fault."""
    found: dict[str, Reading] = {}

    def both(name: str) -> tuple[float, float] | None:
        one, other = getattr(now, name), getattr(start, name)
        return None if one is None or other is None else (one, other)

    if (rule := rules.get("utility_drop")) and (known := both("utility")):
        found["utility_drop"] = Reading(known[0], (1 - rule.limit) * known[1], below=True)
    if (rule := rules.get("repetition")) and (known := both("repetition")):
        found["repetition"] = Reading(known[0], known[1] + rule.limit)
    if (rule := rules.get("entropy")) and (known := both("entropy")):
        fell = both("utility")
        harmless = forgets and (fell is None or fell[0] >= fell[1])
        found["entropy"] = Reading(known[0], 0.0 if harmless else rule.limit * known[1], below=True)
    if (rule := rules.get("log_z")) and (known := both("log_z_squared")):
        found["log_z"] = Reading(math.sqrt(known[0]) - math.sqrt(known[1]), rule.limit)
    if (rule := rules.get("attention_logits")) and (known := both("attention_logits")):
        found["attention_logits"] = Reading(known[0], max(rule.floor, rule.limit * known[1]))
    chosen, rejected = both("chosen_logps"), both("rejected_logps")
    if chosen and rejected:
        found |= falls(rules, chosen[1] - chosen[0], rejected[1] - rejected[0])
    return found


def falls(rules: Mapping[str, Any], chosen: float, rejected: float) -> dict[str, Reading]:
    """What two falls, in nats per token, mean to the rules."""
    found: dict[str, Reading] = {}
    if rule := rules.get("chosen_drop"):
        found["chosen_drop"] = Reading(chosen, rule.limit)
    if rule := rules.get("both_fall"):
        found["both_fall"] = Reading(both_fall(chosen, rejected), rule.limit)
    return found
