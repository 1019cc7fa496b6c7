"""The benchmark of a DPO step, short: right gradients on both sides, and floors well under the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.dpo import limits
from benchmarks.dpo.__main__ import main
from benchmarks.dpo.rows import Shape, pairs, ragged, ranked


@pytest.mark.slow
def test_the_smoke_run_stands_above_its_floors(tmp_path: Path) -> None:
    main(["--smoke", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ratios"]["ours/trl"] >= 2.5
    assert found["ratios"]["ours/trl(c)"] >= 1.3
    assert found["ratios"]["ours+store/trl"] >= 3.5
    assert found["ratios"]["tree4/trl(c)"] >= 3
    assert all(error <= 2e-5 for error in found["gradient_error"].values())
    assert found["versions"]["trl"]
    assert found["limits"].keys() == found["ratios"].keys()


def test_the_arithmetic_of_one_pair_by_hand() -> None:
    """A trunk of 10 weights, one layer of width 2, a vocabulary of 3; a prompt of 4, answers of 2."""
    shape = Shape(width=2, layers=1, heads=1, vocabulary=3, trunk=10)
    data = pairs(1, 4, 2)
    theirs = limits.padded([data], only_answers=True)
    assert (theirs.tokens, theirs.scored) == (12, 4)
    # Trunk 2 * 10 * 12; attention 4 * 2 * (21 + 21); head 2 * 2 * 3 * 4, three times: forward, again, backward.
    assert limits.operations(theirs, shape, reference=False) == 2 * 240 + 3 * 336 + 3 * 48
    assert limits.operations(theirs, shape, reference=True) == 2 * 240 + 3 * 336 + 3 * 48 + 240 + 336 + 48
    ours = limits.tree([(4, [2, 2])])
    assert (ours.tokens, ours.scored) == (8, 4)
    # The first answer continues the prompt: 21 pairs; the second sees 4 and itself: 2 * 4 + 3.
    assert limits.operations(ours, shape, reference=False) == 2 * 160 + 3 * 8 * (21 + 11) + 2 * 48


def test_both_sides_are_given_the_same_pairs() -> None:
    together, apart = ranked(4, 5, 3)
    assert len(apart) == 6
    assert [[together["completions"][i], together["completions"][j]] for i, j in together["pairs"]] == [
        [row["chosen_ids"], row["rejected_ids"]] for row in apart
    ]
    assert ragged(8, 384, 128) == ragged(8, 384, 128)
    assert len({len(row["prompt_ids"]) for row in ragged(8, 384, 128)}) > 4
