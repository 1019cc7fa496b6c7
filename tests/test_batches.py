"""Batches of rows as groups: who shares a prompt, how sums follow from tokens, and that weights count as repetition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainers.engine.batches import JudgedBatches, PairBatches
from trainers.engine.groups import Engine
from trainers.engine.scoring import Scored

P, Q = [1, 2, 3], [4]
ROWS = [
    {"prompt_ids": P, "chosen_ids": [5, 6], "rejected_ids": [7, 8, 9]},
    {"prompt_ids": Q, "chosen_ids": [5], "rejected_ids": [6, 7]},
    {"prompt_ids": P, "chosen_ids": [5, 6], "rejected_ids": [10]},
]


def reference(prompt: Any, completion: Any) -> np.ndarray:
    """A made-up value for every token, told apart by prompt."""
    return np.array([-0.01 * token - len(prompt) for token in completion], dtype=np.float32)


def scored(batch: dict[str, Any]) -> Scored:
    """Minus a tenth of each scored token, as if that were its log-probability."""
    layout = batch["layout"]
    return Scored(-layout.targets.double() / 10, layout.offsets, {})


@pytest.mark.parametrize("engine", ["tree", "packed", "padded"])
def test_sums_of_both_sides_and_of_the_reference(engine: Engine):
    collate = PairBatches(pad=0, engine=engine, reference=reference)
    batch = collate(ROWS)
    read = collate.inputs(batch, scored(batch))
    assert read.chosen.tolist() == pytest.approx([-1.1, -0.5, -1.1])
    assert read.rejected.tolist() == pytest.approx([-2.4, -1.3, -1.0])
    assert read.chosen_length.tolist() == [2, 1, 2]
    assert read.rejected_length.tolist() == [3, 2, 1]
    assert read.ref_chosen is not None
    assert read.ref_rejected is not None
    assert read.ref_chosen.tolist() == pytest.approx([-6.11, -1.05, -6.11])
    assert read.ref_rejected.tolist() == pytest.approx([-9.24, -2.13, -3.1])
    assert collate.totals(batch).rows.item() == 3
    assert collate.totals(batch).tokens.item() == 5


def test_in_a_tree_a_prompt_and_an_answer_of_a_batch_stand_once():
    tree, packed = (PairBatches(pad=0, engine=engine)(ROWS)["layout"] for engine in ("tree", "packed"))
    assert tree.sizes == [3, 2]
    assert tree.input_ids.numel() == 3 + 2 + 3 + 1 + 1 + 1 + 2
    assert packed.input_ids.numel() == (3 + 2) + (3 + 3) + (1 + 1) + (1 + 2) + (3 + 2) + (3 + 1)


def test_tokens_beyond_the_shorter_answer_count_by_ld_alpha():
    collate = PairBatches(pad=0, ld_alpha=0.25, reference=reference)
    batch = collate(ROWS)
    read = collate.inputs(batch, scored(batch))
    assert read.rejected.tolist() == pytest.approx([-0.7 - 0.8 - 0.25 * 0.9, -0.6 - 0.25 * 0.7, -1.0])
    assert read.chosen.tolist() == pytest.approx([-1.1, -0.5, -0.5 - 0.25 * 0.6])
    assert read.chosen_plain is not None
    assert read.chosen_plain.tolist() == pytest.approx([-1.1, -0.5, -1.1])
    assert read.ref_rejected is not None
    assert read.ref_rejected[0].item() == pytest.approx(-3.07 - 3.08 - 0.25 * 3.09)


def test_ranked_answers_give_their_pairs_and_weights():
    row = {
        "prompt_ids": P,
        "completions": [[5], [6], [7, 8]],
        "pairs": [[0, 1], [0, 2], [1, 2]],
        "weights": [1.0, 2.0, 0.5],
    }
    collate = PairBatches(pad=0, engine="tree")
    batch = collate([row])
    read = collate.inputs(batch, scored(batch))
    assert batch["weight"].tolist() == [1.0, 2.0, 0.5]
    assert read.chosen.tolist() == pytest.approx([-0.5, -0.5, -0.6])
    assert read.rejected.tolist() == pytest.approx([-0.6, -1.5, -1.5])
    assert collate.totals(batch).rows.item() == 3.5
    assert collate.totals(batch).tokens.item() == 1 + 2 + 0.5


@pytest.mark.parametrize("engine", ["tree", "packed", "padded"])
def test_judged_answers_and_their_baseline(engine: Engine):
    rows = [
        {"prompt_ids": P, "completion_ids": [5, 6], "mismatched_ids": [9], "label": True, "weight": 2.0},
        {"prompt_ids": Q, "completion_ids": [9], "mismatched_ids": [5, 6], "label": False, "weight": 1.0},
    ]
    collate = JudgedBatches(pad=0, engine=engine, reference=reference)
    batch = collate(rows)
    read = collate.inputs(batch, scored(batch))
    assert read.logps.tolist() == pytest.approx([-1.1, -0.9])
    assert read.label is not None
    assert read.label.tolist() == [True, False]
    # Policy less reference of [9] behind P and of [5, 6] behind Q, on average.
    assert read.kl is not None
    assert read.kl.item() == pytest.approx((-0.9 + 3.09 - 1.1 + 2.11) / 2)
    assert collate.totals(batch).rows.item() == 3
    assert collate.totals(batch).tokens.item() == 2 * 2 + 1


def test_a_weight_of_two_is_the_row_twice():
    from trainers import losses

    terms = losses.terms(["sigmoid", "sft"])
    how = losses.Settings()
    heavy = PairBatches(pad=0, reference=reference)
    twice = heavy([{**ROWS[0], "weight": 2.0}, ROWS[1]])
    plain = heavy([ROWS[0], ROWS[1], ROWS[0]])
    assert twice["weight"].tolist() == [2.0, 1.0]
    one, _ = losses.combine(terms, heavy.inputs(twice, scored(twice)), how, weights=twice["weight"])
    other, _ = losses.combine(terms, heavy.inputs(plain, scored(plain)), how)
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


def test_shares_of_micro_batches_add_up_to_the_mean_of_the_step():
    """Of unlike rows and weights: what each micro-batch adds is its share of the mean over all of them."""
    from trainers import losses

    terms = losses.terms(["sigmoid", "sft"])
    how = losses.Settings()
    rows = [{**row, "weight": weight} for row, weight in zip(ROWS, (1.0, 3.0, 0.5), strict=True)]
    collate = PairBatches(pad=0, reference=reference)
    parts = [collate(rows[:1]), collate(rows[1:])]
    over = collate.totals(parts[0]) + collate.totals(parts[1])
    shares = [
        losses.combine(terms, collate.inputs(b, scored(b)), how, weights=b["weight"], over=over)[0]
        for b in parts
    ]
    whole = collate(rows)
    mean, _ = losses.combine(terms, collate.inputs(whole, scored(whole)), how, weights=whole["weight"])
    assert torch.stack(shares).sum().item() == pytest.approx(mean.item(), rel=1e-12)
