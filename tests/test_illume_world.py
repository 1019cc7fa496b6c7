"""The invented world, trained for real: ILLUME teaches to explain scenes that were never seen, its placebo does not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from data.illume.world import World, build
from data.jsonl import read_jsonl

SCENES = Path(__file__).parent.parent / "recipes" / "data" / "scenes"


def test_the_recipes_scenes_are_those_of_the_world() -> None:
    made = build(World())
    for name, rows in (("start", made.start), ("train", made.train), ("held-out", made.held_out)):
        assert read_jsonl(SCENES / f"{name}.jsonl") == rows, name


@pytest.mark.slow
def test_illume_gains_where_its_placebo_does_not(tmp_path: Path) -> None:
    """One seed of `python -m benchmarks.illume_world`; intervals are paired and resampled over held-out scenes."""
    from benchmarks.illume_world.__main__ import ILLUME, PLACEBO, run

    found = run(0, tmp_path, World(seed=0), 12)
    arms, gains = found["arms"], found["gains"]
    illume, placebo = arms[ILLUME], arms[PLACEBO]
    # Both start from the same weights, and the loop can only work where something is accepted.
    assert illume["acceptance"][0] == placebo["acceptance"][0] > 0
    assert gains[ILLUME]["low"] > 0
    assert gains[ILLUME]["mean"] > gains[PLACEBO]["mean"] + 0.2
    # The measure that nothing is trained on rises too.
    assert illume["second"][-1] > illume["second"][0] + 0.1
    assert illume["second"][-1] > placebo["second"][-1]
    for arm in (illume, placebo):
        assert arm["answer_accuracy"][-1] > arm["answer_accuracy"][0] - 0.05
        assert all(later >= earlier for earlier, later in pairwise(arm["covered"]))
    # What was drawn before is drawn again now and then, and is not new.
    assert illume["new"][0] == placebo["new"][0]
    assert all(drawn <= learned for drawn, learned in zip(placebo["new"], illume["new"], strict=True))
