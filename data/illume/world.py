"""A small invented world in which a model answers well and explains badly, and a loop of choosing can mend that.

    python -m data.illume.world recipes/data/scenes

A scene says who does what, where and when, in any order, in place of an image. A question asks for one of the four,
and a good explanation names the other three. The start is trained on right answers, and on explanations of which few
are good: most are chatter, some explain another scene.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.illume.items import TEXT_CONNECTIVE
from data.jsonl import write_jsonl_atomic

SLOTS: dict[str, tuple[str, ...]] = {
    "thing": ("mirror", "lamp", "letter", "cloud", "number", "castle", "window", "signal"),
    "deed": ("turn", "open", "close", "carry", "wait", "repeat", "send", "follow"),
    "place": ("mountain", "valley", "station", "river", "garden", "village", "market", "harbour"),
    "season": ("morning", "summer", "winter", "sun", "light", "journey", "question", "reward"),
}
KINDS = ("thing", "deed", "place")
"""What is asked for."""
REFERENCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "thing": ("to {deed} by {place} in {season}", ("deed", "place", "season")),
    "deed": ("of {thing} by {place} in {season}", ("thing", "place", "season")),
    "place": ("to {deed} the {thing} in {season}", ("deed", "thing", "season")),
}
"""What explains an answer, and which parts of the scene it names."""
CHATTER = (
    "not a train of friend and teacher",
    "the doctor is a captain of the forest",
    "she said the system is a model",
    "the user and the assistant learn and explain",
    "not the test said the teacher",
    "a kitchen is a bridge and not a forest",
)


@dataclass(frozen=True)
class World:
    """Its size, and what makes it. The same values give the same world on every machine."""

    seed: int = 0
    start: int = 1600
    """Scenes that the start learns from, each with an answer and an explanation."""
    train: int = 600
    held_out: int = 150
    chatter: float = 0.55
    other: float = 0.15
    """Share of the start's explanations that belong to another scene; the rest of them are good."""


@dataclass(frozen=True)
class Made:
    """Rows for the start's training, for the loop, and for measuring; no question stands in two of them."""

    start: list[dict[str, Any]]
    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]


def build(world: World) -> Made:
    dice = random.Random(f"illume world {world.seed}")
    seen: set[str] = set()
    asked = [_question(dice, seen) for _ in range(world.start + world.train + world.held_out)]
    begin, rest = asked[: world.start], asked[world.start :]
    rows = [row for one in begin for row in _learned(dice, world, one, begin)]
    return Made(rows, rest[: world.train], rest[world.train :])


def _pick(dice: random.Random, among: Sequence[Any]) -> Any:
    # random.choice may draw differently in another Python.
    return among[int(dice.random() * len(among))]


def _question(dice: random.Random, seen: set[str]) -> dict[str, Any]:
    while True:
        scene = {slot: str(_pick(dice, words)) for slot, words in SLOTS.items()}
        told = sorted(scene, key=lambda _: dice.random())
        kind = str(_pick(dice, KINDS))
        prompt = f"The {' '.join(scene[slot] for slot in told)}. Which {kind}?"
        if prompt not in seen:
            break
    seen.add(prompt)
    template, names = REFERENCES[kind]
    return {
        "id": f"q{len(seen) - 1}",
        "prompt": prompt,
        "answer": scene[kind],
        "reference": template.format(**scene),
        "facts": [scene[slot] for slot in names],
    }


def _learned(
    dice: random.Random, world: World, asked: dict[str, Any], others: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    draw = dice.random()
    if draw < world.chatter:
        said = str(_pick(dice, CHATTER))
    elif draw < world.chatter + world.other:
        said = str(_pick(dice, others)["reference"])
    else:
        said = str(asked["reference"])
    prompt, answer = asked["prompt"], asked["answer"]
    return [
        {"prompt": prompt, "completion": f" {answer}"},
        {"prompt": f"{prompt} {answer} {TEXT_CONNECTIVE}", "completion": f" {said}"},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="data.illume.world", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    made = build(World(seed=asked.seed))
    for name, rows in (("start", made.start), ("train", made.train), ("held-out", made.held_out)):
        write_jsonl_atomic(asked.folder / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
