"""ROUGE-L between two texts: COCO's F for critics, and the recall by which TOFU tells what is still remembered."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, get_args

Tokens = Literal["whitespace", "words", "stems"]
"""`whitespace` keeps case and punctuation, as COCO's caption evaluation; `words` drops both; `stems` are the ASCII
words of the `rouge_score` package with its stemmer on, as TOFU uses it."""

# Numbers keep their inner marks (18:40, 3.5, 1,000), words their hyphens and apostrophes.
_WORD = re.compile(r"\d+(?:[:.,]\d+)*|[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_ASCII_WORD = re.compile(r"[a-z0-9]+")


def tokens(text: str, how: Tokens = "words") -> list[str]:
    """The tokens that are compared."""
    if how == "whitespace":
        return text.split()
    if how == "words":
        return _WORD.findall(text.casefold())
    if how == "stems":
        return [_stem(word) for word in _ASCII_WORD.findall(text.lower())]
    raise ValueError(f"tokens are {', '.join(get_args(Tokens))}, not {how}")


def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time as the bits of one number.

    A 0 at bit i says that the row grows from i to i + 1 (Hyyrö 2004): some additions for each token, whatever the
    other text's length up to a machine word or so.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(left)) - 1
    row = full
    for token in right:
        at = row & places.get(token, 0)
        row = ((row + at) | (row - at)) & full
    return len(left) - row.bit_count()


def rouge_l(
    candidate: str, references: str | Sequence[str], *, beta: float = 1.2, how: Tokens = "whitespace"
) -> float:
    """F of the longest common subsequence: (1 + b²)PR / (R + b²P), in [0, 1]; above 1, beta leans to recall.

    With several references P and R are each the best over them, as in COCO's caption evaluation.
    """
    said = tokens(candidate, how)
    among = [tokens(one, how) for one in ([references] if isinstance(references, str) else references)]
    if not among:
        raise ValueError("no reference to compare with")
    common = [(longest_common(said, wanted), len(wanted)) for wanted in among]
    precision = max(length / len(said) if said else 0.0 for length, _ in common)
    recall = max(length / size if size else 0.0 for length, size in common)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def rouge_l_recall(candidate: str, reference: str, *, how: Tokens = "stems") -> float:
    """The share of the reference's tokens that the candidate has in their order; 0 for an empty reference."""
    wanted = tokens(reference, how)
    return longest_common(tokens(candidate, how), wanted) / len(wanted) if wanted else 0.0


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    # rouge_score leaves words of up to three letters as they are.
    return _stemmer()(word) if len(word) > 3 else word


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    porter: Any = import_module("nltk.stem.porter")  # two seconds, which only stems are worth
    return porter.PorterStemmer().stem
