"""Log-probabilities of completions out of TRL's fused head: which tokens are scored, and how they add up.

The head skips prompt and padding where Triton runs, and elsewhere computes every position and masks most of
them afterwards. The numbers are the same; on a CPU the head is a quarter to a half of a small model's step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl.trainer import utils as trl_utils


@contextmanager
def completions_only() -> Iterator[None]:
    """Within it, TRL's fused head takes its CUDA path. Named in tests/test_trl_contract.py."""
    module: Any = trl_utils
    asked = module._use_triton
    module._use_triton = _always
    try:
        yield
    finally:
        module._use_triton = asked


def _always(device: object) -> bool:
    return True


class CompletionsOnly:
    """Mixin over a TRL trainer with a fused head."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        with completions_only():
            return super().compute_loss(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


def completion_sums(tokens: torch.Tensor, mask: torch.Tensor, ld_alpha: float | None) -> torch.Tensor:
    """Sums over each row's completion; rows are chosen answers, then rejected ones.

    With `ld_alpha`, tokens beyond the shorter answer of a pair count by that weight (arXiv 2409.06411). Policy and
    reference are both summed here, so that they are the same number while they are the same model.
    """
    if ld_alpha is None:
        return tokens.sum(dim=1)
    position = mask.cumsum(dim=1)
    chosen, rejected = mask.sum(dim=1).chunk(2)
    shared = torch.minimum(chosen, rejected).repeat(2).unsqueeze(1)
    tail = position > shared
    return (tokens * (~tail & (position > 0))).sum(dim=1) + ld_alpha * (tokens * tail).sum(dim=1)
