"""Our encoding and searching against sentence-transformers, bm25s and FAISS, each called as its manual shows."""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
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
from pipelines import provenance
from trainers.radio.config import EncoderOptions
from trainers.retrieval import ann, exact
from trainers.retrieval.encoder import Encoder
from trainers.retrieval.lexical import Bm25
from trainers.work import Work

Way = Callable[[], Any]
Comparison = tuple[str, int, Way, Way, Callable[[Any, Any], None]]
TOP = 20
SECONDS = 0.5
"""Of the library's CPU time in a round at least: what is faster is called several times, the two in turn."""
INDEXES = "IVF256,Flat", "IVF256,SQ8", "HNSW32"


def compared(rounds: int, share: float) -> dict[str, Any]:
    """Figures of every comparison; `share` of the usual sizes."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    found: dict[str, Any] = {
        "commit": provenance.commit(Path(__file__).parent),
        "device": provenance.device(),
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
        figures = _timed(ours, library, check, rounds, SECONDS * share)
        found["ways"][name] = {"items": count, **figures}
        ratio = figures["times_library"]
        print(
            f"{name:34} ours {figures['ours']['median']:8.4f} s, library {figures['library']['median']:8.4f} s: "
            f"{ratio['median']:.2f} times as fast [{ratio['min']:.2f}, {ratio['max']:.2f}]",
            flush=True,
        )
    return found


def _ways(share: float) -> Iterator[Comparison]:
    """Name, number of items, ours, the library's, and what must hold of the two results."""
    yield from _encoding(max(8, int(160 * share)))
    yield from _searching(max(2000, int(50_000 * share)), max(8, int(256 * share)))
    yield from _words(max(500, int(20_000 * share)), max(8, int(128 * share)))


def _encoding(count: int) -> Iterator[Comparison]:
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


def _searching(passages: int, questions: int) -> Iterator[Comparison]:
    dice = np.random.default_rng(0)
    vectors, queries = _unit(dice, passages), _unit(dice, questions)
    corpus, asked = torch.from_numpy(vectors), torch.from_numpy(queries)

    def ours() -> Any:
        return exact.search(vectors, queries, TOP)[0]

    def library() -> Any:
        hits = util.semantic_search(asked, corpus, top_k=TOP, score_function=util.dot_score)
        return np.array([[hit["score"] for hit in row] for row in hits])

    yield "search, exact", questions, ours, library, _close
    flat = faiss.index_factory(vectors.shape[1], "Flat", faiss.METRIC_INNER_PRODUCT)
    flat.add(vectors)
    # What a recipe's `faiss_factory: Flat` does: no index, but the vectors that are kept.
    yield "search, faiss Flat", questions, ours, lambda: flat.search(queries, TOP)[0], _close
    rows = np.arange(passages, dtype=np.int64)
    for factory in INDEXES:
        with TemporaryDirectory() as name:
            folder = Path(name)
            work = Work(folder, say=lambda _: None)
            mine = ann.open_index(vectors, rows, factory, "benchmark", folder, work)
            # The library's side reads the same file, so that both search the same cells.
            (file,) = folder.glob(f"*/{ann.INDEX}")
            for how, flags in (("", 0), (", mapped", faiss.IO_FLAG_MMAP)):
                theirs = _plain(file, flags)
                yield f"search, faiss {factory}{how}", questions, *_both(mine, theirs, queries), _same


def _both(ours: Any, library: Any, queries: NDArray[np.float32]) -> tuple[Way, Way]:
    return lambda: ann.search(ours, queries, TOP)[0], lambda: library.search(queries, TOP)[0]


def _plain(file: Path, flags: int) -> Any:
    index = faiss.read_index(str(file), flags)
    if (inverted := faiss.try_extract_index_ivf(index)) is not None:
        inverted.nprobe = 16
    return index


def _words(passages: int, questions: int) -> Iterator[Comparison]:
    texts = list(passage_texts(passages, 1))
    asked = [" ".join(text.split()[:8]) for text in texts[:: max(1, passages // questions)]][:questions]

    def index() -> Any:
        made = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
        made.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        return made

    def kept() -> Any:
        with TemporaryDirectory() as name:
            index().save(name, show_progress=False)

    def ours_kept() -> Any:
        with TemporaryDirectory() as name:
            Bm25(texts, folder=Path(name) / "index")

    mine, plain = Bm25(texts), index()

    def library() -> Any:
        words = bm25s.tokenize(asked, stopwords="en", show_progress=False)
        return plain.retrieve(words, k=TOP, show_progress=False).scores

    yield "bm25, index", passages, lambda: Bm25(texts), index, _anything
    yield "bm25, index and keep", passages, ours_kept, kept, _anything
    yield "bm25, search", questions, lambda: mine.search(asked, TOP)[0], library, _close


def _unit(dice: np.random.Generator, count: int) -> NDArray[np.float32]:
    made = dice.standard_normal((count, 384), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _close(one: Any, other: Any) -> None:
    if not np.allclose(one, other, atol=2e-4):
        raise SystemExit(f"the results differ by {np.abs(one - other).max():.2e}: nothing was timed")


def _same(one: Any, other: Any) -> None:
    if not np.array_equal(one, other):
        raise SystemExit(f"the results differ by {np.abs(one - other).max():.2e}: nothing was timed")


def _anything(one: Any, other: Any) -> None:
    """An index has no result of its own."""


def _timed(
    ours: Way, library: Way, check: Callable[[Any, Any], None], rounds: int, seconds: float
) -> dict[str, Any]:
    check(ours(), library())  # also the warm-up
    calls = max(1, round(seconds / max(_taken(library), 1e-5)))
    times: dict[str, list[float]] = {"ours": [], "library": []}
    ways = {"ours": ours, "library": library}
    for turn in range(rounds):
        spent = dict.fromkeys(ways, 0.0)
        for call in range(calls):
            for name in ways if (turn + call) % 2 == 0 else reversed(ways):
                spent[name] += _taken(ways[name])
        for name, seconds_in_all in spent.items():
            times[name].append(seconds_in_all / calls)
    ratios = [theirs / mine for mine, theirs in zip(times["ours"], times["library"], strict=True)]
    return {
        "calls_a_turn": calls,
        **{name: _spread(found) for name, found in times.items()},
        "times_library": _spread(ratios),
    }


def _taken(way: Way) -> float:
    begun = time.process_time()
    way()
    return time.process_time() - begun


def _spread(values: list[float]) -> dict[str, float]:
    spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 7) for name, value in spread.items()}
