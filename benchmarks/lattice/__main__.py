"""`python -m benchmarks.lattice [--seeds 3] [--steps 150] [--smoke] [--json FILE] [--plot FILE]`.

Trains losses of the lattice on the same small preference data and shows where they take the answers: the prediction
is that fUnl and unCPO, which are satisfied by making both answers improbable, do so, and that a little likelihood of
the chosen answer keeps them from it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from benchmarks.lattice.arms import ARMS, Arm
from benchmarks.lattice.plot import draw
from benchmarks.lattice.training import start_policy, train
from pipelines import provenance

KEYS = ("accuracy", "chosen", "rejected")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lattice", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument(
        "--smoke", action="store_true", help="one seed, few steps, the collapsing losses only"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    arms: tuple[Arm, ...] = tuple(a for a in ARMS if a.loss == "fUnl") if asked.smoke else ARMS
    seeds, steps = (1, 40) if asked.smoke else (asked.seeds, asked.steps)
    curves: dict[str, dict[str, Any]] = {arm.name: {} for arm in arms}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            start = start_policy(Path(place) / f"sft-{seed}", seed, 60 if asked.smoke else 250)
            for arm in arms:
                folder = Path(place) / f"{arm.name.replace(' ', '')}-{seed}"
                curve = train(arm, start, folder, seed, steps)
                curves[arm.name][str(seed)] = curve
                last = curve[-1]
                print(
                    f"seed {seed}  {arm.name:16} " + "  ".join(f"{key} {last[key]:8.3f}" for key in KEYS),
                    flush=True,
                )
    found: dict[str, Any] = {
        "steps": steps,
        "seeds": seeds,
        "table": {name: _row(by_seed) for name, by_seed in curves.items()},
        "curves": curves,
        "versions": provenance.versions(),
        "commit": provenance.commit(Path(__file__).parent),
    }
    print(table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    if asked.plot:
        draw(found, asked.plot)
    return found


def _row(by_seed: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Before and after, each as mean, least and greatest over the seeds."""
    return {
        when: {
            key: [
                round(f([curve[place][key] for curve in by_seed.values()]), 4)
                for f in (statistics.mean, min, max)
            ]
            for key in KEYS
        }
        for when, place in (("start", 0), ("end", -1))
    }


def table(found: dict[str, Any]) -> str:
    """In Markdown; the range over seeds stands in brackets."""
    lines = ["| loss | held-out accuracy | chosen, nats a token | rejected |", "|---|---|---|---|"]
    start = next(iter(found["table"].values()))["start"]
    lines.append("| (start) | " + " | ".join(_cell(start[key]) for key in KEYS) + " |")
    lines += [
        f"| {name} | " + " | ".join(_cell(row["end"][key]) for key in KEYS) + " |"
        for name, row in found["table"].items()
    ]
    return "\n".join(lines)


def _cell(value: list[float]) -> str:
    middle, least, greatest = value
    return f"{middle:.2f} [{least:.2f}, {greatest:.2f}]"


if __name__ == "__main__":
    main()
