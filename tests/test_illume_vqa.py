"""easy-VQA as rows: what the pictures show follows from their questions, and no picture stands in two parts."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.illume.vqa import COLOURS, SHAPES, Sizes, build, package, pictures
from data.jsonl import read_jsonl

ROWS = Path(__file__).parent.parent / "recipes" / "data" / "easy-vqa"
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None, reason="needs the pictures: pip install easy-vqa"
)


@needs_package
def test_the_recipes_rows_are_those_of_the_package():
    for name, rows in build(Sizes()).items():
        assert read_jsonl(ROWS / f"{name}.jsonl") == rows, name


@needs_package
def test_what_is_seen_fits_every_question_of_the_picture():
    found = pictures("train")
    assert len(found) > 3000
    for one in found:
        for question, answer in one.asked:
            words = question.rstrip("?").split()
            named = next((word for word in (*COLOURS, *SHAPES) if word in words), None)
            if answer in ("yes", "no"):
                assert (named in (one.colour, one.shape)) == (answer == "yes"), (one, question)
            else:
                assert answer in (one.colour, one.shape), (one, question)
        assert (package() / "train" / "images" / f"{Path(one.image).stem}.png").is_file()


@needs_package
def test_colours_are_in_the_pictures_as_the_questions_say():
    """Another way to know: of the pixels that are not background, most have the colour that is told."""
    from PIL import Image

    tones = {"black": (0, 0, 0), "red": (255, 0, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
    for one in pictures("test")[:200]:
        if one.colour not in tones:
            continue
        with Image.open(package() / one.image.replace("images/test", "test/images")) as picture:
            counts: Any = picture.convert("RGB").getcolors(64 * 64)
        ranked = [colour for _, colour in sorted(counts, reverse=True)][:2]
        near = min(
            sum(abs(a - b) for a, b in zip(tones[one.colour], colour, strict=True)) for colour in ranked
        )
        assert near < 150, (one, ranked)


def test_no_picture_stands_in_two_parts():
    parts = {
        name: {row["image"] for row in read_jsonl(ROWS / f"{name}.jsonl")}
        for name in ("answers", "start", "train", "held-out")
    }
    assert [len(images) for images in parts.values()] == [3000, 800, 300, 150]
    assert parts["start"] < parts["answers"]
    assert not parts["answers"] & parts["train"]
    assert all(image.startswith("images/test/") for image in parts["held-out"])
    for row in read_jsonl(ROWS / "train.jsonl"):
        assert row["reference"].split()[-2:] == row["facts"]


def test_question_and_answer_never_tell_the_whole_explanation():
    for name in ("train", "held-out"):
        for row in read_jsonl(ROWS / f"{name}.jsonl"):
            told = {*row["prompt"].rstrip("?").split(), row["answer"]}
            assert not set(row["facts"]) <= told, row


def test_each_kind_of_question_is_asked_about_as_often():
    said = Counter(row["completion"].strip() for row in read_jsonl(ROWS / "answers.jsonl"))
    assert set(said) == {*COLOURS, *SHAPES, "yes", "no"}
    colours, shapes = (sum(said[word] for word in words) for words in (COLOURS, SHAPES))
    assert 0.9 < colours / shapes < 1.1
    # In the package it is one in six.
    assert said["yes"] / (said["yes"] + said["no"]) > 1 / 3
