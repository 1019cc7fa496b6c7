"""BM25 through bm25s: words, counts and nothing learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError


class Bm25:
    """An index over passages; texts are lower-cased, and English stop words left out."""

    def __init__(self, texts: Iterable[str], *, k1: float = 0.9, b: float = 0.4) -> None:
        import bm25s

        self._module: Any = bm25s
        self.index: Any = bm25s.BM25(k1=k1, b=b, method="lucene")
        # Streamed: the texts of a large corpus are never in memory together, only the numbers of their words.
        self.tokenizer: Any = bm25s.tokenization.Tokenizer(lower=True, stopwords="en")
        ids = list(self.tokenizer.streaming_tokenize(texts))
        self.size = len(ids)
        if not any(len(one) for one in ids):
            raise DataError("not one passage has a word that BM25 counts", way_out="look at the corpus")
        self.index.index((ids, self.tokenizer.get_vocab_dict()), show_progress=False)

    def search(self, questions: Sequence[str], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and places of the k best, best first; of equal scores the lower place. 0: no word in common."""
        k = min(k, self.size)
        scores = np.empty((len(questions), k), dtype=np.float32)
        place = np.empty((len(questions), k), dtype=np.int64)
        words = self._module.tokenize(
            list(questions), lower=True, stopwords="en", return_ids=False, show_progress=False
        )
        for row, question in enumerate(words):
            known = [word for word in question if word in self.index.vocab_dict]
            every = self.index.get_scores(known) if known else np.zeros(self.size, dtype=np.float32)
            place[row] = _best(every, k)
            scores[row] = every[place[row]]
        return scores, place


def _best(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    if k == len(scores):
        return np.argsort(-scores, kind="stable").astype(np.int64)
    limit = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > limit)
    level = np.flatnonzero(scores == limit)[: k - len(above)]
    found = np.sort(np.concatenate([above, level]))
    return found[np.argsort(-scores[found], kind="stable")].astype(np.int64)
