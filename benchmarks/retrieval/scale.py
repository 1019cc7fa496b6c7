"""A large corpus searched in each way: time, peak memory and bytes on disk, each part in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from data.jsonl import write_jsonl_atomic
from pipelines import provenance

WORDS = 100
VOCABULARY = 50_000
QUESTIONS = 100
BLOCK = 8192
WAYS = ("corpus", "bm25", "bm25-kept", "vectors", "exact", "faiss", "faiss-kept")
"""In this order: each uses what those before it left. The kept ones open what is there and only search."""


def passage_texts(count: int, seed: int = 0, words: int = WORDS) -> Iterator[str]:
    """Invented words, of which the n-th is drawn in proportion to 1/n, as in real text."""
    dice = random.Random(seed)
    known = [f"{'bcdfghklmnprstvz'[n % 16]}{'aeiou'[n // 16 % 5]}{n:x}" for n in range(VOCABULARY)]
    weights = list(accumulate(1 / (n + 1) for n in range(VOCABULARY)))
    for _ in range(count):
        yield " ".join(dice.choices(known, cum_weights=weights, k=words))


def measured(passages: int, dimension: int, folder: Path, only: list[str]) -> dict[str, Any]:
    """Figures of each way, and one line for each as it is done."""
    file = folder / f"corpus-{passages}.jsonl"
    if not file.is_file():
        write_jsonl_atomic(file, ({"id": str(i), "text": t} for i, t in enumerate(passage_texts(passages))))
    found: dict[str, Any] = {
        "commit": provenance.commit(Path(__file__).parent),
        "device": provenance.device(),
        "versions": provenance.versions() | {name: metadata.version(name) for name in ("bm25s", "faiss-cpu")},
        "passages": passages,
        "corpus_bytes": file.stat().st_size,
        "dimension": dimension,
    }
    for way in only:
        found[way] = _apart(way, file, folder, passages, dimension)
        print(f"{way:8} {json.dumps(found[way])}", flush=True)
    return found


def _apart(way: str, file: Path, folder: Path, passages: int, dimension: int) -> dict[str, Any]:
    """In a fresh process, whose peak is of nothing else."""
    context = multiprocessing.get_context("spawn")
    told, here = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(here, way, file, folder, passages, dimension))
    child.start()
    here.close()
    try:
        found: dict[str, Any] = told.recv()
    except EOFError:
        child.join()
        raise SystemExit(f"{way}: its process ended with {child.exitcode}") from None
    child.join()
    return found


def _child(here: Any, way: str, file: Path, folder: Path, passages: int, dimension: int) -> None:
    watch = _Watch()
    done = {
        "corpus": _corpus,
        "bm25": _bm25,
        "bm25-kept": _bm25,
        "vectors": _vectors,
        "exact": _exact,
        "faiss": _faiss,
        "faiss-kept": _faiss,
    }
    begun = time.process_time(), time.monotonic()
    figures = done[way](file, folder, passages, dimension)
    here.send(
        {
            **figures,
            "cpu_seconds": round(time.process_time() - begun[0], 1),
            "wall_seconds": round(time.monotonic() - begun[1], 1),
            **watch.figures(),
        }
    )


class _Watch:
    """The most memory that was this process's own, looked at often. Pages of mapped files, which can be given back at
    any time, are counted apart."""

    def __init__(self) -> None:
        self.own = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            told = next((line for line in lines if line.startswith("RssAnon")), None)
            self.own = max(self.own, int(told.split()[1]) if told else 0)
            time.sleep(0.02)

    def figures(self) -> dict[str, int]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_own_mib": self.own // 1024, "peak_with_mapped_files_mib": peak // 1024}


def _passages(file: Path, folder: Path) -> Any:
    from data.radio.passages import Passages

    return Passages(file, folder / f"lines-{file.stem}")


def _questions() -> list[str]:
    return [" ".join(text.split()[:8]) for text in passage_texts(QUESTIONS, seed=7)]


def _corpus(file: Path, folder: Path, passages: int, dimension: int) -> dict[str, Any]:
    opened = _passages(file, folder)
    return {
        "disk_bytes": sum(f.stat().st_size for f in folder.glob(f"lines-{file.stem}.*")),
        "rows": len(opened),
    }


def _bm25(file: Path, folder: Path, passages: int, dimension: int) -> dict[str, Any]:
    from trainers.retrieval.lexical import Bm25

    opened = _passages(file, folder)
    kept = folder / "indexes" / f"bm25-{file.stem}"
    begun = time.process_time()
    index = Bm25(opened.texts(), folder=kept)
    opening = time.process_time() - begun
    begun = time.process_time()
    index.search(_questions(), 50)
    return {
        "built": index.built,
        "open_seconds": round(opening, 1),
        "seconds_a_question": _each(begun),
        "disk_bytes": _size(kept),
    }


def _vectors(file: Path, folder: Path, passages: int, dimension: int) -> dict[str, Any]:
    """Random unit vectors instead of an encoder's: what the store takes is the same."""
    import numpy as np

    store = _store(folder, dimension)
    dice = np.random.default_rng(0)
    texts = _passages(file, folder).texts()
    for start in range(0, passages, BLOCK):
        block = list(islice(texts, min(BLOCK, passages - start)))
        if (store.rows(block) >= 0).all():
            continue
        made = dice.standard_normal((len(block), dimension), dtype=np.float32)
        store.append(block, made / np.linalg.norm(made, axis=1, keepdims=True))
    store.close()
    return {"disk_bytes": _size(store.folder), "vectors": store.count}


def _exact(file: Path, folder: Path, passages: int, dimension: int) -> dict[str, Any]:
    import torch

    from trainers.retrieval import exact

    store = _store(folder, dimension)
    torch.set_num_threads(1)
    begun = time.process_time()
    exact.search(store.vectors(), _queries(dimension), 50)
    return {"seconds_a_question": _each(begun)}


def _faiss(file: Path, folder: Path, passages: int, dimension: int) -> dict[str, Any]:
    import faiss
    import numpy as np

    from trainers.retrieval import ann
    from trainers.work import Work

    faiss.omp_set_num_threads(1)
    store, indexes = _store(folder, dimension), folder / "indexes"
    there = set(indexes.glob("faiss-*"))
    cells = max(1, round(passages**0.5))
    factory = f"IVF{cells},SQ8"
    work = Work(folder, say=lambda _: None)
    begun = time.process_time()
    rows = np.arange(store.count, dtype=np.int64)
    index = ann.open_index(store.vectors(), rows, factory, "scale", indexes, work)
    opening = time.process_time() - begun
    begun = time.process_time()
    ann.search(index, _queries(dimension), 50)
    return {
        "factory": factory,
        "built": set(indexes.glob("faiss-*")) != there,
        "open_seconds": round(opening, 1),
        "seconds_a_question": _each(begun),
        "disk_bytes": sum(_size(made) for made in indexes.glob("faiss-*")),
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _store(folder: Path, dimension: int) -> Any:
    from trainers.retrieval.store import EmbeddingStore

    return EmbeddingStore(folder / "embeddings", "random", dimension, "float16")


def _queries(dimension: int) -> Any:
    import numpy as np

    made = np.random.default_rng(1).standard_normal((QUESTIONS, dimension), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _each(begun: float) -> float:
    return round((time.process_time() - begun) / QUESTIONS, 5)
