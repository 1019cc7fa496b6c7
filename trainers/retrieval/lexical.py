"""BM25 through bm25s: words, counts and nothing learned; its index is built in blocks, and kept on disk."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError, ModelError
from trainers.retrieval.building import turn, writing

WORD = re.compile(r"(?u)\b\w\w+\b")
BLOCK = 1 << 20
"""Words of the corpus that are counted together."""
SCRATCH = ".scratch"
"""How the names of files end that are needed only while the index is built."""


class Bm25:
    """An index over passages; texts are lower-cased, and English stop words and single letters left out."""

    def __init__(
        self,
        texts: Iterable[str],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        folder: Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """`folder`: where the index is kept; one that lies there already is mapped, and no text is read.

        Without it the index is in memory, and so is every word's number while it is built.
        """
        import bm25s

        self._stop = frozenset(bm25s.stopwords.STOPWORDS_EN)
        self.built = False
        if folder is None:
            self.index: Any = self._made(bm25s, texts, k1, b, None)
            self.built = True
        else:
            if not folder.is_dir():
                with turn(folder, say):
                    if not folder.is_dir():
                        self._keep(bm25s, texts, k1, b, folder)
                        self.built = True
            self.index = _loaded(bm25s, folder)
        self.size = int(self.index.scores["num_docs"])

    def search(self, questions: Sequence[str], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and places of the k best, best first; of equal scores the lower place. 0: no word in common."""
        k = min(k, self.size)
        scores = np.empty((len(questions), k), dtype=np.float32)
        place = np.empty((len(questions), k), dtype=np.int64)
        for row, question in enumerate(questions):
            known = [word for word in self._words(question) if word in self.index.vocab_dict]
            every = self.index.get_scores(known) if known else np.zeros(self.size, dtype=np.float32)
            place[row] = _best(every, k)
            scores[row] = every[place[row]]
        return scores, place

    def _words(self, text: str) -> list[str]:
        return [word for word in WORD.findall(text.lower()) if word not in self._stop]

    def _keep(self, bm25s: Any, texts: Iterable[str], k1: float, b: float, folder: Path) -> None:
        with writing(folder) as aside:
            index = self._made(bm25s, texts, k1, b, aside)
            index.save(str(aside), show_progress=False)
            del index
            for part in aside.glob(f"*{SCRATCH}"):
                part.unlink()

    def _made(self, bm25s: Any, texts: Iterable[str], k1: float, b: float, scratch: Path | None) -> Any:
        """With `scratch` what grows with the words is in mapped files there, whose pages the system can write out."""
        # A word's number is how many different ones came before it: looking an unknown one up gives it the next.
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        lengths = array("i")
        with ExitStack() as open_files:
            said = _Numbers(
                open_files.enter_context((scratch / f"said{SCRATCH}").open("wb")) if scratch else None
            )
            for text in texts:
                # Streamed: the texts of a large corpus are never in memory together, only the numbers of their words.
                words = [numbers[word] for word in self._words(text)]
                said.extend(words)
                lengths.append(len(words))
            if not numbers:
                raise DataError("not one passage has a word that BM25 counts", way_out="look at the corpus")
            heard = said.all()
        sizes = np.frombuffer(lengths, dtype=np.intc)
        data, places, starts = columns(heard, sizes, len(numbers), k1, b, scratch)
        index: Any = bm25s.BM25(k1=k1, b=b, method="lucene")
        index.scores = {"data": data, "indices": places, "indptr": starts, "num_docs": len(sizes)}
        index.vocab_dict = dict(numbers)
        index.unique_token_ids_set = set(numbers.values())
        index.nonoccurrence_array = None
        return index


class _Numbers:
    """Numbers of words one after the other: in memory, or in a file that takes them block by block."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._block = array("i")

    def extend(self, words: list[int]) -> None:
        self._block.extend(words)
        if self._file is not None and len(self._block) >= BLOCK:
            self._block.tofile(self._file)
            self._block = array("i")

    def all(self) -> NDArray[np.intc]:
        if self._file is None:
            return np.frombuffer(self._block, dtype=np.intc)
        self._block.tofile(self._file)
        self._file.flush()
        return np.memmap(self._file.name, dtype=np.intc, mode="r")


def columns(
    said: NDArray[np.intc],
    sizes: NDArray[np.intc],
    words: int,
    k1: float,
    b: float,
    scratch: Path | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    """bm25s's matrix, a column a word: scores, the passages they are of, and where each column starts.

    The scores are Lucene's. Built in two passes over blocks of passages, so that beside the words' numbers and the
    matrix itself next to nothing is in memory; bm25s's own way keeps several copies and goes passage by passage.
    """
    ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    blocks = list(_blocks(ends))
    frequency = np.zeros(words, dtype=np.int64)
    for first, last in blocks:
        frequency += np.bincount(_counted(said, ends, first, last)[0], minlength=words)
    starts = np.concatenate([[0], np.cumsum(frequency)])
    rarity = np.log(1 + (len(sizes) - frequency + 0.5) / (frequency + 0.5))
    damping = k1 * (1 - b + b * sizes / sizes.mean())
    total = int(starts[-1])
    data: NDArray[np.float32] = _room(scratch, "scores", total, np.dtype(np.float32))
    places: NDArray[np.int32] = _room(scratch, "places", total, np.dtype(np.int32))
    free = starts[:-1].copy()
    for first, last in blocks:
        word, passage, times = _counted(said, ends, first, last)
        # They stand by word, then by passage: each goes to where its word's column is filled up to, and as many places
        # on as the same word has stood before in this block.
        found = np.bincount(word, minlength=words)
        before = np.arange(len(word)) - (np.cumsum(found) - found)[word]
        place = free[word] + before
        data[place] = rarity[word] * times / (damping[passage] + times)
        places[place] = passage
        free += found
    return data, places, starts


def _room(scratch: Path | None, name: str, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if scratch is None:
        return np.empty(count, dtype=dtype)
    return np.memmap(scratch / f"{name}{SCRATCH}", dtype=dtype, mode="w+", shape=(count,))


def _blocks(ends: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """Ranges of passages with about BLOCK words each."""
    first, total = 0, len(ends) - 1
    while first < total:
        last = int(np.searchsorted(ends, ends[first] + BLOCK, side="right")) - 1
        last = min(max(last, first + 1), total)
        yield first, last
        first = last


def _counted(
    said: NDArray[np.intc], ends: NDArray[np.int64], first: int, last: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Word, passage and how often, for every word of every passage in the range; by word, then by passage."""
    span = last - first
    passage = np.repeat(np.arange(span, dtype=np.int64), np.diff(ends[first : last + 1]))
    pairs, times = np.unique(
        said[ends[first] : ends[last]].astype(np.int64) * span + passage, return_counts=True
    )
    return pairs // span, pairs % span + first, times


def _loaded(bm25s: Any, folder: Path) -> Any:
    try:
        return bm25s.BM25.load(str(folder), mmap=True)
    except (OSError, ValueError, KeyError, EOFError) as broken:
        raise ModelError(
            f"the index of words cannot be read: {broken}",
            where=str(folder),
            way_out="remove the folder: it is built again",
        ) from broken


def _best(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    if k == len(scores):
        return np.argsort(-scores, kind="stable").astype(np.int64)
    limit = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > limit)
    level = np.flatnonzero(scores == limit)[: k - len(above)]
    found = np.sort(np.concatenate([above, level]))
    return found[np.argsort(-scores[found], kind="stable")].astype(np.int64)
