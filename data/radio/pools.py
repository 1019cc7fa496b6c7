"""Pools: the documents that a retriever found for each question, in its order and with its scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.jsonl import iterate_jsonl
from data.radio.fusion import descending
from data.radio.rationales import question_fields


@dataclass(frozen=True)
class Document:
    """A passage under the id that the corpus gives it."""

    id: str
    text: str


@dataclass(frozen=True)
class Pool:
    """A question and what was retrieved for it, best first, each text once."""

    id: str
    question: str
    answers: tuple[str, ...]
    documents: tuple[Document, ...]
    scores: NDArray[np.float64]
    """The retriever's, in the documents' order."""

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "question": self.question,
            "golden_answers": list(self.answers),
            "documents": [
                {"id": document.id, "text": document.text, "score": float(score)}
                for document, score in zip(self.documents, self.scores, strict=True)
            ],
        }


def make_pool(
    row: Mapping[str, Any], where: str, counts: Counter[str] | None = None, *, limit: int | None = None
) -> Pool:
    """A pool from a row `{id, question, golden_answers, documents: [{id, text, score}]}`.

    Documents are put in the order of their scores. Of documents with the same text the best one stays and the others
    are counted as `duplicate_documents`: a text that is positive and negative at once would teach nothing.
    """
    key, question, answers = question_fields(row, where)
    found = row.get("documents")
    if not isinstance(found, list | tuple):
        raise DataError("`documents` is missing or no list", where=where, way_out="give what was retrieved")
    documents: list[Document] = []
    scores: list[float] = []
    for place, entry in enumerate(cast("list[object]", found)):
        document, score = _document(entry, f"{where} documents[{place}]")
        documents.append(document)
        scores.append(score)
    given = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(given).all():
        raise DataError("a retrieval score is not a finite number", where=where)
    order = [int(place) for place in descending(given)]
    first = {documents[place].text: place for place in reversed(order)}
    kept = [place for place in order if first[documents[place].text] == place]
    if counts is not None and len(kept) < len(order):
        counts["duplicate_documents"] += len(order) - len(kept)
        counts["pools_with_duplicates"] += 1
    kept = kept[:limit]
    return Pool(key, question, answers, tuple(documents[place] for place in kept), given[kept])


def read_pools(path: Path, counts: Counter[str], *, limit: int | None = None) -> Iterator[Pool]:
    """The pools of a file, streamed; two with one id are an error, because everything else is joined by it."""
    places = ((f"{path}:{number}", row) for number, row in iterate_jsonl(path))
    return distinct((make_pool(row, where, counts, limit=limit) for where, row in places), str(path))


def distinct(pools: Iterable[Pool], where: str) -> Iterator[Pool]:
    """The same pools; the second one of an id raises."""
    seen: set[str] = set()
    for pool in pools:
        if pool.id in seen:
            raise DataError(
                f"the question id {pool.id!r} stands twice",
                where=where,
                way_out="give each question its own id",
            )
        seen.add(pool.id)
        yield pool


def _document(entry: object, where: str) -> tuple[Document, float]:
    if isinstance(entry, Mapping):
        fields = cast("Mapping[str, object]", entry)
        key, text, score = fields.get("id"), fields.get("text"), fields.get("score")
        if (
            isinstance(key, str | int)
            and isinstance(text, str)
            and text.strip()
            and isinstance(score, int | float)
        ):
            return Document(str(key), text), float(score)
    raise DataError("no document", where=where, way_out='a document is {"id", "text", "score"}')
