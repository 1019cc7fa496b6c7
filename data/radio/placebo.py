"""The control arm: every pool is scored with the answers and the rationale of another question."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from data.errors import DataError
from data.radio.fuse import Scored, Scorer, score_pools
from data.radio.pools import Pool
from data.radio.rationales import Template


@dataclass(frozen=True)
class Donor:
    """What another question gives away. The answers go along: the scored text holds them, and they alone would find
    the right document."""

    answers: tuple[str, ...]
    reason: str


def donors(pools: Iterable[Pool], rationales: Mapping[str, str], seed: int = 0) -> dict[str, Donor]:
    """For each question with a rationale and documents another one, in one ring: each gives once and takes once."""
    dice = random.Random(f"placebo {seed}")
    usable = [
        (pool.id, pool.answers) for pool in pools if pool.documents and rationales.get(pool.id, "").strip()
    ]
    if len(usable) < 2:
        raise DataError(
            f"a placebo takes rationales from other questions, and there are {len(usable)} with a rationale",
            way_out="give more questions, or leave `placebo` out",
        )
    # random() alone is promised to stay the same over versions of Python.
    ring = sorted(usable, key=lambda _: dice.random())
    return {
        key: Donor(answers, rationales[giver])
        for (key, _), (giver, answers) in zip(ring, ring[1:] + ring[:1], strict=True)
    }


def score_placebo(
    pools: Iterable[Pool],
    given: Mapping[str, Donor],
    scorer: Scorer,
    counts: Counter[str],
    *,
    template: Template = "question_answers_rationale",
) -> Iterator[Scored]:
    """As `score_pools`; what comes out holds each pool with its own answers, which groups are counted by."""
    own: deque[Pool] = deque()

    def swapped() -> Iterator[Pool]:
        for pool in pools:
            donor = given.get(pool.id)
            if donor is not None:
                own.append(pool)
            yield pool if donor is None else replace(pool, answers=donor.answers)

    reasons = {key: donor.reason for key, donor in given.items()}
    for one in score_pools(swapped(), reasons, scorer, counts, template=template):
        yield Scored(own.popleft(), one.rationale)
