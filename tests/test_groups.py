"""The layout of prompt groups: what lies where, who sees whom, what predicts what."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from data.errors import DataError
from trainers.engine.groups import Layout, Segment, lay_out

TWO: Any = [([1, 2, 3], [[4, 5], [6]]), ([7], [[8, 9, 10]])]


def random_groups(seed: int, vocabulary: int = 97) -> Any:
    """Every shape at once: empty and one-token prompts, one to sixteen completions, lone tokens, twins."""
    dice = random.Random(seed)

    def ids(fewest: int, most: int) -> list[int]:
        return [dice.randrange(vocabulary) for _ in range(dice.randint(fewest, most))]

    groups = []
    for _ in range(dice.randint(1, 4)):
        completions = [ids(1, 6) for _ in range(dice.choice([1, 2, 3, 16]))]
        if dice.random() < 0.3:
            completions.append(list(completions[0]))
        groups.append((ids(1, 8) if dice.random() < 0.85 else [], completions))
    return groups


def seen_from(layout: Layout) -> list[list[int]]:
    """For every place in the row, the token ids that it sees, in order: by the segments alone."""
    ids = layout.input_ids[0].tolist()
    seen = []
    for start, length, prefix_start, prefix in layout.segments:
        before = ids[prefix_start : prefix_start + prefix]
        seen.extend(before + ids[start : start + i + 1] for i in range(length))
    return seen


def test_the_tree_by_hand():
    layout = lay_out(TWO)
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 3]]
    assert layout.table == [(0, 3, (3, 5), (2, 1)), (6, 1, (7,), (3,))]
    assert layout.segments == [Segment(0, 5, 0, 0), Segment(5, 1, 0, 3), Segment(6, 4, 6, 0)]
    assert layout.rows.tolist() == [2, 3, 2, 6, 7, 8]
    assert layout.targets.tolist() == [4, 5, 6, 8, 9, 10]
    assert layout.offsets.tolist() == [0, 2, 3, 6]
    assert layout.sizes == [2, 1]
    assert layout.longest == 5


def test_places_know_their_branch_and_segments_what_they_see():
    group, branch = lay_out(TWO).branches()
    assert group.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert branch.tolist() == [-1, -1, -1, 0, 0, 1, -1, 0, 0, 0]
    seen = lay_out(TWO).seen()
    assert seen is not None
    assert seen.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9]
    assert lay_out(TWO, "packed").seen() is None


def test_packed_and_padded_by_hand():
    packed = lay_out(TWO, "packed")
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, 9, 10]]
    assert all(segment.prefix_length == 0 for segment in packed.segments)
    padded = lay_out(TWO, "padded", pad=99)
    assert padded.input_ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 6, 99], [7, 8, 9, 10, 99]]
    assert padded.attention_mask is not None
    assert padded.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    assert padded.rows.tolist() == [2, 3, 7, 10, 11, 12]


def test_behind_an_empty_prompt_the_first_token_is_not_scored():
    layout = lay_out([([], [[1, 2, 3], [4], [5, 6]])])
    assert layout.targets.tolist() == [2, 3, 6]
    assert layout.offsets.tolist() == [0, 2, 2, 3]
    assert layout.position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert seen_from(layout)[3] == [4]


@pytest.mark.parametrize("engine", ["tree", "packed", "padded"])
@pytest.mark.parametrize("seed", range(30))
def test_every_scored_token_is_predicted_by_exactly_its_own_past(seed: int, engine: Any):
    groups = random_groups(seed)
    layout = lay_out(groups, engine)
    expected = [
        (list(prompt) + completion[:i], completion[i])
        for prompt, completions in groups
        for completion in completions
        for i in range(0 if prompt else 1, len(completion))
    ]
    if engine == "padded":
        assert layout.attention_mask is not None
        flat = layout.input_ids.flatten().tolist()
        width = layout.input_ids.shape[1]
        assert layout.attention_mask.flatten()[layout.rows].all()
        found = [flat[row - row % width : row + 1] for row in layout.rows.tolist()]
    else:
        seen = seen_from(layout)
        assert [len(past) - 1 for past in seen] == layout.position_ids[0].tolist()
        found = [seen[row] for row in layout.rows.tolist()]
    assert list(zip(found, layout.targets.tolist(), strict=True)) == expected
    counts = [len(c) - (not prompt) for prompt, completions in groups for c in completions]
    assert layout.offsets.diff().tolist() == counts
    assert layout.longest == max(len(p) + len(c) for p, cs in groups for c in cs)


def test_a_tree_holds_each_prompt_once():
    groups: Any = [([1] * 384, [[2] * 128, [3] * 128])]
    assert lay_out(groups).input_ids.numel() == 384 + 2 * 128
    assert lay_out(groups, "packed").input_ids.numel() == 2 * (384 + 128)


def test_a_layout_moves_with_its_tensors():
    moved = lay_out(TWO, "padded").to("meta")
    tensors = (moved.input_ids, moved.position_ids, moved.attention_mask, moved.rows, moved.targets)
    assert all(tensor is not None and tensor.is_meta for tensor in tensors)
    assert not moved.offsets.is_meta


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "no prompt groups"),
        ([([1], [])], "prompt group 0: a prompt has no completions"),
        ([([1], [[2]]), ([1], [[2], []])], "prompt group 1, completion 1: a completion has no tokens"),
    ],
)
def test_what_cannot_be_scored_is_named(groups: Any, message: str):
    with pytest.raises(DataError, match=message):
        lay_out(groups)


def test_ids_may_be_tensors_of_a_batch():
    groups: Any = [(torch.tensor([1, 2]).tolist(), [torch.tensor([3]).tolist()])]
    assert lay_out(groups).targets.dtype == torch.long
