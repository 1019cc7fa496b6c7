"""RADIO's collection: score retrieved documents by a rationale, blend with the retrieval score, order by the blend.

Jia et al., arXiv 2412.08519. Nothing here is needed at test time: gold answers and rationales make the groups that a
reranker learns from, and only the reranker goes along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.radio.fusion import Normalise, descending, fuse
from data.radio.pools import Pool
from data.radio.rationales import Template, scored_text

Scores = NDArray[np.float64]
Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[Scores]]
"""For every text, its similarity to each of its documents."""
Encode = Callable[[Sequence[str], Literal["query", "document"]], NDArray[np.float32]]
"""Unit vectors, one a row."""
SWEEP = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class Scored:
    """A pool with the similarity of each document to the rationale."""

    pool: Pool
    rationale: Scores


@dataclass(frozen=True)
class Aligned:
    """A pool in the order that the blend gives it; `order[0]` is the place of the best document."""

    pool: Pool
    weight: float
    """lambda."""
    order: NDArray[np.intp]
    scores: Scores
    """The blend, in the pool's order."""


def dense_scorer(encode: Encode) -> Scorer:
    """Inner products of unit vectors; every different document of a call is encoded once."""

    def score(texts: Sequence[str], documents: Sequence[Sequence[str]]) -> list[Scores]:
        unique = list(dict.fromkeys(text for found in documents for text in found))
        place = {text: row for row, text in enumerate(unique)}
        queries, passages = encode(list(texts), "query"), encode(unique, "document")
        return [
            passages[[place[text] for text in found]].astype(np.float64) @ query.astype(np.float64)
            for query, found in zip(queries, documents, strict=True)
        ]

    return score


def score_pools(
    pools: Iterable[Pool],
    rationales: Mapping[str, str],
    scorer: Scorer,
    counts: Counter[str],
    *,
    template: Template = "question_answers_rationale",
    chunk: int = 256,
) -> Iterator[Scored]:
    """The pools that have documents and a rationale under their id, `chunk` of them scored at a time.

    The others are left out and counted: `without_rationale`, `empty_rationale`, `without_documents`.
    """
    waiting = iter(pools)
    while batch := list(islice(waiting, chunk)):
        counts["questions"] += len(batch)
        usable = [pool for pool in batch if _usable(pool, rationales, counts)]
        if not usable:
            continue
        texts = [scored_text(p.question, p.answers, rationales[p.id], template) for p in usable]
        found = scorer(texts, [[document.text for document in pool.documents] for pool in usable])
        for pool, scores in zip(usable, found, strict=True):
            if scores.shape != pool.scores.shape:
                raise DataError(
                    f"{scores.size} scores for {pool.scores.size} documents of question {pool.id}",
                    way_out="the scorer must return a score for every document it is given",
                )
            counts["scored"] += 1
            yield Scored(pool, scores)


def sweep(scored: Scored, lambdas: Sequence[float], how: Normalise = "minmax") -> list[Aligned]:
    """The pool's order under every lambda, from one normalisation of its two score lists."""
    blended = fuse(scored.rationale, scored.pool.scores, lambdas, how)
    return [
        Aligned(scored.pool, float(weight), order, scores)
        for weight, order, scores in zip(lambdas, descending(blended), blended, strict=True)
    ]


def align(scored: Scored, weight: float = 0.5, how: Normalise = "minmax") -> Aligned:
    """The pool's order under one lambda."""
    return sweep(scored, (weight,), how)[0]


def _usable(pool: Pool, rationales: Mapping[str, str], counts: Counter[str]) -> bool:
    if pool.id not in rationales:
        counts["without_rationale"] += 1
    elif not rationales[pool.id].strip():
        counts["empty_rationale"] += 1
    elif not pool.documents:
        counts["without_documents"] += 1
    else:
        return True
    return False
