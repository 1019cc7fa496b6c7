"""Our encoding and searching against sentence-transformers, bm25s and FAISS, each called as its manual shows."""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bm25s
import faiss
import numpy as np
import sentence_transformers
import torch
from numpy.typing import NDArray
from sentence_transformers import util

from benchmarks.retrieval.scale import passage_texts
from trainers.radio.config import EncoderOptions
from trainers.retrieval import ann, exact
from trainers.retrieval.encoder import Encoder
from trainers.retrieval.lexical import Bm25
from trainers.work import Work

Way = Callable[[], Any]
TOP = 20


def compared(rounds: int, share: float) -> dict[str, Any]:
    """Figures of every comparison; `share` of the usual sizes."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    found: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "sentence-transformers": sentence_transformers.__version__,
            "bm25s": bm25s.__version__,
            "faiss": faiss.__version__,
        },
        "clock": "process CPU time, one thread",
        "ways": {},
    }
    for name, count, ours, library, check in _ways(share):
        figures = _timed(ours, library, check, rounds)
        found["ways"][name] = {"items": count, **figures}
        ratio = figures["times_library"]
        print(
            f"{name:34} ours {figures['ours']['median']:8.3f} s, library {figures['library']['median']:8.3f} s: "
            f"{ratio['median']:.2f} times as fast [{ratio['min']:.2f}, {ratio['max']:.2f}]",
            flush=True,
        )
    return found


def _ways(share: float) -> Any:
    """Name, number of items, ours, the library's, and what must hold of the two results."""
    yield from _encoding(max(8, int(160 * share)))
    yield from _searching(max(2000, int(50_000 * share)), max(8, int(256 * share)))
    yield from _words(max(500, int(20_000 * share)), max(8, int(128 * share)))


def _encoding(count: int) -> Any:
    encoder = Encoder(EncoderOptions())
    dice = random.Random(0)
    lengths: dict[str, Callable[[], int]] = {
        "mixed": lambda: min(200, max(6, round(dice.lognormvariate(4.0, 0.8)))),
        "even": lambda: 100,
        "short": lambda: dice.randint(8, 16),
    }
    for mix, length in lengths.items():
        texts = [next(passage_texts(1, seed, length())) for seed in range(count)]

        def library(texts: list[str] = texts) -> Any:
            return encoder.model.encode(texts, normalize_embeddings=True, show_progress_bar=False)

        def ours(texts: list[str] = texts) -> Any:
            return encoder.fresh(texts, "document")

        yield f"encode, {mix}", count, ours, library, _close


def _searching(passages: int, questions: int) -> Any:
    dice = np.random.default_rng(0)
    vectors, queries = _unit(dice, passages), _unit(dice, questions)
    corpus, asked = torch.from_numpy(vectors), torch.from_numpy(queries)

    def library() -> Any:
        hits = util.semantic_search(asked, corpus, top_k=TOP, score_function=util.dot_score)
        return np.array([[hit["score"] for hit in row] for row in hits])

    yield "search, exact", questions, lambda: exact.search(vectors, queries, TOP)[0], library, _close
    rows = np.arange(passages, dtype=np.int64)
    for factory in ("Flat", "IVF64,Flat"):
        with TemporaryDirectory() as folder:
            work = Work(Path(folder), say=lambda _: None)
            mine = ann.open_index(vectors, rows, factory, "benchmark", Path(folder), work)
            plain = _plain_index(vectors, factory)
            yield (
                f"search, faiss {factory}",
                questions,
                lambda mine=mine: ann.search(mine, queries, TOP)[0],
                lambda plain=plain: plain.search(queries, TOP)[0],
                _close if factory == "Flat" else _anything,
            )


def _plain_index(vectors: NDArray[np.float32], factory: str) -> Any:
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    if (inverted := faiss.try_extract_index_ivf(index)) is not None:
        inverted.nprobe = 16
    return index


def _words(passages: int, questions: int) -> Any:
    texts = list(passage_texts(passages, 1))
    asked = [" ".join(text.split()[:8]) for text in texts[:: max(1, passages // questions)]][:questions]

    def index() -> Any:
        made = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
        made.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        return made

    mine, plain = Bm25(texts), index()

    def library() -> Any:
        words = bm25s.tokenize(asked, stopwords="en", show_progress=False)
        return plain.retrieve(words, k=TOP, show_progress=False).scores

    yield "bm25, index", passages, lambda: Bm25(texts), index, _anything
    yield "bm25, search", questions, lambda: mine.search(asked, TOP)[0], library, _close


def _unit(dice: np.random.Generator, count: int) -> NDArray[np.float32]:
    made = dice.standard_normal((count, 384), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _close(one: Any, other: Any) -> None:
    if not np.allclose(one, other, atol=2e-4):
        raise SystemExit(f"the results differ by {np.abs(one - other).max():.2e}: nothing was timed")


def _anything(one: Any, other: Any) -> None:
    """An index has no result of its own, and cells that were placed by other draws find other passages."""


def _timed(ours: Way, library: Way, check: Callable[[Any, Any], None], rounds: int) -> dict[str, Any]:
    check(ours(), library())  # also the warm-up
    times: dict[str, list[float]] = {"ours": [], "library": []}
    ways = {"ours": ours, "library": library}
    for turn in range(rounds):
        for name in ways if turn % 2 == 0 else reversed(ways):
            begun = time.process_time()
            ways[name]()
            times[name].append(time.process_time() - begun)
    ratios = [theirs / mine for mine, theirs in zip(times["ours"], times["library"], strict=True)]
    return {**{name: _spread(found) for name, found in times.items()}, "times_library": _spread(ratios)}


def _spread(values: list[float]) -> dict[str, float]:
    spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in spread.items()}
