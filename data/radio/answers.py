"""Short answers against gold ones: the normal form of open-domain question answering, exact match and token F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from data.errors import DataError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# An answer of this kind is right or wrong as a whole: sharing a word with another text is no partial credit.
_CLOSED = frozenset({"yes", "no", "noanswer"})


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and the articles a, an, the; blanks collapsed."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 if the prediction equals any gold answer in normal form, else 0."""
    said = normalise_answer(prediction)
    return float(any(said == normalise_answer(gold) for gold in _some(golds)))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """F1 of the bags of tokens in normal form; the best over the gold answers."""
    said = normalise_answer(prediction)
    return max(_f1(said, normalise_answer(gold)) for gold in _some(golds))


def contains_answer(text: str, golds: Sequence[str]) -> bool:
    """Whether any gold answer stands in the text as whole tokens of the normal form.

    A gold answer that has no token in normal form (such as `The` or `?`) stands nowhere.
    """
    return answer_finder(golds)(text)


def answer_finder(golds: Sequence[str]) -> Callable[[str], bool]:
    """`contains_answer` with the gold answers prepared once, for many texts."""
    wanted = [f" {gold} " for gold in dict.fromkeys(map(normalise_answer, golds)) if gold]

    def found(text: str) -> bool:
        padded = f" {normalise_answer(text)} "
        return any(gold in padded for gold in wanted)

    return found


def _f1(said: str, gold: str) -> float:
    if said != gold and (said in _CLOSED or gold in _CLOSED):
        return 0.0
    mine, theirs = said.split(), gold.split()
    common = sum((Counter(mine) & Counter(theirs)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(mine), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def _some(golds: Sequence[str]) -> Sequence[str]:
    if isinstance(golds, str) or not golds:
        raise DataError(
            "an answer is scored against a list of gold answers, and this is "
            + ("one text" if golds else "empty"),
            way_out='write `golden_answers: ["…"]`, or leave the row out',
        )
    return golds
