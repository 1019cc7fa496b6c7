"""Candidates to preference pairs: a rubric or people's votes score them, and wide enough differences make pairs.

Texts that are equal but for the blanks around them count as one candidate, the first of them. Of equal scores the
lower index goes first, both for the best and for the worst. Candidates that are empty, or that nobody judged, make
no pairs: unjudged is not rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from data.critics import Rubric
from data.errors import DataError
from data.jsonl import iterate_jsonl, write_jsonl_atomic
from data.votes import Votes, VotesFile, VotesMissing, demand, read_votes

__all__ = ["CandidateRow", "VotesFile", "VotesMissing", "make_pairs", "read_candidates"]

JUDGED = "judged.jsonl"
Pairing = Literal["best_worst", "all"]
# 0.3 - 0.2 is not quite 0.1.
ROUNDING = 1e-9


@dataclass(frozen=True)
class CandidateRow:
    """A prompt and the texts that answer it."""

    key: str
    where: str
    row: dict[str, Any]
    texts: list[str]
    first: list[int]
    """For each candidate, the first one with its text."""

    @property
    def distinct(self) -> list[int]:
        """Candidates that can be part of a pair."""
        return [i for i in sorted(set(self.first)) if self.texts[i].strip()]


@dataclass(frozen=True)
class _Judged:
    scores: list[float | None]
    parts: list[dict[str, float] | None]
    pairs: list[_Pair]
    """Everything that differs, whatever the margin."""


@dataclass(frozen=True)
class _Pair:
    chosen: int
    rejected: int
    score_chosen: float
    score_rejected: float

    @property
    def margin(self) -> float:
        return self.score_chosen - self.score_rejected


def make_pairs(
    candidates_file: Path,
    critic: Rubric | VotesFile,
    out: Path,
    *,
    base: Path,
    pairing: Pairing,
    min_margin: float,
    max_pairs_per_prompt: int,
) -> dict[str, Any]:
    """Write the pairs to `out` and every candidate's score to `judged.jsonl` beside it; return the figures."""
    prompts = list(read_candidates(candidates_file))
    if isinstance(critic, VotesFile):
        judged = _by_votes(prompts, base / critic.path, candidates_file)
    else:
        judged = [_by_rubric(prompt, critic) for prompt in prompts]
    pairs: list[tuple[CandidateRow, _Pair]] = []
    for prompt, verdict in zip(prompts, judged, strict=True):
        wide = [p for p in verdict.pairs if p.margin > 0 and p.margin >= min_margin - ROUNDING]
        wide.sort(key=lambda p: (-round(p.margin, 9), p.chosen, p.rejected))
        pairs += [(prompt, pair) for pair in wide[: 1 if pairing == "best_worst" else max_pairs_per_prompt]]
    figures = _figures(prompts, judged, pairs)
    lines = (
        line for prompt, verdict in zip(prompts, judged, strict=True) for line in _lines(prompt, verdict)
    )
    write_jsonl_atomic(out.with_name(JUDGED), lines)
    if not pairs:
        raise DataError(
            f"no pairs: of {figures['prompts']} prompts, {figures['no_margin']} have no two candidates that differ by "
            f"min_margin {min_margin:g}, {figures['identical']} have fewer than two different candidates, "
            f"{figures['unjudged']} candidates are unjudged",
            where=str(out.with_name(JUDGED)),
            way_out="Lower min_margin, sample more or wilder candidates (num_return_sequences, temperature), "
            "or look at the scores in that file.",
        )
    write_jsonl_atomic(out, (_row(prompt, pair) for prompt, pair in pairs))
    return figures


def read_candidates(file: Path) -> Iterator[CandidateRow]:
    """The rows of a `sample` stage, with the first candidate of each text."""
    for number, row in iterate_jsonl(file):
        where = f"{file}:{number}"
        try:
            texts = [str(candidate["text"]) for candidate in row["candidates"]]
            key, _ = str(row["id"]), row["prompt"]
        except (KeyError, TypeError) as fault:
            raise DataError(
                f"no row of candidates ({type(fault).__name__}: {fault})",
                where=where,
                way_out='a row is {"id", "prompt", "candidates": [{"text": "…"}, …]}, as a sample stage writes it',
            ) from fault
        seen: dict[str, int] = {}
        first = [seen.setdefault(text.strip(), index) for index, text in enumerate(texts)]
        yield CandidateRow(key, where, row, texts, first)


def _by_rubric(prompt: CandidateRow, rubric: Rubric) -> _Judged:
    scores: list[float | None] = []
    parts: list[dict[str, float] | None] = []
    for index, text in enumerate(prompt.texts):
        same = prompt.first[index]
        if same < index:
            scores.append(scores[same])
            parts.append(parts[same])
            continue
        try:
            scored = rubric.score(text, prompt.row)
        except DataError as fault:
            raise DataError(fault.what, where=prompt.where, way_out=fault.way_out) from fault
        scores.append(scored.score)
        parts.append(dict(scored.parts))
    return _Judged(scores, parts, _differences(prompt, scores))


def _differences(prompt: CandidateRow, scores: Sequence[float | None]) -> list[_Pair]:
    """Every two different candidates that have scores, the higher one chosen."""
    known = [(score, i) for i in prompt.distinct if (score := scores[i]) is not None]
    pairs: list[_Pair] = []
    for (score, one), (other_score, other) in combinations(known, 2):
        if score >= other_score:
            pairs.append(_Pair(one, other, score, other_score))
        else:
            pairs.append(_Pair(other, one, other_score, score))
    return pairs


def _by_votes(prompts: list[CandidateRow], path: Path, file: Path) -> list[_Judged]:
    votes = read_votes(path, {p.key: len(p.texts) for p in prompts}, file)
    demand(votes, [p.key for p in prompts if len(p.distinct) > 1], path, file)
    return [_counted(prompt, votes.get(prompt.key, Votes())) for prompt in prompts]


def _counted(prompt: CandidateRow, votes: Votes) -> _Judged:
    """Means of the scores people gave; or, of votes on pairs, the share that each candidate won."""
    known: dict[int, list[float]] = {}
    for line in votes.scores:
        for index, score in enumerate(line):
            if score is not None:
                known.setdefault(prompt.first[index], []).append(score)
    duels: dict[tuple[int, int], list[int]] = {}
    for chosen, rejected in votes.duels:
        won, lost = prompt.first[chosen], prompt.first[rejected]
        if won != lost:
            known.setdefault(won, []).append(1.0)
            known.setdefault(lost, []).append(0.0)
            duels.setdefault((min(won, lost), max(won, lost)), []).append(won)
    means = {index: fmean(values) for index, values in known.items()}
    scores = [means.get(first) for first in prompt.first]
    none: list[dict[str, float] | None] = [None] * len(scores)
    if not votes.duels:
        return _Judged(scores, none, _differences(prompt, scores))
    pairs: list[_Pair] = []
    for (one, other), winners in duels.items():
        if not (prompt.texts[one].strip() and prompt.texts[other].strip()):
            continue
        share = winners.count(one) / len(winners)
        pairs.append(
            _Pair(one, other, share, 1 - share) if share >= 0.5 else _Pair(other, one, 1 - share, share)
        )
    return _Judged(scores, none, pairs)


def _lines(prompt: CandidateRow, judged: _Judged) -> list[dict[str, Any]]:
    return [
        {
            "id": prompt.key,
            "index": index,
            "text": text,
            "score": judged.scores[index],
            "parts": judged.parts[index],
            "duplicate_of": prompt.first[index] if prompt.first[index] < index else None,
        }
        for index, text in enumerate(prompt.texts)
    ]


def _row(prompt: CandidateRow, pair: _Pair) -> dict[str, Any]:
    as_text = isinstance(prompt.row["prompt"], str)

    def answer(index: int) -> object:
        text = prompt.texts[index]
        return text if as_text else [{"role": "assistant", "content": text}]

    return {
        "prompt": prompt.row["prompt"],
        "chosen": answer(pair.chosen),
        "rejected": answer(pair.rejected),
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
        "margin": round(pair.margin, 9),
        "id": prompt.key,
        "chosen_index": pair.chosen,
        "rejected_index": pair.rejected,
    }


def _figures(
    prompts: Sequence[CandidateRow], judged: Sequence[_Judged], pairs: Sequence[tuple[CandidateRow, _Pair]]
) -> dict[str, Any]:
    paired = {prompt.key for prompt, _ in pairs}
    scores = [score for verdict in judged for score in verdict.scores]
    known = [score for score in scores if score is not None]
    identical = sum(len(prompt.distinct) < 2 for prompt in prompts)
    return {
        "prompts": len(prompts),
        "pairs": len(pairs),
        "no_margin": len(prompts) - len(paired) - identical,
        "identical": identical,
        "empty": sum(not text.strip() for prompt in prompts for text in prompt.texts),
        "duplicates": sum(first < i for prompt in prompts for i, first in enumerate(prompt.first)),
        "unjudged": len(scores) - len(known),
        "mean_score": _mean(known),
        "mean_score_chosen": _mean([pair.score_chosen for _, pair in pairs]),
        "mean_score_rejected": _mean([pair.score_rejected for _, pair in pairs]),
        "mean_margin": _mean([pair.margin for _, pair in pairs]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 6) if values else None
