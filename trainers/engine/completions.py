"""Log-probabilities of completions out of TRL's fused head: only those tokens are scored.

The head skips prompt and padding where Triton runs, and elsewhere computes every position and masks most of
them afterwards. The numbers are the same; on a CPU the head is a quarter to a half of a small model's step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
