"""Weights, prompts put together, and KTO's mismatches: values and counts, written out."""

from __future__ import annotations

from typing import Any

import pytest

from data.errors import DataError
from data.ledger import Ledger
from data.preference_rows import grouped, mismatched, weighed
from data.records import Placed


def pair(prompt: list[int], chosen: list[int], rejected: list[int], **more: Any) -> dict[str, Any]:
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, **more}


def test_three_ranked_answers_are_one_row_with_three_pairs_and_three_answers():
    a, b, c = [1, 2], [3], [4, 5, 6]
    ledger = Ledger(name="train", kept=4)
    rows = [pair([9], a, b), pair([8], c, a), pair([9], a, c), pair([9], b, c)]
    assert list(grouped(rows, ledger)) == [
        {
            "prompt_ids": [9],
            "completions": [a, b, c],
            "pairs": [[0, 1], [0, 2], [1, 2]],
            "weights": [1.0, 1.0, 1.0],
        },
        {"prompt_ids": [8], "completions": [c, a], "pairs": [[0, 1]], "weights": [1.0]},
    ]
    assert (ledger.prompts, ledger.answers) == (2, 5)
    assert "  grouped: 2 prompts with 5 different answers, 4 pairs" in ledger.lines()


def test_a_pair_that_stands_there_twice_counts_twice():
    rows = [
        pair([9], [1], [2], weight=0.5),
        pair([9], [1], [2], weight=2.0),
        pair([9], [2], [1], weight=0.25),
    ]
    (row,) = grouped(rows, Ledger(name="train"))
    assert row["pairs"] == [[0, 1], [1, 0]]
    assert row["weights"] == [2.5, 0.25]


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "2", None, True])
def test_a_weight_is_a_number_that_is_not_negative(value: object):
    rows = [Placed("file:1", {"agreement": 1}), Placed("file:2", {"agreement": value})]
    with pytest.raises(DataError, match="the weight in 'agreement' is") as told:
        list(weighed(rows, "agreement"))
    assert told.value.where == "file:2"


def test_weights_that_are_missing_or_all_zero_are_refused():
    with pytest.raises(DataError, match="there is no column 'agreement'"):
        list(weighed([Placed("file:1", {"prompt": "x"})], "agreement"))
    with pytest.raises(DataError, match="all weights in 'w' are 0"):
        list(weighed([Placed("file:1", {"w": 0}), Placed("file:2", {"w": 0.0})], "w"))
    (kept,) = weighed([Placed("file:1", {"w": 3})], "w")
    assert kept.row == {"w": 3, "weight": 3.0}


def single(prompt: int, completion: list[int]) -> dict[str, Any]:
    return {"prompt_ids": [prompt], "completion_ids": completion, "label": True}


def others(rows: list[dict[str, Any]], batch_size: int, max_length: int | None = None) -> list[list[int]]:
    return [row["mismatched_ids"] for row in mismatched(rows, batch_size, max_length)]


def test_mismatches_are_the_row_before_within_the_batch_as_in_trl():
    rows = [single(i, [10 + i]) for i in range(5)]
    assert others(rows, 3) == [[12], [10], [11], [14], [13]]


def test_an_answer_to_the_same_prompt_is_no_mismatch():
    rows = [single(1, [10]), single(1, [11]), single(2, [12]), single(2, [13])]
    assert others(rows, 4) == [[13], [13], [11], [11]]
    # A batch of one prompt borrows from the batch before.
    assert others(rows, 2)[2:] == [[11], [11]]
    assert others([single(1, [10]), single(2, [11]), single(3, [12])], 2) == [[11], [10], [11]]


def test_a_mismatch_is_cut_to_the_room_behind_its_new_prompt():
    rows = [{"prompt_ids": [1] * 3, "completion_ids": [7, 8, 9], "label": True}, single(2, [4])]
    assert others(rows, 2, max_length=5) == [[4], [7, 8, 9]]
    assert others(rows, 2, max_length=3) == [[4], [7, 8]]
    assert others([rows[1], {**rows[0], "prompt_ids": [1] * 5}], 2, max_length=3)[1] == [4]
