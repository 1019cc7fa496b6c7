"""The invented world as files that recipes read: one corpus, questions to train, to choose and to test by, rationales.

python -m data.radio.corpus recipes/data/places
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.jsonl import write_jsonl_atomic
from data.radio.world import (
    FILLER,
    RELATIONS,
    TOPICAL,
    World,
    invented_value,
    pick,
    place_names,
    scripted_rationale,
    statement,
)

Rows = list[dict[str, Any]]


def world_files(world: World, validation_places: int = 25) -> dict[str, Rows]:
    """Every place states its eight facts, each in one passage; other passages repeat a question and state nothing.

    In one corpus the decoys of a question are the other facts of its place. No two sets of questions have a place in
    common; rationales there are for training questions alone.
    """
    dice = random.Random(f"radio corpus {world.seed}")
    sizes = {"train": world.train_places, "valid": validation_places, "test": world.test_places}
    part = [name for name, size in sizes.items() for _ in range(size)]
    found: dict[str, Rows] = {name: [] for name in ("corpus", "rationales", *sizes)}
    for place, into in zip(place_names(dice, len(part)), part, strict=True):
        values = [invented_value(dice) for _ in RELATIONS]
        texts = [statement(world, dice, place, relation, value) for relation, value in enumerate(values)]
        asked = sorted(range(len(RELATIONS)), key=lambda _: dice.random())[: world.questions_per_place]
        for relation in sorted(asked):
            name = RELATIONS[relation][0]
            texts += _topical(dice, name, place)
            key = f"{place}/{name}".replace(" ", "-")
            question = f"which {name} does {place} have"
            row = {"id": key, "question": question, "golden_answers": [values[relation]]}
            found[into].append(row)
            if into == "train":
                reason = scripted_rationale(place, relation, values[relation])
                found["rationales"].append({"id": key, "reason": reason})
        found["corpus"] += [{"id": f"{place}#{i}".replace(" ", "-"), "text": t} for i, t in enumerate(texts)]
    return found


def _topical(dice: random.Random, name: str, place: str) -> Sequence[str]:
    count = 1 + int(dice.random() * 4)
    made = (
        f"{pick(dice, TOPICAL).format(relation=name, place=place)} , {pick(dice, FILLER)}"
        for _ in range(count)
    )
    return list(dict.fromkeys(made))


def main() -> None:
    parser = argparse.ArgumentParser(prog="data.radio.corpus", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-places", type=int, default=100)
    parser.add_argument("--test-places", type=int, default=50)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    world = World(seed=asked.seed, train_places=asked.train_places, test_places=asked.test_places)
    for name, rows in world_files(world).items():
        write_jsonl_atomic(asked.folder / f"{name}.jsonl", rows)
        print(f"{asked.folder / name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
