"""A FAISS index over stored vectors: built in blocks, kept on disk, and told apart by what it was made from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError, RecipeError
from data.jsonl import replacing
from trainers.fingerprint import fingerprint
from trainers.work import Work

BLOCK = 65536
TRAIN_PER_CELL = 64
"""Vectors for each cell of an IVF index that are enough to place it; FAISS warns below 39 and samples above 256."""


def open_index(
    vectors: NDArray[np.floating],
    rows: NDArray[np.int64],
    factory: str,
    identity: str,
    folder: Path,
    work: Work,
    *,
    nprobe: int = 16,
    seed: int = 0,
) -> Any:
    """The index over these rows by inner product; an earlier one is read if it was made from the same rows."""
    faiss = _faiss()
    mark = fingerprint("faiss 1", identity, factory, seed, len(rows), _digest(rows))
    file, told = folder / f"faiss-{mark}.index", folder / f"faiss-{mark}.json"
    if file.is_file() and told.is_file():
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
        if index.ntotal == len(rows):
            return _probing(faiss, index, nprobe)
    index = _build(faiss, vectors, rows, factory, seed, work)
    folder.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(file.name + ".tmp")
    faiss.write_index(index, str(aside))
    os.replace(aside, file)
    with replacing(told) as out:
        out.write(json.dumps({"factory": factory, "vectors": len(rows), "identity": identity}).encode())
    return _probing(faiss, index, nprobe)


def search(index: Any, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and places, best first, of equal scores the lower place; -1 where an approximate index found fewer."""
    scores, place = index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, index.ntotal))
    scores = np.where(place < 0, -np.inf, scores)
    order = np.lexsort((place, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(place, order, 1)


def _build(
    faiss: Any, vectors: NDArray[np.floating], rows: NDArray[np.int64], factory: str, seed: int, work: Work
) -> Any:
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as broken:
        raise RecipeError(
            f"FAISS knows no index `{factory}`",
            where="faiss_factory",
            way_out="for example Flat, HNSW32, IVF4096,Flat or IVF4096,PQ64",
        ) from broken
    if not index.is_trained:
        cells = getattr(faiss.try_extract_index_ivf(index), "nlist", 1024)
        if cells > len(rows):
            raise RecipeError(
                f"`{factory}` has {cells} cells for {len(rows)} passages",
                where="faiss_factory",
                way_out="take about the square root of the number of passages, or Flat",
            )
        dice = np.random.default_rng(seed)
        picked = np.sort(dice.choice(len(rows), min(len(rows), TRAIN_PER_CELL * cells), replace=False))
        work.say(f"faiss: `{factory}` is trained on {len(picked):,} of {len(rows):,} vectors")
        index.train(np.asarray(vectors[rows[picked]], dtype=np.float32))
    for start in range(0, len(rows), BLOCK):
        index.add(np.asarray(vectors[rows[start : start + BLOCK]], dtype=np.float32))
        work.progress(done=min(start + BLOCK, len(rows)), total=len(rows), unit="vectors")
    return index


def _probing(faiss: Any, index: Any, nprobe: int) -> Any:
    if (inverted := faiss.try_extract_index_ivf(index)) is not None:
        inverted.nprobe = nprobe
    return index


def _digest(rows: NDArray[np.int64]) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as missing:
        raise ModelError(
            "`index: faiss` needs the package faiss", way_out="pip install faiss-cpu, or write `index: exact`"
        ) from missing
    return faiss
