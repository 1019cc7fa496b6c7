"""Times of several steps side by side: alternating, in one process, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Timed = dict[str, dict[str, list[float]]]


def alternate(steps: Mapping[str, Callable[[], float]], rounds: int) -> Timed:
    """Seconds of every step, `rounds` times forwards and backwards through the list (ABBA), after one warm-up each."""
    found: Timed = {name: {"cpu": [], "wall": []} for name in steps}
    for step in steps.values():
        step()
    for turn in range(rounds):
        names = list(steps) if turn % 2 == 0 else list(steps)[::-1]
        for name in names:
            for clock, seconds in _once(steps[name]).items():
                found[name][clock].append(seconds)
    return found


def _once(step: Callable[[], float]) -> dict[str, float]:
    if torch.cuda.is_available():
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        seconds = start.elapsed_time(end) / 1000
        return {"cpu": seconds, "wall": seconds}
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def summary(timed: Timed) -> dict[str, Any]:
    """Milliseconds: median, least and spread of each clock."""
    return {
        name: {
            clock: {
                "median": round(1000 * statistics.median(values), 1),
                "least": round(1000 * min(values), 1),
                "spread": round(1000 * (max(values) - min(values)), 1),
            }
            for clock, values in clocks.items()
        }
        for name, clocks in timed.items()
    }


def ratio(timed: Timed, slow: str, fast: str, clock: str = "cpu") -> dict[str, float]:
    """How many times `fast` goes into `slow`: of the medians, and the least and greatest of one round's."""
    pairs = [a / b for a, b in zip(timed[slow][clock], timed[fast][clock], strict=True)]
    middle = statistics.median(timed[slow][clock]) / statistics.median(timed[fast][clock])
    return {"ratio": round(middle, 3), "least": round(min(pairs), 3), "greatest": round(max(pairs), 3)}
