"""Vectors and indexes on disk under builders that are killed, that meet each other, and that run out of disk."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.errors import ModelError, RunError
from tests.handmade import environment, until
from trainers.retrieval import ann
from trainers.retrieval.lexical import Bm25
from trainers.retrieval.store import EmbeddingStore
from trainers.work import Work

TEXTS = ["red fox runs", "red red fox", "blue sky", "green fox"]

BUILD = """
import sys, time
from pathlib import Path
from trainers.retrieval.lexical import Bm25
folder, go = map(Path, sys.argv[1:])
def texts():
    for n, text in enumerate(["red fox runs", "red red fox", "blue sky", "green fox"]):
        if n == 2:
            print("half", flush=True)
            while not go.exists():
                time.sleep(0.01)
        yield text
made = Bm25(texts(), folder=folder, say=lambda line: print(line, flush=True))
print("built" if made.built else "read", made.search(["red"], 2)[1].tolist(), flush=True)
"""

FAISS = """
import sys, time
from pathlib import Path
import numpy as np
from trainers.retrieval import ann
from trainers.work import Work
folder = Path(sys.argv[1])
def slow(**_):
    print("half", flush=True)
    time.sleep(60)
ann.BLOCK_BYTES = 4 * 8 * 100
vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
ann.open_index(vectors, np.arange(300), "IVF4,Flat", "e", folder, Work(folder, progress=slow))
"""

APPEND = """
import sys
from pathlib import Path
import numpy as np
from trainers.retrieval.store import EmbeddingStore
folder, first = Path(sys.argv[1]), int(sys.argv[2])
store = EmbeddingStore(folder, "e", 8)
print("open", flush=True)
sys.stdin.readline()
for start in range(first, first + 300, 10):
    numbers = range(start, start + 10)
    made = np.array([[n + 1000 * d for d in range(8)] for n in numbers], dtype=np.float32)
    store.append([f"text {n}" for n in numbers], made)
print(len(store), flush=True)
store.close()
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if not one.name.endswith(".lock"))


def unit(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond it fail as on a full disk: after what still fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- an index of words ---


def test_of_two_builders_one_builds_and_the_other_waits_and_reads(tmp_path: Path) -> None:
    go = tmp_path / "go"
    one = start(BUILD, tmp_path / "cache" / "index", go)
    assert line(one) == "half"
    other = start(BUILD, tmp_path / "cache" / "index", go)
    assert line(other) == "another process builds index: waiting for it"
    go.touch()
    assert line(one) == "built [[1, 0]]"
    assert line(other) == "read [[1, 0]]"
    assert (one.communicate()[0], other.communicate()[0]) == ("", "")
    assert names(tmp_path / "cache") == ["index"]


def test_a_killed_builder_leaves_no_index_and_the_next_one_clears_up(tmp_path: Path) -> None:
    process = start(BUILD, tmp_path / "cache" / "index", tmp_path / "never")
    assert line(process) == "half"
    process.kill()
    process.communicate()
    (left,) = names(tmp_path / "cache")
    assert left.startswith(".index.tmp-")
    made = Bm25(iter(TEXTS), folder=tmp_path / "cache" / "index")
    assert made.built
    assert made.search(["red"], 2)[1].tolist() == [[1, 0]]
    assert names(tmp_path / "cache") == ["index"]


def test_the_index_on_disk_is_that_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.retrieval import lexical

    dice = np.random.default_rng(1)
    texts = [" ".join(f"word{n}" for n in dice.zipf(1.5, 20) % 40) for _ in range(60)]
    plain = Bm25(texts)
    for block in (1, 50, 10**6):
        monkeypatch.setattr(lexical, "BLOCK", block)
        kept = Bm25(iter(texts), folder=tmp_path / str(block))
        assert kept.index.vocab_dict == plain.index.vocab_dict
        for part in ("data", "indices", "indptr"):
            assert np.array_equal(kept.index.scores[part], plain.index.scores[part])
        assert isinstance(kept.index.scores["data"], np.memmap)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    texts = [f"word{n} word{n + 1}" for n in range(500)]
    with largest_file(1000), pytest.raises(RunError, match="File too large") as told:
        Bm25(iter(texts), folder=tmp_path / "index")
    assert told.value.where == str(tmp_path / "index")
    assert names(tmp_path) == []
    assert Bm25(iter(texts), folder=tmp_path / "index").size == 500


@pytest.mark.parametrize("part", ["data.csc.index.npy", "vocab.index.json"])
def test_an_emptied_part_is_told(tmp_path: Path, part: str) -> None:
    Bm25(iter(TEXTS), folder=tmp_path / "index")
    (tmp_path / "index" / part).write_bytes(b"")
    with pytest.raises(ModelError, match="index of words cannot be read"):
        Bm25(iter(TEXTS), folder=tmp_path / "index")


# --- a FAISS index ---


def test_a_killed_faiss_builder_leaves_no_index(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    process = start(FAISS, tmp_path)
    until(lambda: line(process) == "half")
    process.kill()
    process.communicate()
    (left,) = names(tmp_path)
    assert left.startswith(".faiss-")
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    work = Work(tmp_path, say=lambda _: None)
    made = ann.open_index(vectors, np.arange(300), "IVF4,Flat", "e", tmp_path, work, nprobe=4)
    best = (vectors[:5] @ vectors.T).argmax(axis=1)
    assert ann.search(made, vectors[:5], 1)[1].ravel().tolist() == best.tolist()
    assert names(tmp_path) == [left.removeprefix(".").partition(".tmp-")[0]]


def test_a_torn_faiss_index_and_a_full_disk_are_told(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors, rows, work = unit(300), np.arange(300), Work(tmp_path, say=lambda _: None)
    with largest_file(2000), pytest.raises(RunError, match="cannot write its index"):
        ann.open_index(vectors, rows, "HNSW8", "e", tmp_path, work)
    assert names(tmp_path) == []
    ann.open_index(vectors, rows, "HNSW8", "e", tmp_path, work)
    (kept,) = names(tmp_path)
    file = tmp_path / kept / ann.INDEX
    whole = file.read_bytes()
    for size in (0, len(whole) // 2):
        file.write_bytes(whole[:size])
        with pytest.raises(RunError, match="cannot be read") as told:
            ann.open_index(vectors, rows, "HNSW8", "e", tmp_path, work)
        assert told.value.way_out == "remove the folder: it is built again"


# --- vectors ---


def test_two_stores_of_one_folder_see_what_the_other_adds(tmp_path: Path) -> None:
    vectors = unit(30)
    texts = [f"t{n}" for n in range(30)]
    one, other = EmbeddingStore(tmp_path, "e", 8), EmbeddingStore(tmp_path, "e", 8)
    assert one.append(texts[:20], vectors[:20]) == 20
    assert other.rows(texts).tolist() == [*range(20), *[-1] * 10]
    # Ten are there already, and one stands twice.
    assert other.append([*texts[10:], texts[29]], np.concatenate([vectors[10:], vectors[29:]])) == 10
    for store in (one, other):
        assert store.rows(texts).tolist() == list(range(30))
        assert len(store) == 30
        assert np.array_equal(store.vectors(), vectors)
        store.close()


def test_two_processes_append_at_the_same_time(tmp_path: Path) -> None:
    """300 texts each, of which 100 are the same: each is there once, beside its own vector."""
    both = [start(APPEND, tmp_path, first) for first in (0, 200)]
    assert [line(process) for process in both] == ["open", "open"]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert max(int(process.communicate()[0]) for process in both) == 500
    store = EmbeddingStore(tmp_path, "e", 8)
    assert (len(store), store.mended) == (500, 0)
    rows = store.rows([f"text {n}" for n in range(500)])
    assert sorted(rows.tolist()) == list(range(500))
    assert np.array_equal(store.vectors()[rows], np.arange(500)[:, None] + 1000 * np.arange(8))
    store.close()


def test_a_full_disk_costs_what_was_being_written(tmp_path: Path) -> None:
    vectors, texts = unit(100), [f"t{n}" for n in range(100)]
    store = EmbeddingStore(tmp_path, "e", 8)
    store.append(texts[:10], vectors[:10])
    for size in (500, 8 * 4 * 100):  # torn among the vectors; the keys alone would still fit
        with largest_file(size), pytest.raises(RunError, match="File too large"):
            store.append([*texts[10:], "more"], np.concatenate([vectors[10:], unit(1)]))
        assert store.rows(texts).tolist() == [*range(10), *[-1] * 90]
    store.append(texts[10:], vectors[10:])
    assert np.array_equal(store.vectors()[store.rows(texts)], vectors)
    store.close()


def test_vectors_that_went_away_while_in_use_are_told(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "e", 8)
    store.append([f"t{n}" for n in range(10)], unit(10))
    (store.folder / "vectors.bin").write_bytes(b"x" * 8 * 4 * 7)
    with pytest.raises(RunError, match="3 vectors are gone"):
        store.rows(["t1"])
    store.close()


def test_an_identity_is_of_texts_and_not_of_rows(tmp_path: Path) -> None:
    """An index is found again by it, also after the vectors were removed and others took their rows."""
    one, other = EmbeddingStore(tmp_path / "one", "e", 8), EmbeddingStore(tmp_path / "other", "e", 8)
    one.append(["a", "b", "c"], unit(3))
    other.append(["c", "x", "a", "b"], unit(4))
    half = EmbeddingStore(tmp_path / "one", "e", 8, "float16")
    half.append(["a", "b", "c"], unit(3))
    first = one.identity_of(np.arange(3))
    assert other.identity_of(np.array([2, 3, 0])) == first
    assert other.identity_of(np.arange(3)) != first
    assert one.identity_of(np.array([0, 2, 1])) != first
    assert one.identity_of(np.arange(2)) != first
    assert half.identity_of(np.arange(3)) != first
    for store in (one, other, half):
        store.close()


def test_keys_stay_few_runs_however_they_come(tmp_path: Path) -> None:
    """One text at a time: every row is found, in at most as many searches as the count has binary digits."""
    store, vectors = EmbeddingStore(tmp_path, "e", 8), unit(70)
    for n in range(70):
        store.append([f"t{n}"], vectors[n : n + 1])
        assert len(store._runs) <= (n + 1).bit_length()
        assert sum(len(keys) for keys, _ in store._runs) == n + 1
    assert store.rows([f"t{n}" for n in range(70)]).tolist() == list(range(70))
    store.close()
