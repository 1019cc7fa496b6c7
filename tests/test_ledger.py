"""The ledger's arithmetic, written out."""

import json

import pytest
from pydantic import ValidationError

from data.errors import DataError
from data.ledger import EXAMPLES, Ledger, LedgerLimits


def example():
    """100 read of two files, 10 left out, 20 dropped for two reasons, 70 kept of which 7 cut."""
    ledger = Ledger(name="train")
    ledger.count_read("a.jsonl", 60)
    for _ in range(40):
        ledger.count_read("b.jsonl")
    ledger.leave_out("b.jsonl", 10)
    for number in range(1, 19):
        ledger.drop("the prompt alone fills max_length", f"a.jsonl:{number}")
    for number in (3, 4):
        ledger.identical_pair(by_cutting=number == 4)
        ledger.drop("chosen and rejected are identical", f"b.jsonl:{number}")
    for number in range(70):
        if number < 7:
            ledger.cut_row(number + 1)
        ledger.keep(length=number + 1, tokens=10, loss_tokens=4)
    ledger.note_overlap("held-out", prompts=50, exact=4, near=1, examples=["e.jsonl:1 = a.jsonl:9"])
    return ledger


def test_arithmetic():
    ledger = example()
    assert (ledger.rows_read, ledger.rows_left_out, ledger.rows_dropped, ledger.kept) == (100, 10, 20, 70)
    assert ledger.unaccounted == 100 - 10 - 20 - 70 == 0
    assert (ledger.cut.rows, ledger.cut.tokens, ledger.cut.longest) == (7, 28, 7)  # 1 + 2 + … + 7 = 28
    assert (ledger.tokens, ledger.loss_tokens, ledger.longest) == (700, 280, 70)
    # 1; 2; 3-4; 5-8; 9-16; 17-32; 33-64; 65-70
    assert ledger.lengths == {1: 1, 2: 1, 4: 2, 8: 4, 16: 8, 32: 16, 64: 32, 128: 6}
    assert (ledger.identical, ledger.identical_by_cutting) == (2, 1)
    assert ledger.overlap["held-out"].share == 0.1


def test_a_reason_keeps_its_first_places_only():
    entry = example().dropped["the prompt alone fills max_length"]
    assert entry.count == 18
    assert entry.examples == [f"a.jsonl:{number}" for number in range(1, EXAMPLES + 1)]


def test_lines():
    assert example().lines() == [
        "train: 100 rows read (a.jsonl 60, b.jsonl 40), 70 kept",
        "  left out by the mixture's weights: 10",
        "  dropped 18: the prompt alone fills max_length "
        "(a.jsonl:1, a.jsonl:2, a.jsonl:3, a.jsonl:4, a.jsonl:5, …)",
        "  dropped 2: chosen and rejected are identical (b.jsonl:3, b.jsonl:4)",
        "  cut 7 to max_length: 28 tokens lost, at most 7 in one row",
        "  identical pairs: 2, 1 of them made so by cutting",
        "  tokens 700, 280 with loss; lengths ≤1: 1, ≤2: 1, ≤4: 2, ≤8: 4, ≤16: 8, ≤32: 16, ≤64: 32, ≤128: 6; "
        "longest 70",
        "  held-out: 4 exact and 1 near copies among 50 prompts stand in the training set (e.jsonl:1 = a.jsonl:9)",
    ]


def test_a_clean_ledger_is_one_or_two_lines_and_a_leak_shouts():
    ledger = Ledger(name="t")
    ledger.count_read("a", 2)
    ledger.keep(length=3, tokens=3, loss_tokens=3)
    assert ledger.lines()[-1] == "  NOT ACCOUNTED FOR: 1 rows"
    ledger.keep(length=3, tokens=3, loss_tokens=3)
    ledger.move_prompt_end()
    assert ledger.lines() == [
        "t: 2 rows read, 2 kept",
        "  prompt not a prefix of prompt + completion: 1 (the completion starts where they part)",
        "  tokens 6, 6 with loss; lengths ≤4: 2; longest 3",
    ]


def test_json_round_trip():
    ledger = example()
    again = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
    assert again == ledger
    assert again.lengths[128] == 6
    with pytest.raises(DataError, match=r"no ledger: kept: Input should be a valid integer"):
        Ledger.from_json({**ledger.to_json(), "kept": "many"})
    with pytest.raises(DataError, match="no ledger"):
        Ledger.from_json([])


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max_dropped_share": 0.22}, "rows dropped: 20 of 90 (22.2%), max_dropped_share is 22.0%"),
        ({"max_cut_share": 0.09}, "rows cut: 7 of 70 (10.0%), max_cut_share is 9.0%"),
        (
            {"max_overlap_share": 0},
            "prompts of held-out found in the training set: 5 of 50 (10.0%), max_overlap_share is 0.0%",
        ),
    ],
)
def test_a_share_above_its_limit_fails(limits, told):
    with pytest.raises(DataError) as fault:
        example().check(LedgerLimits(**limits))
    assert fault.value.what == told
    assert fault.value.where == "train"
    assert "dropped 18: the prompt alone" in str(fault.value)


def test_limits_that_hold_and_all_faults_at_once():
    example().check(LedgerLimits())
    example().check(LedgerLimits(max_dropped_share=0.23, max_cut_share=0.1, max_overlap_share=0.1))
    Ledger(name="empty").check(LedgerLimits(max_dropped_share=0, max_cut_share=0, max_overlap_share=0))
    with pytest.raises(DataError, match=r"rows dropped.*; rows cut.*; prompts of held-out"):
        example().check(LedgerLimits(max_dropped_share=0, max_cut_share=0, max_overlap_share=0))


@pytest.mark.parametrize("bad", [{"max_cut_share": 1.1}, {"max_cut_share": -0.1}, {"max_cuts": 0.1}])
def test_limits_are_shares_and_closed(bad):
    with pytest.raises(ValidationError):
        LedgerLimits(**bad)
