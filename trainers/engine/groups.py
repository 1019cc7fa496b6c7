"""Prompt groups laid out for the log-probability engine: each prompt once, its completions behind it, no padding.

    tree     p p p a a a b b | q q c c      one row; a and b both continue p, and do not see each other
    packed   p p p a a a | p p p b b | …    one row; every completion behind a copy of its prompt
    padded   one row per completion, filled up to the longest: the ordinary batch, for models the others do not suit

The first token of every completion is predicted by the prompt's last position, the others by the token before them.
Behind an empty prompt nothing predicts a completion's first token. It is not scored, as in TRL, whose labels begin
at a row's second token: that completion has one log-probability less than it has tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from data.errors import DataError

Engine = Literal["tree", "packed", "padded"]
Group = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Token ids of a prompt, and those of each of its completions."""


class GroupSegments(NamedTuple):
    """Where one group lies in the row."""

    prompt_start: int
    prompt_length: int
    completion_starts: tuple[int, ...]
    completion_lengths: tuple[int, ...]


class Segment(NamedTuple):
    """A stretch of the row that is causal in itself and, before that, sees all of `prefix`."""

    start: int
    length: int
    prefix_start: int
    prefix_length: int


class Layout:
    """A batch of prompt groups as one row of tokens, and what attention and head must know about it.

    A plain class, not a dataclass: FSDP takes dataclasses apart and rebuilds them, layer by layer.
    """

    def __init__(
        self,
        engine: Engine,
        table: list[GroupSegments],
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rows: torch.Tensor,
        targets: torch.Tensor,
        offsets: torch.Tensor,
    ) -> None:
        self.engine: Engine = engine
        self.table = table
        self.input_ids = input_ids
        self.position_ids = position_ids
        self.attention_mask = attention_mask
        """Of padded rows only."""
        self.rows = rows
        """For every scored token, which hidden state predicts it: an index into the rows laid end to end."""
        self.targets = targets
        """The scored tokens, completion by completion, in the order they were given."""
        self.offsets = offsets
        """Completion i owns the scored tokens offsets[i] to offsets[i + 1]; on the CPU."""
        self.segments = [] if engine == "padded" else _segments(table)
        self.longest = max(g.prompt_length + max(g.completion_lengths) for g in table)
        """Tokens of the longest prompt and completion together."""
        self.visits = 0
        """Attention layers that have read this layout: none may miss it without a word."""
        self.kernel = "auto"
        self.took = ""
        """The attention kernel asked for, and the one that ran."""
        self.memo: dict[object, torch.Tensor] = {}
        """What attention derives from the layout, once for all layers."""
        self.wanted: torch.Tensor | None = None
        """Places among the scored tokens; the hidden states that predict these are returned too."""

    @property
    def sizes(self) -> list[int]:
        """Completions of each group."""
        return [len(group.completion_lengths) for group in self.table]

    def branches(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For every place of the row its group, and its completion in it; -1 in the prompt."""
        group = torch.empty(self.input_ids.shape[1], dtype=torch.long)
        branch = torch.full_like(group, -1)
        for i, (start, _, starts, lengths) in enumerate(self.table):
            group[start : starts[-1] + lengths[-1]] = i
            for j, (first, count) in enumerate(zip(starts, lengths, strict=True)):
                branch[first : first + count] = j
        return group, branch

    def seen(self) -> torch.Tensor | None:
        """The places that each segment sees, segment by segment; None where each sees only itself."""
        if not any(segment.prefix_length for segment in self.segments):
            return None
        places = [
            torch.cat((torch.arange(p, p + n), torch.arange(start, start + length)))
            for start, length, p, n in self.segments
        ]
        return torch.cat(places)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """The same layout with its tensors on `device`."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        mask = None if self.attention_mask is None else move(self.attention_mask)
        moved = Layout(
            self.engine,
            self.table,
            move(self.input_ids),
            move(self.position_ids),
            mask,
            move(self.rows),
            move(self.targets),
            self.offsets,
        )
        moved.wanted = None if self.wanted is None else move(self.wanted)
        return moved


def lay_out(groups: Sequence[Group], engine: Engine = "tree", *, pad: int = 0) -> Layout:
    """The groups in their order; `pad` fills padded rows and is masked, whatever token it is."""
    _check(groups)
    if engine != "tree":
        groups = [(prompt, [completion]) for prompt, completions in groups for completion in completions]
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    offsets = [0]
    table: list[GroupSegments] = []
    for prompt, completions in groups:
        start = len(ids)
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        starts: list[int] = []
        for completion in completions:
            first = len(ids)
            starts.append(first)
            ids.extend(completion)
            positions.extend(range(len(prompt), len(prompt) + len(completion)))
            if prompt:
                rows.append(start + len(prompt) - 1)
                targets.append(completion[0])
            rows.extend(range(first, first + len(completion) - 1))
            targets.extend(completion[1:])
            offsets.append(len(targets))
        lengths = tuple(len(completion) for completion in completions)
        table.append(GroupSegments(start, len(prompt), tuple(starts), lengths))
    tensors = (torch.tensor(ids)[None], torch.tensor(positions)[None])
    predicting = torch.tensor(rows, dtype=torch.long)
    scored = torch.tensor(targets, dtype=torch.long)
    layout = Layout(engine, table, *tensors, None, predicting, scored, torch.tensor(offsets))
    return _fill_up(layout, pad) if engine == "padded" else layout


def _fill_up(layout: Layout, pad: int) -> Layout:
    """The packed row cut into rows, one per completion, padded on the right."""
    width = layout.longest
    count = len(layout.table)
    ids = torch.full((count, width), pad)
    mask = torch.zeros((count, width), dtype=torch.long)
    shift = torch.empty_like(
        layout.rows
    )  # from a place in the packed row to the same place among padded rows
    for i, group in enumerate(layout.table):
        length = group.prompt_length + group.completion_lengths[0]
        ids[i, :length] = layout.input_ids[0, group.prompt_start : group.prompt_start + length]
        mask[i, :length] = 1
        shift[layout.offsets[i] : layout.offsets[i + 1]] = i * width - group.prompt_start
    positions = torch.arange(width).expand(count, width)
    return Layout(
        "padded", layout.table, ids, positions, mask, layout.rows + shift, layout.targets, layout.offsets
    )


def _segments(table: list[GroupSegments]) -> list[Segment]:
    """The first completion rides the prompt's own causal square; each other one is a segment behind the prompt."""
    found: list[Segment] = []
    for prompt_start, prompt_length, starts, lengths in table:
        found.append(Segment(prompt_start, prompt_length + lengths[0], prompt_start, 0))
        found.extend(
            Segment(start, length, prompt_start, prompt_length)
            for start, length in zip(starts[1:], lengths[1:], strict=True)
        )
    return found


def _check(groups: Sequence[Group]) -> None:
    if not groups:
        raise DataError("there is nothing to score: no prompt groups were given")
    for i, (_, completions) in enumerate(groups):
        if not completions:
            raise DataError("a prompt has no completions to score", where=f"prompt group {i}")
        for j, completion in enumerate(completions):
            if not len(completion):
                raise DataError(
                    "a completion has no tokens", where=f"prompt group {i}, completion {j}", way_out=_WAY_OUT
                )


_WAY_OUT = "Leave the row out, or raise max_length: the prompt may fill it."
