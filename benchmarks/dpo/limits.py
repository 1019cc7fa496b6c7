"""The ratio that arithmetic allows: floating-point operations of a step, counted from the tokens that each side runs.

Trunk, attention and head; the backward of a LoRA step goes through the frozen weights once (no gradients of theirs).
Adapters, norms and the loss are left out: they are a percent or two on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.dpo.rows import Row, Shape

Pair = tuple[int, int]
"""Queries and keys of one causal stretch: it starts with `keys - queries` visible before it."""


@dataclass(frozen=True)
class Run:
    """What a side sends through the model for one step."""

    tokens: int
    stretches: tuple[Pair, ...]
    scored: int
    head_factor: int
    """Passes over head rows, forward and backward: 6 halves with recomputed logits, 4 with a gradient formed once."""


def padded(batches: Sequence[Sequence[Row]], *, only_answers: bool) -> Run:
    """TRL: chosen and rejected as rows, padded to the longest of their batch."""
    tokens, scored, stretches = 0, 0, list[Pair]()
    for batch in batches:
        sides = [(len(r["prompt_ids"]), len(r[f"{s}_ids"])) for r in batch for s in ("chosen", "rejected")]
        width = max(p + c for p, c in sides)
        tokens += width * len(sides)
        stretches += [(width, width)] * len(sides)
        scored += sum(c for _, c in sides) if only_answers else width * len(sides)
    return Run(tokens, tuple(stretches), scored, 6)


def tree(groups: Sequence[tuple[int, Sequence[int]]]) -> Run:
    """Ours: a prompt once, and its answers behind it."""
    tokens = sum(p + sum(cs) for p, cs in groups)
    stretches: list[Pair] = []
    for p, (first, *rest) in groups:
        stretches += [(p + first, p + first), *((c, p + c) for c in rest)]
    return Run(tokens, tuple(stretches), sum(sum(cs) for _, cs in groups), 4)


def operations(run: Run, shape: Shape, *, reference: bool) -> float:
    """Forward and backward of the policy, and the reference's forward where it runs in the step."""
    seen = sum(q * (k - q) + q * (q + 1) / 2 for q, k in run.stretches)
    trunk = 2.0 * shape.trunk * run.tokens
    attention = 4.0 * shape.width * shape.layers * seen
    head = 2.0 * shape.width * shape.vocabulary * run.scored
    forward = trunk + attention + head
    policy = 2 * trunk + 3 * attention + head * run.head_factor / 2
    return policy + (forward if reference else 0.0)
