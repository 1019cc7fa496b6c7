"""ILLUME in the invented world: does choosing among a model's own explanations teach it to explain?

    python -m benchmarks.illume_world --seeds 3 --json benchmarks/results/illume-world.json
    python -m benchmarks.illume_world --table benchmarks/results/illume-world.json

Arms share scenes, start weights, draws' seeds and steps; they differ in which texts are learned. The placebo learns as
many texts as ILLUME does in the same iteration, drawn uniformly over all its candidates. Measured on held-out scenes:
the share that the critic accepts (ROUGE-L >= 0.7), and the share that names every fact of the scene, which
nothing is trained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from data.illume.critic import RougeCritic, RubricCritic
from data.illume.items import Item, read_items
from data.illume.world import World, build
from data.jsonl import write_jsonl_atomic
from data.ledger import Ledger, LedgerLimits
from data.sources import Mixture
from trainers.comparison import compare
from trainers.config import SftOptions
from trainers.illume.config import IllumeOptions
from trainers.illume.iterate import ITERATIONS, Loop, illume
from trainers.sft import train_sft
from trainers.training.prepare import prepare_sft
from trainers.work import Work

CRITIC = RougeCritic(kind="rouge_l", threshold=0.7)
SECOND = RubricCritic.model_validate({"checks": [{"check": "contains", "column": "facts"}], "threshold": 1.0})
ILLUME, PLACEBO, ANSWERS = "ILLUME", "placebo", "answers only"


def quiet(folder: Path) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(out=folder, say=lambda _: None)


def start(world: World, folder: Path, epochs: float) -> Path:
    """A model from scratch that answers well and explains badly; the rows of the loop lie beside it."""
    made = build(world)
    for name in ("start", "train", "held_out"):
        write_jsonl_atomic(folder / f"{name}.jsonl", getattr(made, name))
    options = SftOptions(
        model="tiny",
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        save_steps=100_000,
        seed=world.seed,
    )
    work = quiet(folder / "start")
    rows = Mixture.model_validate(str(folder / "start.jsonl"))
    prepare_sft(options, "tiny", rows, None, folder, LedgerLimits(), work)
    train_sft(options, "tiny", work, name="start")
    return work.out / "model"


def arm(
    name: str, model: Path, folder: Path, seed: int, texts: tuple[int, ...] | None = None, **other: Any
) -> dict[str, Any]:
    """One loop; its figures before and after every iteration."""
    given: dict[str, Any] = {
        "temperatures": (0.7, 1.0),
        "num_return_sequences": 2,
        "max_new_tokens": 12,
        "batch_size": 256,
        "answer_only_ratio": 4.0,
        "num_train_epochs": 1.0,
        "max_steps": 40,
        "per_device_train_batch_size": 64,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_steps": 100_000,
        "eval_temperature": 0.7,
        "eval_samples": 4,
        "max_iterations": 4,
        "select_by": "last",
        "seed": seed,
        "accept": "placebo" if name == PLACEBO else "critic",
        "placebo_texts": texts,
        "explanation_weight": 0.0 if name == ANSWERS else 1.0,
    }
    options = IllumeOptions(model=str(model), **{**given, **other})
    read = {part: _items(folder, part) for part in ("train", "held_out")}
    out = folder / name.replace(" ", "-")
    loop = Loop(
        options,
        CRITIC,
        str(model),
        {item.key: item for item in read["train"]},
        folder,
        quiet(out),
        "loop",
        read["held_out"],
        CRITIC,
        SECOND,
    )
    illume(loop)
    found = [json.loads((out / ITERATIONS / "base.json").read_text(encoding="utf-8"))]
    done = [
        json.loads((loop.folder(k) / "done.json").read_text(encoding="utf-8"))
        for k in range(options.max_iterations)
    ]
    found += [one["held_out"] for one in done]
    return {
        **{key: [one[key] for one in found] for key in ("acceptance", "second", "answer_accuracy")},
        "covered": [one["covered"] for one in done],
        "new": [one["new"] for one in done],
        "each": [found[0]["each"], found[-1]["each"]],
    }


def _items(folder: Path, name: str) -> list[Item]:
    return read_items(Mixture.model_validate(str(folder / f"{name}.jsonl")), folder, Ledger(name=name))


def gain(found: dict[str, Any], seed: int) -> dict[str, float]:
    """Acceptance after the last iteration minus before, paired by prompt, with its 95 % interval."""
    before, after = found["each"]
    return compare(
        {"a": list(before.values()), "b": [after[key] for key in before]}, resamples=2000, seed=seed
    )["b - a"]


def run(
    seed: int, folder: Path, world: World, epochs: float, *, answers_only: bool = False, **other: Any
) -> dict[str, Any]:
    began = time.process_time()
    model = start(world, folder, epochs)
    after_start = time.process_time()
    found = {ILLUME: arm(ILLUME, model, folder, seed, **other)}
    texts = tuple(found[ILLUME]["new"])
    found[PLACEBO] = arm(PLACEBO, model, folder, seed, texts, **other)
    if answers_only:
        found[ANSWERS] = arm(ANSWERS, model, folder, seed, **other)
    gains = {name: gain(one, seed) for name, one in found.items()}
    for one in found.values():
        del one["each"]
    seconds = {"start": round(after_start - began, 1), "arms": round(time.process_time() - after_start, 1)}
    return {"seed": seed, "arms": found, "gains": gains, "cpu_seconds": seconds}


def table(found: list[dict[str, Any]]) -> str:
    """What was measured, as Markdown: held-out figures before the first iteration and after each."""
    lines = [
        "| arm | seed | measure | by iteration | gain, 95 % interval |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in found:
        for name, figures in one["arms"].items():
            told = one["gains"][name]
            gained = f"{told['mean']:+.3f} [{told['low']:+.3f}, {told['high']:+.3f}]"
            for key, shown in (("acceptance", gained), ("second", ""), ("answer_accuracy", "")):
                values = " → ".join(f"{value:.3f}" for value in figures[key])
                lines.append(f"| {name} | {one['seed']} | {key} | {values} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.illume_world", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, …")
    parser.add_argument("--answers-only", action="store_true", help="a third arm without explanations' loss")
    parser.add_argument("--start-epochs", type=float, default=12, help="how long the start learns")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--table", type=Path, help="print the figures of this file as Markdown, and run nothing"
    )
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(asked.table.read_text(encoding="utf-8"))))
        return
    made: list[dict[str, Any]] = []
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            one = run(
                seed, Path(folder), World(seed=seed), asked.start_epochs, answers_only=asked.answers_only
            )
        made.append(one)
        print(f"seed {seed}, CPU seconds {made[-1]['cpu_seconds']}", flush=True)
        for name, found in made[-1]["arms"].items():
            told = made[-1]["gains"][name]
            for key in ("acceptance", "second", "answer_accuracy", "covered", "new"):
                print(f"  {name:13} {key:16} {' '.join(f'{value:6.3g}' for value in found[key])}", flush=True)
            print(
                f"  {name:13} gain {told['mean']:+.3f} [{told['low']:+.3f}, {told['high']:+.3f}]", flush=True
            )
        if asked.json:
            asked.json.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
