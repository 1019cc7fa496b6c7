"""Candidates for every question: read the corpus once, search it, and write one pool a question."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.jsonl import replacing, write_jsonl_atomic
from data.radio.passages import Passages
from data.radio.rationales import question_fields
from trainers import aliases
from trainers.fingerprint import fingerprint
from trainers.radio.config import RetrieveOptions
from trainers.retrieval import ann, exact
from trainers.retrieval.encoder import Encoder
from trainers.retrieval.lexical import Bm25
from trainers.work import Work

CHUNK = 1024
"""Questions searched together."""
EVERY_VECTOR = "Flat"
"""The FAISS index that compares with all vectors, as `index: exact` does: FAISS would keep a second copy of them, and
is slower at it."""
FIGURES = "retrieval.json"

Search = tuple[NDArray[np.float32], NDArray[np.int64]]


def retrieve(
    options: RetrieveOptions,
    questions: Iterable[Mapping[str, Any]],
    corpus: Path,
    out: Path,
    work: Work,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Write pools `{id, question, golden_answers, documents}` to `out`; return the figures.

    `cache` keeps the corpus's index and the embeddings; left out, it is a folder beside the models' cache, so that
    every run shares them.
    """
    cache = aliases.cache_folder() / "retrieval" if cache is None else cache
    counts = Counter[str]()
    with closing(Passages(corpus, _index_of(corpus, cache))) as passages:
        work.say(f"{corpus.name}: {len(passages):,} passages, {passages.copies:,} copies left out")
        with closing(_Searcher(options, passages, cache, work)) as searcher:
            write_jsonl_atomic(out, _pools(options, questions, passages, searcher, counts, work))
            figures: dict[str, Any] = {
                **counts,
                "passages": len(passages),
                "copies": passages.copies,
                **searcher.figures(),
            }
    with replacing(out.with_name(FIGURES)) as file:
        file.write(json.dumps(figures, indent=2).encode() + b"\n")
    return figures


def _pools(
    options: RetrieveOptions,
    questions: Iterable[Mapping[str, Any]],
    passages: Passages,
    searcher: _Searcher,
    counts: Counter[str],
    work: Work,
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    waiting = iter(questions)
    while chunk := list(islice(waiting, CHUNK)):
        asked = [question_fields(row, "questions") for row in chunk]
        for key, _, _ in asked:
            if key in seen:
                raise DataError(f"the question id {key!r} stands twice", way_out="give each its own id")
            seen.add(key)
        scores, places = searcher([question for _, question, _ in asked])
        for (key, question, answers), found, row in zip(asked, scores, places, strict=True):
            kept = row >= 0
            documents = passages.take([int(place) for place in row[kept]])
            counts["questions"] += 1
            counts["documents"] += len(documents)
            counts["short_pools"] += len(documents) < options.n_documents
            yield {
                "id": key,
                "question": question,
                "golden_answers": list(answers),
                "documents": [
                    {"id": document.id, "text": document.text, "score": float(score)}
                    for document, score in zip(documents, found[kept], strict=True)
                ],
            }
        work.progress(done=counts["questions"], total=None, unit="questions")


class _Searcher:
    """The way the options choose, over one corpus."""

    def __init__(self, options: RetrieveOptions, passages: Passages, cache: Path, work: Work) -> None:
        self.options = options
        self.encoder: Encoder | None = None
        self.lexical: Bm25 | None = None
        self.index: Any = None
        if options.retriever == "bm25":
            mark = fingerprint("bm25 1", passages.identity(), options.bm25_k1, options.bm25_b)
            folder = cache / "indexes" / f"bm25-{mark}"
            self.lexical = Bm25(
                passages.texts(), k1=options.bm25_k1, b=options.bm25_b, folder=folder, say=work.say
            )
            if not self.lexical.built:
                work.say(f"the index of the words of {passages.path.name} was there already")
            return
        self.encoder = Encoder(options, cache / "embeddings", options.store_dtype)
        self.rows = self.encoder.fill(
            passages.texts(), "document", total=len(passages), progress=work.progress
        )
        self.new = self.encoder.encoded
        # Rows that follow one another are read as slices of the map; others are picked, block by block.
        self.plain = bool((np.diff(self.rows) == 1).all())
        work.say(f"{len(passages) - self.new:,} of {len(passages):,} passages had their vectors already")
        if options.index == "faiss" and options.faiss_factory == EVERY_VECTOR:
            work.say(
                "faiss: `Flat` compares with every vector: those that are kept are searched, without a copy"
            )
        elif options.index == "faiss":
            store = self.encoder.store("document")
            self.index = ann.open_index(
                store.vectors(),
                self.rows,
                options.faiss_factory,
                store.identity_of(self.rows),
                cache / "indexes",
                work,
                nprobe=options.faiss_nprobe,
            )

    def __call__(self, questions: list[str]) -> Search:
        k = self.options.n_documents
        if self.lexical is not None:
            return self.lexical.search(questions, k)
        if self.encoder is None:
            raise RuntimeError("closed")
        queries = self.encoder(questions, "query")
        if self.index is not None:
            return ann.search(self.index, queries, k)
        vectors = self.encoder.store("document").vectors()
        if self.plain:
            return exact.search(vectors[self.rows[0] : self.rows[-1] + 1], queries, k)
        return exact.search(vectors, queries, k, rows=self.rows)

    def figures(self) -> dict[str, Any]:
        if self.encoder is None:
            return {}
        return {"encoded_passages": self.new, "cut_texts": self.encoder.cut}

    def close(self) -> None:
        if self.encoder is not None:
            self.encoder.close()


def _index_of(corpus: Path, cache: Path) -> Path:
    return cache / "corpora" / f"{corpus.stem}-{fingerprint(str(corpus.resolve()))}"
