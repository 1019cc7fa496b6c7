"""RADIO's groups from files: pools and rationales in, groups and the figures of every lambda out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonl import replacing, write_jsonl_atomic
from data.radio.fuse import Scored, Scorer, align, dense_scorer, score_pools
from data.radio.groups import make_groups
from data.radio.placebo import donors, score_placebo
from data.radio.pools import read_pools
from data.radio.rationales import read_rationales
from data.radio.tfidf import Tfidf
from trainers import aliases
from trainers.radio.config import RadioOptions
from trainers.work import Work

FIGURES = "radio.json"
TOLD = {
    "without_rationale": "questions have no rationale under their id, and are left out",
    "empty_rationale": "questions have an empty rationale, and are left out",
    "without_documents": "questions have no documents, and are left out",
    "duplicate_documents": "documents have the text of another one in their pool, and are left out",
    "pool_too_small": "pools are too small for a group, and are left out",
    "clipped_pools": "pools end before the last rank that a negative is taken from: their last document stands in",
}
"""What a person should hear of, beside the figures."""


def collect_groups(
    options: RadioOptions, pools: Path, rationales: Path, out: Path, work: Work, *, cache: Path | None = None
) -> dict[str, Any]:
    """Write the groups to `out`; return the figures. Vectors are kept, so that another lambda encodes nothing."""
    counts, made = Counter[str](), Counter[str]()
    swept = {weight: Counter[str]() for weight in options.sweep}
    reasons = read_rationales(rationales)
    given = donors(read_pools(pools, Counter()), reasons, options.seed) if options.placebo else None
    encoder: Any = None
    if options.scorer == "dense":
        from trainers.retrieval.encoder import Encoder

        encoder = Encoder(
            options, (aliases.cache_folder() / "retrieval" if cache is None else cache) / "embeddings"
        )
        scorer: Scorer = dense_scorer(encoder)
    else:
        texts = (document.text for pool in read_pools(pools, Counter()) for document in pool.documents)
        scorer = Tfidf(texts).score
    try:

        def scored() -> Iterator[Scored]:
            found = read_pools(pools, counts, limit=options.n_documents)
            if given is None:
                each = score_pools(found, reasons, scorer, counts, template=options.text_template)
            else:
                each = score_placebo(found, given, scorer, counts, template=options.text_template)
            for one in each:
                for weight, tally in swept.items():
                    # Only counted: the groups themselves are those of rationale_weight.
                    for _ in make_groups([align(one, weight, options.normalise)], options, tally):
                        pass
                work.progress(done=counts["scored"], total=None, unit="questions")
                yield one

        groups = (align(one, options.rationale_weight, options.normalise) for one in scored())
        write_jsonl_atomic(out, make_groups(groups, options, made))
    finally:
        if encoder is not None:
            encoder.close()
    figures: dict[str, Any] = {**counts, **made}
    for key, what in TOLD.items():
        if figures.get(key):
            work.say(f"{figures[key]:,} {what}")
    figures["pos_with_answer_share"] = _share(made)
    if swept:
        figures["sweep"] = {str(weight): _share(tally) for weight, tally in swept.items()}
    if encoder is not None:
        figures |= {"encoded_texts": encoder.encoded, "cut_texts": encoder.cut}
    with replacing(out.with_name(FIGURES)) as file:
        file.write(json.dumps(figures, indent=2).encode() + b"\n")
    if not made["groups"]:
        raise DataError(
            f"not one group: {dict(counts + made)}",
            where=str(out.with_name(FIGURES)),
            way_out="rationales are joined to pools by question id: check that both files have the same ids",
        )
    return figures


def _share(counts: Counter[str]) -> float | None:
    """Groups whose positive contains a gold answer: a hint at what lambda does, before anything is trained."""
    found = counts["candidate_groups"]
    return round(counts["pos_with_answer"] / found, 4) if found else None
