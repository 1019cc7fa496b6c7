"""A small invented world in which a model answers well and explains badly, and a loop of choosing can mend that.

A scene says who does what, where and when, in any order, in place of an image. A question asks for one of the four,
and a good explanation names the other three. The start is trained on right answers, and on explanations of which few
are good: most are chatter, some explain another scene.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SLOTS: dict[str, tuple[str, ...]] = {
    "thing": ("mirror", "lamp", "letter", "cloud", "number", "castle", "window", "signal"),
    "deed": ("turn", "open", "close", "carry", "wait", "repeat", "send", "follow"),
    "place": ("mountain", "valley", "station", "river", "garden", "village", "market", "harbour"),
    "season": ("morning", "summer", "winter", "sun", "light", "journey", "question", "reward"),
}
KINDS = ("thing", "deed", "place")
"""What is asked for."""
CONNECTIVE = "reason"
"""What asks for the explanation, after the answer."""
REFERENCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "thing": ("the one of {season} {deed} {place}", ("season", "deed", "place")),
    "deed": ("the {thing} of {place} is {season}", ("thing", "place", "season")),
    "place": ("the {season} {thing} is not {deed}", ("season", "thing", "deed")),
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
    start: int = 2400
    """Scenes that the start learns from, each with an answer and an explanation."""
    train: int = 600
    held_out: int = 150
    chatter: float = 0.82
    other: float = 0.13
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


def slots_named(text: str, row: dict[str, Any]) -> bool:
    """Whether the explanation names exactly the parts of the scene that the reference names, in their places."""
    return text.split() == str(row["reference"]).split()


def _pick(dice: random.Random, among: Sequence[Any]) -> Any:
    # random.choice may draw differently in another Python.
    return among[int(dice.random() * len(among))]


def _question(dice: random.Random, seen: set[str]) -> dict[str, Any]:
    while True:
        scene = {slot: str(_pick(dice, words)) for slot, words in SLOTS.items()}
        told = sorted(scene, key=lambda _: dice.random())
        kind = str(_pick(dice, KINDS))
        prompt = f"The {' '.join(scene[slot] for slot in told)}. What {_ASK[kind]}?"
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


_ASK = {"thing": "model", "deed": "user", "place": "bridge"}


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
        {"prompt": f"{prompt} {answer} {CONNECTIVE}", "completion": f" {said}"},
    ]
