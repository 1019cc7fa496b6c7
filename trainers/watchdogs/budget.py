"""How often a stage is measured, and on how much: for at most 3 % of it, counted in tokens that pass through the model.

Counted, not timed: two runs of one recipe measure at the same steps, and so they fire at the same ones. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

SHARE = 0.03
TRAINED = 3
"""A trained token as a multiple of one that is only read: forward once, and back for twice that. With an adapter the
way back is shorter, and the reference is read besides."""
ENOUGH = 5
"""Measurements for which a whole probe is kept: at the start, and four more. Where there are fewer, it is halved."""
PROMPTS, TOKENS, ROWS = 2, 10, 8
"""What a probe is never cut below."""
MEMORY = {"cpu": 32, "cuda": 300}
"""Tokens that a pass could read while it fetches the weights: it takes no less time for a single one."""
CALL = {"cpu": 1e7, "cuda": 1.2e11}
"""Multiplications that could be done while a layer is called: 0.4 ms at 25 billion a second on a core, 0.8 ms at 150
trillion on a GPU."""


class Size(NamedTuple):
    """Of a probe."""

    prompts: int
    tokens: int
    """The longest that a prompt's answer may be."""
    rows: int
    """Answers that are read, not written."""


class Plan(NamedTuple):
    every: int
    size: Size
    measurements: int
    share: float
    """What all of them cost, of the stage."""


def least(device: str, layers: int, weights: int) -> float:
    """The tokens that a pass counts for at least: with few of them it waits for memory, and for calls."""
    kind = "cpu" if device == "cpu" else "cuda"
    return MEMORY[kind] + CALL[kind] * layers / max(1, weights)


def step_cost(tokens: float, batches: int, floor: float) -> float:
    """Of a training step that has so many micro-batches of so many tokens."""
    return TRAINED * batches * max(tokens, floor)


def probe_cost(size: Size, prompt: float, row: float, floor: float) -> float:
    """Of one measurement: the prompts in one pass, a pass for each token of the answers, and the rows."""
    read = max(size.prompts * prompt, floor) + size.tokens * max(size.prompts, floor)
    return read + (max(size.rows * row, floor) if size.rows else 0)


def sizes(whole: Size, smallest: Size) -> Iterator[Size]:
    """The whole probe, half of it and a quarter."""
    for part in (1, 2, 4):
        yield Size(*(min(full, max(full // part, few)) for full, few in zip(whole, smallest, strict=True)))


def plan(
    steps: int, fewest: int, step: float, whole: Size, smallest: Size, cost: Callable[[Size], float]
) -> Plan | None:
    """The largest probe that can be measured often enough; the smallest, if none can. None: not even that one, twice.

    `fewest` steps lie between two measurements, and a twentieth of all.
    """
    if steps < fewest:
        return None
    least_every = max(fewest, steps // 20)
    enough = min(ENOUGH, _times(steps, least_every))
    found: Plan | None = None
    for size in sizes(whole, smallest):
        paid = int(SHARE * steps * step / cost(size))
        if paid < 2:
            continue
        every = max(least_every, -(-steps // (paid - 1)))
        times = _times(steps, every)
        if found is None or times > found.measurements:
            found = Plan(every, size, times, times * cost(size) / (steps * step))
        if times >= enough:
            break
    return found


def _times(steps: int, every: int) -> int:
    """At the start, at every so many steps, and at the end."""
    return 1 + -(-steps // every)
