"""`python -m benchmarks.unlearning [--seeds 3] [--smoke] [--json FILE] [--keep DIR]`.

Runs `recipes/unlearning.yaml` once for each seed, each time over other invented people, and holds the measures against
one claim: gradient ascent collapses (utility goes to nothing), while NPO with a retain term reaches a forget quality
above 0.05 with a utility within 10 % of where it started.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.forgetting.authors import splits, write
from pipelines import provenance

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "unlearning.yaml"
CLAIM = (
    "gradient ascent collapses (utility goes to nothing), while NPO with a retain term reaches a forget quality above "
    "0.05 with a utility within 10 % of where it started"
)
METHODS = ("npo_rt", "npo_kl", "ga", "graddiff", "simnpo", "idk_dpo")
SMOKE = (
    "stages.full.max_steps=20",
    "stages.retrain.max_steps=20",
    *(f"stages.{method}.num_train_epochs=1" for method in METHODS),
    "stages.forgetting.bootstrap=100",
    "stages.forgetting.attacks.relearn.steps=2",
    "stages.forgetting.max_new_tokens=8",
)
QUALITY, DROP, COLLAPSED = 0.05, 0.1, 0.1
"""Forget quality above which two models are not told apart; the utility that may be lost; the share of it below which
nothing is left."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unlearning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one seed and a few steps: shows that it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="leave the runs, with their pages, in this folder")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {"claim": CLAIM, "seeds": {}}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(1 if asked.smoke else asked.seeds):
            began = time.monotonic()
            folder = (asked.keep or Path(place)) / f"seed-{seed}"
            one = run(folder.absolute(), seed, SMOKE if asked.smoke else ())
            one["seconds"] = round(time.monotonic() - began, 1)
            found["seeds"][str(seed)] = one
            print(f"seed {seed}, {one['seconds']:.0f} s", *one["lines"], sep="\n", flush=True)
            found |= {
                "smoke": asked.smoke,
                "table": table(found["seeds"]),
                "held": {seed: one["held"] for seed, one in found["seeds"].items()},
                "versions": provenance.versions(),
                "commit": provenance.commit(ROOT),
                "cpu": provenance.cpu_model(),
            }
            if asked.json:  # after every seed: what is there stays, whatever happens to the next
                asked.json.parent.mkdir(parents=True, exist_ok=True)
                asked.json.write_text(
                    json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
                )
    print(*lines(found), sep="\n")
    return found


def run(folder: Path, seed: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe over the people of this seed, by the command that a person types."""
    recipes = folder / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RECIPE, recipes / RECIPE.name)
    write(recipes / "data" / "authors", splits(seed=seed), lambda _: None)
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipes / RECIPE.name)]
    command += [f"defaults.seed={seed}", *overrides, "--runs-dir", str(folder / "runs")]
    environment = {
        "OMP_NUM_THREADS": "1",
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"seed {seed}: the recipe ended with {done.returncode}\n{done.stderr[-3000:]}")
    stage = folder / "runs" / "unlearning" / "forgetting"
    figures: dict[str, Any] = json.loads((stage / "forgetting.json").read_text(encoding="utf-8"))
    lines: list[str] = json.loads((stage / "done.json").read_text(encoding="utf-8"))["metrics"]["lines"]
    return {
        "held": held(figures["models"]),
        "models": figures["models"],
        "attacks": figures["attacks"],
        "samples": figures["samples"],
        "lines": lines[: lines.index("")],
    }


def held(models: Mapping[str, Any]) -> dict[str, bool]:
    """The three parts of the claim."""
    start = models["full"]["utility"]["value"]
    npo, ga = models["npo_rt"], models["ga"]
    return {
        "npo_rt forgets": npo["forget_quality"]["value"] > QUALITY,
        "npo_rt keeps utility": npo["utility"]["value"] >= (1 - DROP) * start,
        "ga collapses": ga["utility"]["value"] <= COLLAPSED * start,
    }


def table(seeds: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """For each model and figure the values of all seeds, in their order."""
    read = {
        "forget_quality": lambda one: one["forget_quality"],
        "utility": lambda one: one["utility"],
        "forget_probability": lambda one: one["sets"]["forget"]["probability"],
        "retain_probability": lambda one: one["sets"]["retain"]["probability"],
        "extraction_strength": lambda one: one["extraction_strength"],
        "auc": lambda one: one["auc"],
    }
    labels = next(iter(seeds.values()))["models"]
    return {
        label: {
            name: [float(f"{of(one['models'][label])['value']:.4g}") for one in seeds.values()]
            for name, of in read.items()
        }
        for label in labels
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Every seed's forget quality and utility, with the median; then the claim, part by part."""
    made = [f"{len(found['seeds'])} seeds", f"{'':10}  {'forget quality':34}  utility"]
    for label, row in found["table"].items():
        qualities = " ".join(f"{value:.2g}" for value in row["forget_quality"])
        utilities = " ".join(f"{value:.3f}" for value in row["utility"])
        quality, utility = (statistics.median(row[key]) for key in ("forget_quality", "utility"))
        made.append(f"{label:10}  {f'{quality:.2g} ({qualities})':34}  {utility:.3f} ({utilities})")
    parts = list(found["held"].values())
    if found["smoke"]:
        return [*made, "a smoke run says nothing about the claim"]
    return [
        *made,
        *(f"{name}: in {sum(part[name] for part in parts)} of {len(parts)} seeds" for name in parts[0]),
    ]


if __name__ == "__main__":
    main()
