"""Answers from retrieved documents under several rerankers, scored by exact match and F1 side by side.

What is asked and what would be right are two values from the start: rerankers and the reader are given `Asked`, which
holds neither gold answers nor rationales.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from data.errors import DataError, RecipeError
from data.jsonl import replacing, write_jsonl_atomic
from data.radio.answers import contains_answer, exact_match, f1
from data.radio.fusion import descending
from data.radio.pairs import reader_chat
from data.radio.pools import read_pools
from trainers.config import GenerationOptions, ModelOptions
from trainers.fingerprint import only
from trainers.radio.rag_config import RagOptions
from trainers.radio.reading import Replies
from trainers.work import Work

COMPARISON = "rag.json"
RETRIEVER = "retriever"
"""The label of the order as retrieved."""
MEASURES = ("exact_match", "f1", "answer_said", "answer_shown")
"""Equal to a gold answer; F1 of words; a gold answer stands in the reply; and in the documents shown."""
RESERVED = ("differences", "lines", "reader", "score", "counts", "choice")


@dataclass(frozen=True)
class Asked:
    """All that is known when a question is answered."""

    id: str
    question: str
    documents: tuple[str, ...]
    """Texts, in order."""


def evaluate_rag(
    options: RagOptions,
    generation: GenerationOptions,
    pools: Path,
    rerankers: Mapping[str, str],
    reader: str | None,
    work: Work,
    *,
    validation: Path | None = None,
    bootstrap: int = 2000,
    samples: int = 3,
    dtype: Any = "auto",
) -> dict[str, Any]:
    """Figures by label, paired differences with intervals, and lines to print.

    `validation`: pools of other questions, by which one of the rerankers that `options.choose` names is chosen.
    """
    files = _files(rerankers, options.against, work.out)
    asked, golds, counts = open_pools(pools, options.n_candidates)
    if counts["without_documents"]:
        work.say(
            f"{counts['without_documents']:,} questions have no documents; the reader is asked all the same"
        )
    tried = _validation(options, rerankers, validation, {one.id for one in asked})
    orders: dict[str, list[Asked]] = {RETRIEVER: asked}
    for label, start in rerankers.items():
        work.say(f"{label}: puts {sum(len(one.documents) for one in asked):,} documents in order")
        orders[label] = reordered(asked, start, options, work)
    shown = {label: [_first(one, options.top_k) for one in found] for label, found in orders.items()}
    rows: dict[str, list[dict[str, Any]]] = {}
    choice: dict[str, Any] = {}
    with closing(_Reading(options, generation, reader, dtype, work)) as read:
        if tried is not None:
            choice = _chosen(options, rerankers, tried, read, work)
        for label, contexts in shown.items():
            replies = read(contexts)
            rows[label] = [
                _scored(one, reply, golds[one.id]) for one, reply in zip(contexts, replies, strict=True)
            ]
            write_jsonl_atomic(files[label], _with_ranks(rows[label], contexts, asked))
        told = read.figures()
    figures: dict[str, Any] = {
        label: {name: round(fmean(row[name] for row in found), 6) for name in MEASURES}
        for label, found in rows.items()
    }
    figures["score"] = " -> ".join(f"{label} {figures[label]['exact_match']:.3f}" for label in rows)
    figures["counts"] = {**counts, **told}
    if choice:
        figures["choice"] = choice
    figures["differences"] = differences(rows, options.against, resamples=bootstrap, seed=generation.seed)
    with replacing(work.out / COMPARISON) as file:
        file.write(json.dumps(figures, indent=2, ensure_ascii=False).encode() + b"\n")
    figures["lines"] = _lines(figures, rows, options.top_k, samples)
    return figures


def open_pools(path: Path, limit: int) -> tuple[list[Asked], dict[str, tuple[str, ...]], Counter[str]]:
    """What is asked, and apart from it the gold answers by question id, which only the scoring gets."""
    counts = Counter[str]()
    asked: list[Asked] = []
    golds: dict[str, tuple[str, ...]] = {}
    for pool in read_pools(path, counts, limit=limit):
        asked.append(Asked(pool.id, pool.question, tuple(document.text for document in pool.documents)))
        golds[pool.id] = pool.answers
        counts["questions"] += 1
        counts["without_documents"] += not pool.documents
    if not asked:
        raise DataError(
            "there is not one question", where=str(path), way_out="look at the stage that retrieved"
        )
    return asked, golds, counts


def reordered(asked: Sequence[Asked], start: str, options: RagOptions, work: Work) -> list[Asked]:
    """The same with each question's documents in the reranker's order."""
    from trainers.radio.reranking import load_reranker, rerank

    model = load_reranker(start, max_length=options.pair_max_length)
    scores = rerank(
        model,
        [one.question for one in asked],
        [one.documents for one in asked],
        tokens=options.pair_tokens,
        progress=work.progress,
    )
    return [
        Asked(one.id, one.question, tuple(one.documents[int(place)] for place in descending(found)))
        for one, found in zip(asked, scores, strict=True)
    ]


def _validation(
    options: RagOptions, rerankers: Mapping[str, str], path: Path | None, tested: set[str]
) -> tuple[list[Asked], dict[str, tuple[str, ...]]] | None:
    for label in options.choose:
        if label not in rerankers:
            raise RecipeError(f"`choose` names `{label}`", way_out=f"there are {', '.join(rerankers)}")
    if path is None:
        return None
    asked, golds, _ = open_pools(path, options.n_candidates)
    both = sorted(tested & golds.keys())
    if both:
        raise DataError(
            f"{len(both)} questions choose a reranker and judge it too, among them {both[0]!r}",
            where=str(path),
            way_out="give `validation_pools` other questions than `pools`",
        )
    return asked, golds


def _chosen(
    options: RagOptions,
    rerankers: Mapping[str, str],
    tried: tuple[list[Asked], dict[str, tuple[str, ...]]],
    read: _Reading,
    work: Work,
) -> dict[str, Any]:
    """Which of the rerankers answers the validation questions best."""
    asked, golds = tried
    found: dict[str, float] = {}
    for label in options.choose:
        work.say(f"{label}: tried on {len(asked):,} validation questions")
        shown = [_first(one, options.top_k) for one in reordered(asked, rerankers[label], options, work)]
        replies = zip(shown, read(shown), strict=True)
        found[label] = round(fmean(exact_match(reply, golds[one.id]) for one, reply in replies), 6)
    label = max(found, key=lambda one: found[one])
    return {"label": label, "questions": len(asked), "exact_match": found}


def _with_ranks(
    rows: Sequence[Mapping[str, Any]], shown: Sequence[Asked], asked: Sequence[Asked]
) -> Iterator[dict[str, Any]]:
    """The rows with the rank that each document shown had as retrieved. A pool holds a text once."""
    for row, after, before in zip(rows, shown, asked, strict=True):
        place = {text: rank for rank, text in enumerate(before.documents)}
        yield {**row, "retrieval_ranks": [place[text] for text in after.documents]}


def differences(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], against: Sequence[str], *, resamples: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Each label minus each of `against`, for exact match and F1: mean and 95 % interval, paired over questions."""
    count = len(next(iter(rows.values())))
    picks = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for earlier in against:
        for later in rows:
            if later in against[: against.index(earlier) + 1]:
                continue
            told: dict[str, dict[str, float]] = {}
            for name in ("exact_match", "f1"):
                gaps = np.array([a[name] - b[name] for a, b in zip(rows[later], rows[earlier], strict=True)])
                low, high = np.percentile(gaps[picks].mean(axis=1), [2.5, 97.5])
                means = (float(gaps.mean()), float(low), float(high))
                told[name] = dict(zip(("mean", "low", "high"), (round(m, 6) for m in means), strict=True))
            found[f"{later} - {earlier}"] = told
    return found


class _Reading:
    """The reader that the options choose."""

    def __init__(
        self, options: RagOptions, generation: GenerationOptions, reader: str | None, dtype: Any, work: Work
    ) -> None:
        self.pattern = options.reader_pattern
        self._replies: Replies | None = None
        if reader is not None:
            model = ModelOptions(model=reader, dtype=dtype)
            self._replies = Replies(reader, model, only(GenerationOptions, generation), work)

    def __call__(self, asked: Sequence[Asked]) -> list[str]:
        if self._replies is not None:
            return self._replies([reader_chat(one.question, one.documents) for one in asked])
        if self.pattern is None:
            raise RecipeError("nobody reads", way_out="give `reader` or `reader_pattern`")
        return [self.pattern.answer(one.question, one.documents) for one in asked]

    def figures(self) -> dict[str, int]:
        return {} if self._replies is None else self._replies.figures()

    def close(self) -> None:
        if self._replies is not None:
            self._replies.close()


def _first(asked: Asked, count: int) -> Asked:
    return Asked(asked.id, asked.question, asked.documents[:count])


def _scored(asked: Asked, reply: str, golds: Sequence[str]) -> dict[str, Any]:
    return {
        "id": asked.id,
        "question": asked.question,
        "answer": reply,
        "golden_answers": list(golds),
        "exact_match": exact_match(reply, golds),
        "f1": round(f1(reply, golds), 6),
        "answer_said": float(contains_answer(reply, golds)),
        "answer_shown": float(any(contains_answer(text, golds) for text in asked.documents)),
    }


def _files(rerankers: Mapping[str, str], against: Sequence[str], out: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for label in (RETRIEVER, *rerankers):
        if label in RESERVED or (label == RETRIEVER and RETRIEVER in rerankers):
            raise RecipeError(f"a reranker cannot be labelled `{label}`", way_out="choose another label")
        file = out / f"answers-{re.sub(r'[^A-Za-z0-9._-]+', '_', label)}.jsonl"
        if file in files.values():
            raise RecipeError(f"the label `{label}` gives the same file name as another: {file.name}")
        files[label] = file
    for label in against:
        if label not in files:
            raise RecipeError(f"`against` names `{label}`", way_out=f"there are {', '.join(files)}")
    return files


def _lines(
    figures: Mapping[str, Any],
    rows: Mapping[str, list[dict[str, Any]]],
    top_k: int,
    samples: int,
) -> list[str]:
    title = f"{len(next(iter(rows.values())))} questions, {top_k} documents"
    left = max(len(title), *(len(label) for label in rows))
    heads = ("EM", "F1", "said", "shown")
    made = [title.ljust(left) + "".join(head.rjust(8) for head in heads)]
    made += [
        label.ljust(left) + "".join(f"{figures[label][name]:8.3f}" for name in MEASURES) for label in rows
    ]
    for name, gap in figures["differences"].items():
        em, other = gap["exact_match"], gap["f1"]
        made.append(
            f"{name}: EM {em['mean']:+.3f} ({em['low']:+.3f} to {em['high']:+.3f}), "
            f"F1 {other['mean']:+.3f} ({other['low']:+.3f} to {other['high']:+.3f})"
        )
    if choice := figures.get("choice"):
        made.append(
            f"chosen on {choice['questions']} validation questions: {choice['label']} ("
            + ", ".join(f"{label} {value:.3f}" for label, value in choice["exact_match"].items())
            + ")"
        )
    for place, first in enumerate(next(iter(rows.values()))[:samples]):
        made += ["", f"> {first['question']}  ({' / '.join(first['golden_answers'])})"]
        made += [f"  {label}: {' '.join(found[place]['answer'].split())}" for label, found in rows.items()]
    return made
