"""TF-IDF cosines between texts and their documents: a scorer that needs no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_TOKEN = re.compile(r"\w+")


class Tfidf:
    """Weights tf * (1 + ln((1 + n) / (1 + df))), cosine; words are compared in lower case.

    A word that no document of the collection has gets the weight of df = 0, so that it lowers every cosine alike.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        self.frequency: Counter[str] = Counter()
        self.documents = 0
        for text in documents:
            self.documents += 1
            self.frequency.update(set(_tokens(text)))
        # The same documents are scored for many texts, and as many times as lambda or a template is tried.
        self.vector = lru_cache(maxsize=200_000)(self._vector)

    def score(self, texts: Sequence[str], documents: Sequence[Sequence[str]]) -> list[NDArray[np.float64]]:
        """For every text, its cosine with each of its documents."""
        found: list[NDArray[np.float64]] = []
        for text, candidates in zip(texts, documents, strict=True):
            query = self.vector(text)
            found.append(np.array([_dot(query, self.vector(candidate)) for candidate in candidates]))
        return found

    def _vector(self, text: str) -> dict[str, float]:
        counts = Counter(_tokens(text))
        weights = {word: times * self._idf(word) for word, times in counts.items()}
        # fsum, and products in the order of the words: the same score on every machine and for every run.
        norm = math.sqrt(math.fsum(weight * weight for weight in weights.values()))
        return {word: weight / norm for word, weight in weights.items()} if norm else {}

    def _idf(self, word: str) -> float:
        return 1.0 + math.log((1 + self.documents) / (1 + self.frequency[word]))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _dot(one: dict[str, float], other: dict[str, float]) -> float:
    return math.fsum(weight * other[word] for word, weight in one.items() if word in other)
