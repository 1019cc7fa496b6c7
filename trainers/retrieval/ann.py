"""A FAISS index over stored vectors: built in blocks, kept on disk, and told apart by what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError, RecipeError, RunError
from trainers.fingerprint import fingerprint
from trainers.retrieval.building import turn, writing
from trainers.retrieval.exact import BLOCK_BYTES
from trainers.work import Work

TRAIN_PER_CELL = 64
"""Vectors for each cell of an IVF index that are enough to place it; FAISS warns below 39 and samples above 256."""
INDEX, MADE = "index.faiss", "made.json"


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
    """The index over these rows by inner product; an earlier one is read if it was made from the same vectors.

    `identity` tells these vectors, in this order, from all others: the numbers of their rows do not.
    """
    faiss = _faiss()
    mark = fingerprint("faiss 2", identity, factory, seed, len(rows))
    kept = folder / f"faiss-{mark}"
    if not kept.is_dir():
        with turn(kept, work.say):
            if not kept.is_dir():
                with writing(kept) as aside:
                    index = _build(faiss, vectors, rows, factory, seed, work)
                    _write(
                        faiss, index, aside, {"factory": factory, "vectors": len(rows), "identity": identity}
                    )
                    # One index in memory at most: what is searched is the one on disk.
                    del index
    return _mapped(faiss, kept, len(rows), nprobe)


def search(index: Any, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and places, best first, of equal scores the lower place; -1 where an approximate index found fewer."""
    scores, place = index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, index.ntotal))
    # FAISS sorts by score already: only rows with equal ones are sorted again, which few questions have.
    tied = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    if len(tied):
        found, there = scores[tied], place[tied]
        found[there < 0] = -np.inf
        order = np.lexsort((there, -found), axis=1)
        scores[tied], place[tied] = np.take_along_axis(found, order, 1), np.take_along_axis(there, order, 1)
    if place.size and place[:, -1].min() < 0:
        scores[place < 0] = -np.inf
    return scores, place


def _write(faiss: Any, index: Any, folder: Path, facts: dict[str, Any]) -> None:
    try:
        faiss.write_index(index, str(folder / INDEX))
    except RuntimeError as broken:  # FAISS has no other error
        raise RunError(
            f"FAISS cannot write its index: {_said(broken)}",
            where=str(folder.parent),
            way_out="check the folder's permissions and the free space (df -h)",
        ) from broken
    (folder / MADE).write_text(json.dumps(facts), encoding="utf-8")


def _mapped(faiss: Any, folder: Path, count: int, nprobe: int) -> Any:
    try:
        # Not IO_FLAG_MMAP: lists mapped by it start 32 threads at every search, which read all of a list beforehand,
        # and it maps nothing but inverted lists.
        index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as broken:
        raise _unreadable(folder, _said(broken)) from broken
    if index.ntotal != count:
        raise _unreadable(folder, f"it holds {index.ntotal:,} of {count:,} vectors")
    if (inverted := faiss.try_extract_index_ivf(index)) is not None:
        inverted.nprobe = nprobe
    return index


def _unreadable(folder: Path, why: str) -> RunError:
    return RunError(
        f"the FAISS index cannot be read: {why}",
        where=str(folder),
        way_out="remove the folder: it is built again",
    )


def _said(broken: Exception) -> str:
    """The last line: before it FAISS tells where in its own source."""
    return str(broken).strip().splitlines()[-1] if str(broken).strip() else type(broken).__name__


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
    step = max(1, BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, len(rows), step):
        index.add(np.asarray(vectors[rows[start : start + step]], dtype=np.float32))
        work.progress(done=min(start + step, len(rows)), total=len(rows), unit="vectors")
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as missing:
        raise ModelError(
            "`index: faiss` needs the package faiss", way_out="pip install faiss-cpu, or write `index: exact`"
        ) from missing
    return faiss
