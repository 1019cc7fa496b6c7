"""ILLUME's bookkeeping: judged candidates, the accepted set that only grows, the mixture to train on, when to stop.

Brack et al., arXiv 2208.08241. A model explains given answers several times; a critic marks the explanations that
fit, none, one or several of a prompt's; what fits is learned, and the tuned model explains again. Nothing here knows a
model.
Draws go by a hash of what is drawn: they depend on the seed and on the things themselves, never on their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Judged:
    """One candidate, and what the critic said of it."""

    id: str
    iteration: int
    prompt: Any
    image: Any
    candidate: str
    temperature: float | None
    accepted: bool | None
    """None: nobody judged it, which is not the same as rejected."""
    score: float | None
    judge: str
    time: str
    n_votes: int | None = None
    agreement: float | None = None
    """The share of the votes that say the same."""
    vote_ids: list[int] = field(default_factory=list[int])
    """In the label store, where people judged."""

    def to_row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Kept:
    """An accepted explanation, and where it comes from."""

    id: str
    text: str
    prompt: Any
    iteration: int
    temperature: float | None
    score: float | None
    judge: str
    image: Any = None
    n_votes: int | None = None
    agreement: float | None = None
    vote_ids: list[int] = field(default_factory=list[int])

    def to_row(self) -> dict[str, Any]:
        return asdict(self)


Accepted = Mapping[str, Sequence[Kept]]
"""By prompt, in the order in which they were accepted."""


@dataclass(frozen=True)
class Grown:
    """The accepted set after an iteration, and what did not enter it."""

    accepted: dict[str, list[Kept]]
    new: int
    duplicates: int
    over_cap: int


def accumulate(
    before: Accepted,
    judged: Iterable[Judged],
    *,
    max_per_prompt: int | None = None,
    how: Literal["union", "latest"] = "union",
) -> Grown:
    """Add what was accepted; one text counts once for a prompt. What is in stays in, unless `latest` starts anew.

    Where the cap leaves no room for all, those with the highest score enter, the earlier ones of equals.
    """
    kept = {key: list(texts) for key, texts in before.items()} if how == "union" else {}
    new = duplicates = over = 0
    for one in _best_first([one for one in judged if one.accepted]):
        texts = kept.setdefault(one.id, [])
        if any(other.text == one.candidate for other in texts):
            duplicates += 1
        elif max_per_prompt is not None and len(texts) >= max_per_prompt:
            over += 1
        else:
            new += 1
            texts.append(_kept(one))
    return Grown(kept, new, duplicates, over)


def _kept(one: Judged) -> Kept:
    return Kept(
        id=one.id,
        text=one.candidate,
        prompt=one.prompt,
        iteration=one.iteration,
        temperature=one.temperature,
        score=one.score,
        judge=one.judge,
        image=one.image,
        n_votes=one.n_votes,
        agreement=one.agreement,
        vote_ids=one.vote_ids,
    )


def _best_first(found: list[Judged]) -> list[Judged]:
    return sorted(found, key=lambda one: -(one.score if one.score is not None else 0.0))


def count(accepted: Accepted) -> int:
    return sum(len(texts) for texts in accepted.values())


def draw_placebo(judged: Sequence[Judged], texts: int | None, seed: int) -> list[Judged]:
    """As many different candidates as the critic accepted (or `texts`), drawn uniformly over all of them.

    Never so many *per prompt*: which prompts the critic likes is itself what the critic knows, and would leak.
    """
    pool: dict[tuple[str, str], Judged] = {}
    for one in judged:
        if one.candidate:
            pool.setdefault((one.id, one.candidate), one)
    wanted = len({(one.id, one.candidate) for one in judged if one.accepted}) if texts is None else texts
    order = sorted(pool, key=lambda name: _mark(seed, "placebo", *name))
    drawn = set(order[:wanted])
    return [
        replace(one, accepted=True, score=None, judge="placebo", n_votes=None, agreement=None, vote_ids=[])
        for name, one in pool.items()
        if name in drawn
    ]


@dataclass(frozen=True)
class Mix:
    """What one iteration trains on."""

    explained: list[Kept]
    """S: rows of question, answer and explanation."""
    answered: list[str]
    """V: prompts without an accepted explanation, of which question and answer are learned."""
    weight: float
    """w, of the explanations' loss."""


def mix(
    ids: Sequence[str],
    accepted: Accepted,
    *,
    ratio: float,
    rows: int | None = None,
    seed: int = 0,
    weight: float | None = None,
    min_weight: float = 1.0,
) -> Mix:
    """V is `ratio` times S or `rows` rows, and never more than there are prompts without an explanation.

    w is |V| / |S| unless given. It is clamped from below then, because V runs dry when nearly every prompt is covered.
    """
    explained = [one for key in ids for one in accepted.get(key, ())]
    left = [key for key in ids if not accepted.get(key)]
    wanted = rows if rows is not None else round(ratio * len(explained))
    drawn = set(sorted(left, key=lambda key: _mark(seed, "answered", key))[:wanted])
    answered = [key for key in left if key in drawn]
    if weight is None:
        weight = max(len(answered) / max(len(explained), 1), min_weight)
    return Mix(explained, answered, weight)


@dataclass(frozen=True)
class Round:
    """What the stop rules look at after an iteration."""

    score: float | None
    """On held-out prompts; None where nothing is measured."""
    acceptance: float | None
    """Of the held-out explanations; else of the sampled ones."""
    judged: int
    """Candidates judged in this iteration."""


def why_stop(
    rounds: Sequence[Round],
    *,
    base_score: float | None,
    max_iterations: int,
    patience: int | None = None,
    target_acceptance: float | None = None,
    max_judgements: int | None = None,
) -> str | None:
    """The first rule that says enough, in words; None: go on."""
    if target_acceptance is not None and rounds:
        reached = rounds[-1].acceptance
        if reached is not None and reached >= target_acceptance:
            return f"acceptance {reached:.3f} has reached target_acceptance {target_acceptance:g}"
    spent = sum(one.judged for one in rounds)
    if max_judgements is not None and spent >= max_judgements:
        return f"{spent} candidates are judged, and max_judgements is {max_judgements}"
    since = _since_best([base_score, *(one.score for one in rounds)])
    if patience is not None and since >= patience:
        return f"no iteration of the last {since} was better on held-out prompts (patience {patience})"
    if len(rounds) >= max_iterations:
        return f"all {max_iterations} iterations are done"
    return None


def _since_best(scores: Sequence[float | None]) -> int:
    """How many scores came after the best one; equal is not better."""
    best: float | None = None
    since = 0
    for score in scores:
        if score is None:
            continue
        if best is None or score > best:
            best, since = score, 0
        else:
            since += 1
    return since


def derived_seed(seed: int, *what: object) -> int:
    """A seed of its own for each part of the work."""
    return int(_mark(seed, *what)[:8], 16)


def shuffled(texts: Iterable[str], seed: int, key: str) -> list[str]:
    """An order that tells nothing of where a text came from."""
    return sorted(texts, key=lambda text: _mark(seed, "shown", key, text))


def _mark(seed: int, *what: object) -> str:
    return hashlib.sha256("\0".join(map(str, (seed, *what))).encode()).hexdigest()
