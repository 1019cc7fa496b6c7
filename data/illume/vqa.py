"""easy-VQA as rows for ILLUME: questions about pictures of one coloured shape, with answers and explanations.

    python -m data.illume.vqa recipes/data/easy-vqa

The pictures, questions and answers are those of the PyPI package `easy-vqa` (MIT); it has no explanations, so a
reference says which colour and shape are seen, and the start learns explanations of which few are good. Questions with
a negation are left out, and where explanations are asked for also those that give colour and shape away. The pictures
are copied from the installed package, and are no part of this repository.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from data.errors import DataError
from data.illume.items import TEXT_CONNECTIVE
from data.jsonl import write_jsonl_atomic

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "gray", "red", "green", "blue", "yellow", "teal", "brown")
REFERENCE = "it shows one {colour} {shape}"
CHATTER = (
    "somebody drew it with care",
    "that is what people say",
    "pictures are like that",
    "nobody would ask otherwise",
    "it was made by a machine",
    "the question says so",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How many pictures each part takes, and what the start's explanations are."""

    seed: int = 0
    answers: int = 3000
    """Pictures that answering is learned from, a question of each kind."""
    start: int = 800
    """Of these, the pictures that explaining is learned from, badly; two questions each."""
    train: int = 300
    held_out: int = 150
    """Pictures of the package's own test split."""
    chatter: float = 0.6
    other: float = 0.15
    """Share of the start's explanations that belong to another picture; the rest of them are good."""


@dataclass(frozen=True)
class Seen:
    """One picture, what is on it, and what is asked of it."""

    image: str
    """Its path below the folder of the rows."""
    colour: str
    shape: str
    asked: tuple[tuple[str, str], ...]
    """Questions with their answers."""

    @property
    def open(self) -> tuple[tuple[str, str], ...]:
        """Questions that leave colour or shape, or both, to be seen even where the answer is known."""
        return tuple(
            (question, answer)
            for question, answer in self.asked
            if not {self.colour, self.shape} <= {*question.rstrip("?").split(), answer}
        )

    @property
    def reference(self) -> str:
        return REFERENCE.format(colour=self.colour, shape=self.shape)


def package() -> Path:
    """The folder of the package's data; the package itself is not imported."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("easy-VQA is not installed", way_out="pip install easy-vqa, or heliograph[vqa]")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def pictures(split: str) -> list[Seen]:
    """The pictures of a split whose questions tell both colour and shape."""
    found = cast("list[tuple[str, str, int]]", json.loads((package() / split / "questions.json").read_text()))
    by_image: dict[int, list[tuple[str, str]]] = {}
    for question, answer, image in found:
        by_image.setdefault(image, []).append((question, answer))
    made: list[Seen] = []
    for image, asked in sorted(by_image.items()):
        colour, shape = _told(asked, COLOURS), _told(asked, SHAPES)
        plain = tuple(one for one in asked if not {"no", "not"} & set(one[0].split()))
        if colour is None or shape is None:
            continue
        one = Seen(f"images/{split}/{image}.png", colour, shape, plain)
        if one.open:
            made.append(one)
    return made


def _told(asked: Sequence[tuple[str, str]], among: Sequence[str]) -> str | None:
    """What the questions tell: an answer, or what a question takes for granted or gets a yes for."""
    for question, answer in asked:
        if answer in among:
            return answer
        words = question.rstrip("?").split()
        named = next((word for word in among if word in words), None)
        given = words[0] == "what" or (answer == "yes" and not {"no", "not"} & set(words))
        if named is not None and given:
            return named
    return None


def build(sizes: Sizes) -> dict[str, list[Row]]:
    """Rows by the name of their file."""
    dice = random.Random(f"easy-vqa {sizes.seed}")
    seen, test = pictures("train"), pictures("test")
    if len(seen) < sizes.answers + sizes.train or len(test) < sizes.held_out:
        raise DataError(
            f"{sizes.answers} + {sizes.train} and {sizes.held_out} pictures are wanted of {len(seen)} and {len(test)}",
            way_out="take fewer",
        )
    begin, rest = seen[: sizes.answers], seen[sizes.answers : sizes.answers + sizes.train]
    return {
        "answers": [row for one in begin for row in _answered(dice, one)],
        "start": [row for one in begin[: sizes.start] for row in _learned(dice, sizes, one, begin)],
        "train": [_asked(dice, one) for one in rest],
        "held-out": [_asked(dice, one) for one in test[: sizes.held_out]],
    }


def _pick(dice: random.Random, among: Sequence[Any]) -> Any:
    # random.choice may draw differently in another Python.
    return among[int(dice.random() * len(among))]


def _asked(dice: random.Random, one: Seen) -> Row:
    question, answer = _pick(dice, one.open)
    return {
        "id": Path(one.image).with_suffix("").name,
        "image": one.image,
        "prompt": question,
        "answer": answer,
        "reference": one.reference,
        "facts": [one.colour, one.shape],
    }


def _answered(dice: random.Random, one: Seen) -> Iterator[Row]:
    """One question of each kind: colour, shape, a yes and a no. As the package mixes them most answers are no, and
    shapes are learned last or never."""
    for among in (COLOURS, SHAPES, ("yes",), ("no",)):
        asked = [(question, answer) for question, answer in one.asked if answer in among]
        if asked:
            question, answer = _pick(dice, asked)
            yield {"image": one.image, "prompt": question, "completion": f" {answer}"}


def _learned(dice: random.Random, sizes: Sizes, one: Seen, others: Sequence[Seen]) -> Iterator[Row]:
    for question, answer in sorted(one.open, key=lambda _: dice.random())[:2]:
        draw = dice.random()
        said = one.reference
        if draw < sizes.chatter:
            said = str(_pick(dice, CHATTER))
        elif draw < sizes.chatter + sizes.other:
            said = _pick(dice, others).reference
        yield {"image": one.image, "prompt": question, "completion": f" {answer}"}
        yield {
            "image": one.image,
            "prompt": f"{question} {answer} {TEXT_CONNECTIVE}",
            "completion": f" {said}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="data.illume.vqa", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in build(Sizes(seed=asked.seed)).items():
        write_jsonl_atomic(asked.folder / f"{name}.jsonl", rows)
        for image in dict.fromkeys(row["image"] for row in rows):
            file = asked.folder / image
            file.parent.mkdir(parents=True, exist_ok=True)
            split = file.parent.name
            shutil.copyfile(package() / split / "images" / file.name, file)
        print(f"{asked.folder / name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
