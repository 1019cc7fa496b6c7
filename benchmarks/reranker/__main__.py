"""Pairs a second of our cross-encoder scoring against `sentence_transformers.CrossEncoder.predict`.

    python -m benchmarks.reranker [--smoke] [--json FILE]

Same model in memory, same pairs, one process, the two alternating and changing places every round. Scores are compared
before a time is taken. Times are of the process's CPU on a CPU (other programs share the machine) and of the wall on a
GPU. `predict` runs twice: as it is called plainly, and with the batch size that we would choose for it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers

from trainers.radio.reranking import load_reranker, score_pairs

TOLERANCE = {"float32": 2e-6, "bfloat16": 0.05}
WORDS = (
    "the of and in to a is that for it as was with be by on not he his but at are this have from or had an they which "
    "river mountain signal lamp history people country city founded king water stone great north mirror answer light"
)
VOCABULARY = WORDS.split()


def made_pairs(mix: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`mixed`: passages of log-normal length, mean about 125 words; `even`: 100 words each; `short`: 8 to 16 words."""
    dice = random.Random(seed)
    lengths = {
        "mixed": lambda: min(400, max(6, round(dice.lognormvariate(4.5, 0.8)))),
        "even": lambda: 100,
        "short": lambda: dice.randint(8, 16),
    }[mix]
    return [(_text(dice, dice.randint(6, 12)), _text(dice, lengths())) for _ in range(count)]


def _text(dice: random.Random, words: int) -> str:
    return " ".join(dice.choices(VOCABULARY, k=words))


def measure(model: Any, pairs: list[tuple[str, str]], rounds: int, dtype: str) -> dict[str, Any]:
    identity = torch.nn.Identity()
    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: score_pairs(model, pairs),
        "predict": lambda: model.predict(pairs, activation_fn=identity),
        "predict, batch_size=8": lambda: model.predict(pairs, batch_size=8, activation_fn=identity),
    }
    scores = {name: way() for name, way in ways.items()}  # also the warm-up
    gap = float(np.abs(scores["ours"] - scores["predict"]).max())
    if gap > TOLERANCE[dtype]:
        sys.exit(f"the scores differ by {gap:.2e}: nothing was timed")
    cuda = model.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else reversed(list(ways)):
            begun = clock()
            ways[name]()
            if cuda:
                torch.cuda.synchronize()
            times[name].append(clock() - begun)

    def ratios(other: str) -> list[float]:
        return [theirs / mine for mine, theirs in zip(times["ours"], times[other], strict=True)]

    return {
        "pairs": len(pairs),
        "largest_difference": gap,
        "pairs_per_second": {name: _spread([len(pairs) / t for t in found]) for name, found in times.items()},
        "times_predict": _spread(ratios("predict")),
        "times_predict_batch_size_8": _spread(ratios("predict, batch_size=8")),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.reranker", description=__doc__)
    parser.add_argument("--model", default="minilm-l6", help="an alias, a folder or a hub id")
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    parser.add_argument(
        "--smoke", action="store_true", help="few pairs, two rounds: does it run, is it not slower"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load_reranker(asked.model, max_length=512, dtype=asked.dtype)
    count, rounds = (48, 2) if asked.smoke else (asked.pairs, asked.rounds)
    found: dict[str, Any] = {
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
        },
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU, one thread",
        "clock": "wall" if model.device.type == "cuda" else "process CPU time",
        "model": asked.model,
        "dtype": asked.dtype,
        "mixes": {
            mix: measure(model, made_pairs(mix, count), rounds, asked.dtype)
            for mix in ("mixed", "even", "short")
        },
    }
    print(
        f"{found['device']}, {found['clock']}, {asked.model} {asked.dtype}, {found['versions']}, {found['commit']}"
    )
    for mix, figures in found["mixes"].items():
        for name, speed in figures["pairs_per_second"].items():
            print(
                f"  {mix:6} {name:22} {speed['median']:8.1f} pairs/s  [{speed['min']:.1f}, {speed['max']:.1f}]"
            )
        ratio = figures["times_predict"]
        print(f"  {mix:6} {ratio['median']:.2f} times predict [{ratio['min']:.2f}, {ratio['max']:.2f}], "
              f"scores within {figures['largest_difference']:.1e}")  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    slower = [mix for mix, figures in found["mixes"].items() if figures["times_predict"]["median"] < 1]
    if slower:
        sys.exit(f"slower than sentence-transformers: {', '.join(slower)}")


if __name__ == "__main__":
    main()
