"""Whether a text is still in the model: what greedy decoding gives back, and what membership attacks can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import DataError

# ---------------------------------------------------------------- greedy tokens


def exact_memorisation(greedy: Sequence[int], answer: Sequence[int]) -> float:
    """The share of the answer's tokens that are the likeliest, each after the true ones before it."""
    _same_length(greedy, answer)
    return sum(one == other for one, other in zip(greedy, answer, strict=True)) / len(answer)


def extraction_strength(greedy: Sequence[int], answer: Sequence[int]) -> float:
    """1 - k / length, k the shortest prefix of the answer after which greedy decoding gives all the rest.

    Both without the end-of-text token. Where not even the last token comes, k is the whole length and the strength
    0; open-unlearning's loop ends one earlier and gives 1 / length there.
    """
    _same_length(greedy, answer)
    rest = 0
    for one, other in zip(reversed(greedy), reversed(answer), strict=True):
        if one != other:
            break
        rest += 1
    return rest / len(answer)


def _same_length(greedy: Sequence[int], answer: Sequence[int]) -> None:
    if len(greedy) != len(answer) or len(answer) == 0:
        raise DataError(
            f"{len(greedy)} greedy tokens for an answer of {len(answer)}",
            way_out="give one prediction for each token of an answer that has some",
        )


# ---------------------------------------------------------------- membership


def min_k(token_logps: ArrayLike, share: float = 0.4) -> float:
    """MIN-K% (arXiv 2310.16789): mean of the `share` lowest token log-probabilities; higher where a text was seen.

    At least one token. 0.4 is what open-unlearning takes; a `share` of 1 is the mean log-probability.
    """
    found = np.sort(np.asarray(token_logps, dtype=np.float64))
    if found.ndim != 1 or found.size == 0 or np.isnan(found).any():
        raise DataError("MIN-K% needs the log-probabilities of at least one token, none of them NaN")
    if not 0 < share <= 1:
        raise DataError(f"the share of tokens is {share}", way_out="it lies above 0 and at most at 1")
    return float(found[: max(1, int(found.size * share))].mean())


def auc(members: ArrayLike, outsiders: ArrayLike) -> float:
    """The chance that a member scores above an outsider, ties counted half: 0.5 is a guess, 1 gives all away."""
    inside, outside = (np.asarray(values, dtype=np.float64) for values in (members, outsiders))
    if inside.size == 0 or outside.size == 0 or np.isnan(inside).any() or np.isnan(outside).any():
        raise DataError("AUC needs scores of members and of outsiders, none of them NaN")
    ordered: NDArray[Any] = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    up_to = np.searchsorted(ordered, inside, side="right")
    return float((below + up_to).sum() / 2 / (inside.size * outside.size))


def privacy_leak(unlearned: float, retrained: float) -> float:
    """How much 1 - AUC differs from that of the model that never saw the texts, in percent of it; 0 is best.

    Above 0 the texts are less likely than unseen ones (forgotten too hard), below 0 they are still told.
    """
    if retrained >= 1:
        raise DataError(
            f"the retrained model's AUC is {retrained}: it tells texts that it never saw",
            way_out="take a holdout set that is made like the forget set",
        )
    return 100 * ((1 - unlearned) - (1 - retrained)) / (1 - retrained)
