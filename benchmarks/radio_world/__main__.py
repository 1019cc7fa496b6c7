"""RADIO in the invented world: does a reranker tuned on rationale-aligned groups help a fixed reader?

    python -m benchmarks.radio_world --seeds 0 1 2 --json arms.json

Arms share questions, documents, start weights, number of steps and reader; they differ in the groups alone. The placebo
is RADIO with the answers and rationales of other questions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
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


def arms(seed: int, places: int, epochs: float, folder: Path, only: Sequence[str] = ()) -> dict[str, Any]:
    """Exact match of every test question under every arm, and the paired difference of each to the placebo."""
    started = time.process_time()
    train, test, scorer = build(World(seed=seed, train_places=places))
    scored = list(score_pools(train.pools, train.rationales, scorer, Counter()))
    start = str(build_tiny_reranker(folder / "start", [*words(), *syllables()], seed=seed))
    found = {
        "retriever": exact_matches(test, [range(len(pool.documents)) for pool in test.pools]),
        "un-tuned": _measure(start, test),
    }
    groups = {
        PLACEBO: (score_placebo(train, scorer, seed), 0.5),
        "lambda 0": (scored, 0.0),
        "RADIO, lambda 0.5": (scored, 0.5),
        "RADIO, lambda 0.7": (scored, 0.7),
        "RADIO, lambda 1": (scored, 1.0),
    }
    for name, (given, weight) in groups.items():
        if not only or name in only:
            out = folder / name.replace(" ", "-").replace(",", "")
            out.mkdir()
            found[name] = _trained(start, given, weight, seed, epochs, out, test)
    found["oracle"] = exact_matches(test, oracle_orders(test))
    others = {PLACEBO: found[PLACEBO], **{name: found[name] for name in found if name != PLACEBO}}
    gaps = compare(others, resamples=2000, seed=seed)
    return {
        "seed": seed,
        "questions": len(test.pools),
        "exact_match": {name: sum(scores) / len(scores) for name, scores in found.items()},
        "minus_placebo": {
            name: gaps[f"{name} - {PLACEBO}"] for name in found if f"{name} - {PLACEBO}" in gaps
        },
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def _trained(
    start: str, given: Sequence[Scored], weight: float, seed: int, epochs: float, out: Path, test: Split
) -> list[float]:
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
    return _measure(str(out / "model"), test)


def _measure(model: str, test: Split) -> list[float]:
    questions = [pool.question for pool in test.pools]
    documents = [[document.text for document in pool.documents] for pool in test.pools]
    scores = rerank(load_reranker(model), questions, documents)
    return exact_matches(test, [descending(one) for one in scores])


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
        for name, value in made[-1]["exact_match"].items():
            gap = made[-1]["minus_placebo"].get(name)
            told = (
                f"   minus placebo {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" if gap else ""
            )
            print(f"  {name:22} {value:.3f}{told}", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
