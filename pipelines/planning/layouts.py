"""How many positions a batch of rows sends through the layers and onto the vocabulary, by engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Engine = Literal["tree", "packed", "padded"]


class Row(NamedTuple):
    """Tokens of a row: its prompt, and every answer to it that is scored."""

    prompt: int
    answers: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Prompt and longest answer together: what padding goes by."""
        return self.prompt + max(self.answers, default=0)

    @property
    def tokens(self) -> int:
        """All of them, the prompt once."""
        return self.prompt + sum(self.answers)


class Stretch(NamedTuple):
    """A causal stretch of attention: its own positions, and those before them that it sees too."""

    own: int
    before: int

    @property
    def pairs(self) -> float:
        """Query and key positions that meet."""
        return self.own * self.before + self.own * (self.own + 1) / 2


class Batch(NamedTuple):
    """What one forward reads."""

    positions: int
    """Through the layers, padding included."""
    scored: int
    """Projected onto the vocabulary."""
    stretches: tuple[Stretch, ...]
    masked: int = 0
    """Query and key positions under a mask that is written out: of uneven padded rows."""

    @property
    def pairs(self) -> float:
        return sum(one.pairs for one in self.stretches)


def lay_out(rows: Sequence[Row], engine: Engine) -> Batch:
    """As trainers/engine/groups.py lays them out."""
    scored = sum(count - (not row.prompt) for row in rows for count in row.answers)
    if engine == "tree":
        stretches: list[Stretch] = []
        for prompt, answers in rows:
            first, *rest = answers
            stretches.append(Stretch(prompt + first, 0))
            stretches += [Stretch(count, prompt) for count in rest]
        return Batch(sum(row.tokens for row in rows), scored, tuple(stretches))
    lengths = [row.prompt + count for row in rows for count in row.answers]
    if engine == "packed":
        return Batch(sum(lengths), scored, tuple(Stretch(length, 0) for length in lengths))
    width = max(lengths)
    masked = len(lengths) * width * width if min(lengths) < width else 0
    # Padding is computed like any other position: only the mask keeps it out of the result.
    return Batch(width * len(lengths), scored, (Stretch(width, 0),) * len(lengths), masked)


def heaviest(rows: Sequence[Row], batch_size: int, engine: Engine) -> tuple[Row, ...]:
    """The batch that takes most: the longest rows together, by padded width or by all their tokens."""

    def weight(row: Row) -> int:
        return row.longest if engine == "padded" else row.tokens

    return tuple(sorted(rows, key=weight, reverse=True)[:batch_size])
