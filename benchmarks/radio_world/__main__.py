"""RADIO in the invented world: does a reranker tuned on rationale-aligned groups help a fixed reader?

    python -m benchmarks.radio_world --seeds 0 1 2 --json arms.json

Arms share questions, documents, start weights, number of steps and reader; they differ in the groups alone. The placebo
is RADIO with the answers and rationales of other questions. Lambda is also chosen: by exact match on questions about
places that are neither trained on nor tested.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.radio.fuse import Scored, align, score_pools
from data.radio.fusion import descending
from data.radio.groups import GroupOptions, make_groups
from data.radio.world import (
    Split,
    World,
    build,
    exact_matches,
    oracle_orders,
    score_placebo,
    syllables,
    words,
)
from trainers.comparison import compare
from trainers.radio.config import RerankerOptions
from trainers.radio.reranker import train_reranker
from trainers.radio.reranking import load_reranker, rerank
from trainers.radio.tiny import build_tiny_reranker
from trainers.work import Work

PLACEBO = "placebo, lambda 0.5"
RADIO = {"RADIO, lambda 0.5": 0.5, "RADIO, lambda 0.7": 0.7, "RADIO, lambda 1": 1.0}
CHOSEN = "RADIO, lambda chosen"
CONTROLS = ("retriever", "un-tuned", PLACEBO)
"""What RADIO must beat, each of them."""
VALIDATION_PLACES = 25


def arms(
    seed: int, places: int, epochs: float, folder: Path, only: Sequence[str] = tuple(RADIO)
) -> dict[str, Any]:
    """Exact match of every test question under every arm, and RADIO's paired differences to each control."""
    started = time.process_time()
    world = World(seed=seed, train_places=places + VALIDATION_PLACES)
    every, test, scorer = build(world)
    train, valid = _parted(every, places * world.questions_per_place)
    scored = list(score_pools(train.pools, train.rationales, scorer, Counter()))
    start = str(build_tiny_reranker(folder / "start", [*words(), *syllables()], seed=seed))
    found = {
        "retriever": exact_matches(test, [range(len(pool.documents)) for pool in test.pools]),
        "un-tuned": _measure(start, test),
    }
    groups = {PLACEBO: (score_placebo(train, scorer, seed), 0.5), "lambda 0": (scored, 0.0)}
    groups |= {name: (scored, RADIO[name]) for name in only}
    chosen_by: dict[str, float] = {}
    for name, (given, weight) in groups.items():
        out = folder / name.replace(" ", "-").replace(",", "")
        out.mkdir()
        model = _trained(start, given, weight, seed, epochs, out)
        found[name] = _measure(model, test)
        if name in RADIO:
            chosen_by[name] = _share(_measure(model, valid))
    choice = max(chosen_by, key=lambda name: chosen_by[name])  # of equal ones the smallest lambda
    found[CHOSEN] = found[choice]
    found["oracle"] = exact_matches(test, oracle_orders(test))
    return {
        "seed": seed,
        "questions": len(test.pools),
        "exact_match": {name: _share(scores) for name, scores in found.items()},
        "choice": {"chosen": choice, "questions": len(valid.pools), "exact_match": chosen_by},
        "positives_that_hold_the_answer": {name: _right_firsts(train, *groups[name]) for name in groups},
        "differences": {
            f"{name} - {control}": compare({control: found[control], name: found[name]}, resamples=2000, seed=seed)[
                f"{name} - {control}"
            ]
            for name in (*only, CHOSEN)
            for control in CONTROLS
        },
        "cpu_seconds": round(time.process_time() - started, 1),
    }  # fmt: skip


def above_all_controls(figures: dict[str, Any], name: str) -> bool:
    """Whether no 95 % interval of the arm's difference to a control holds 0 or lies below it."""
    return all(figures["differences"][f"{name} - {control}"]["low"] > 0 for control in CONTROLS)


def _parted(split: Split, count: int) -> tuple[Split, Split]:
    """The first questions, and the others; each place's questions stand together, so no place is on both sides."""
    return replace(split, pools=split.pools[:count]), replace(split, pools=split.pools[count:])


def _trained(start: str, given: Sequence[Scored], weight: float, seed: int, epochs: float, out: Path) -> str:
    groups = make_groups((align(one, weight) for one in given), GroupOptions(), Counter())
    options = RerankerOptions(
        learning_rate=2e-3,
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        warmup_steps=0.1,
        save_steps=100_000,
        seed=seed,
    )
    train_reranker(options, start, groups, Work(out=out, say=lambda _: None))
    return str(out / "model")


def _measure(model: str, asked: Split) -> list[float]:
    questions = [pool.question for pool in asked.pools]
    documents = [[document.text for document in pool.documents] for pool in asked.pools]
    scores = rerank(load_reranker(model), questions, documents)
    return exact_matches(asked, [descending(one) for one in scores])


def _right_firsts(train: Split, given: Sequence[Scored], weight: float) -> float:
    firsts = [(one.pool, int(align(one, weight).order[0])) for one in given]
    return _share([float(pool.documents[place].id == train.gold[pool.id]) for pool, place in firsts])


def _share(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.radio_world", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--places", type=int, default=100, help="training places; four questions each")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    made: list[dict[str, Any]] = []
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as folder:
            made.append(arms(seed, asked.places, asked.epochs, Path(folder)))
        print(
            f"seed {seed}, {made[-1]['questions']} test questions, {made[-1]['cpu_seconds']} CPU s",
            flush=True,
        )
        right = made[-1]["positives_that_hold_the_answer"]
        for name, value in made[-1]["exact_match"].items():
            told = f"   positives that hold the answer {right[name]:.3f}" if name in right else ""
            print(f"  {name:22} {value:.3f}{told}", flush=True)
        print(f"  chosen on other places: {made[-1]['choice']}", flush=True)
        for name, gap in made[-1]["differences"].items():
            print(f"  {name:44} {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
