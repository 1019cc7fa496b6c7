"""Which evaluation prompts stand in the training set: exact copies, and near ones by 5-gram Jaccard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from data.ledger import Ledger
from data.records import Placed, Row, Shape, check_rows, with_shape
from data.sources import Mixture, read

GRAM = 5
Codes = NDArray[np.uint64]


@dataclass(frozen=True)
class Match:
    """An evaluation prompt and the first training prompt found that matches it."""

    evaluation: int
    training: int
    similarity: float
    exact: bool


def prompt_of(row: Row, shape: Shape) -> str:
    """The text that a copy would share: without system messages, which whole datasets have in common."""
    if shape == "text":
        return str(row["text"])
    if shape == "messages":
        messages = cast("list[Mapping[str, Any]]", row["messages"])
        last = max(
            (i for i, turn in enumerate(messages) if turn["role"] == "assistant"), default=len(messages)
        )
        return _said(messages[:last])
    prompt: object = row["prompt"]
    return prompt if isinstance(prompt, str) else _said(cast("list[Mapping[str, Any]]", prompt))


def _said(messages: Sequence[Mapping[str, Any]]) -> str:
    parts: list[str] = []
    for message in messages:
        content: object = message.get("content")
        if message["role"] == "system" or content is None:
            continue
        if isinstance(content, list):
            parts.extend(str(block.get("text", "")) for block in cast("list[Mapping[str, Any]]", content))
        else:
            parts.append(str(content))
    return "\n".join(parts)


def normalise(text: str) -> str:
    return " ".join(text.casefold().split())


def grams(text: str) -> set[str]:
    """The character 5-grams of a normalised text; a shorter text is its own only gram."""
    return {text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1))}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the 5-grams of two normalised texts."""
    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b)


def find_overlap(training: Iterable[str], evaluation: Sequence[str], threshold: float = 0.8) -> list[Match]:
    """At most one match for each evaluation prompt: the first exact one, else the first that is near enough.

    Training prompts are streamed; memory grows with the evaluation set alone. Candidates come from the prefix
    filter (Chaudhuri et al. 2006): under one order of all grams, two sets with Jaccard >= t share a gram in
    the first n - ceil(t n) + 1 of each. What remains is verified on its real grams.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not in (0, 1]")
    texts = [normalise(text) for text in evaluation]
    index = _Index(texts, threshold)
    by_text: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        by_text[text].append(number)
    exact: dict[int, Match] = {}
    near: dict[int, Match] = {}
    for position, raw in enumerate(training):
        text = normalise(raw)
        for number in by_text.pop(text, ()):
            exact[number] = Match(number, position, 1.0, True)
        # A text that is its own only gram has no near copies.
        for number in index.candidates(text) if len(text) > GRAM else ():
            if number in exact or number in near:
                continue
            alike = similarity(text, texts[number])
            if alike >= threshold and text != texts[number]:
                near[number] = Match(number, position, alike, False)
    found = {**near, **exact}
    return [found[number] for number in sorted(found)]


def count_overlap(
    ledger: Ledger,
    name: str,
    training: Iterable[Placed],
    training_shape: Shape,
    evaluation: Iterable[Placed],
    evaluation_shape: Shape,
    threshold: float = 0.8,
) -> list[Match]:
    """Write into the ledger how many prompts of the evaluation set `name` stand in the training rows."""
    asked = list(evaluation)
    places: list[str] = []

    def prompts() -> Iterable[str]:
        for where, row in training:
            places.append(where)
            yield prompt_of(row, training_shape)

    matches = find_overlap(prompts(), [prompt_of(row, evaluation_shape) for _, row in asked], threshold)
    exact = sum(match.exact for match in matches)
    examples = [f"{asked[m.evaluation].where} = {places[m.training]}" for m in matches if m.exact]
    examples += [
        f"{asked[m.evaluation].where} ≈ {places[m.training]} ({m.similarity:.2f})"
        for m in matches
        if not m.exact
    ]
    ledger.note_overlap(name, len(asked), exact, len(matches) - exact, examples)
    return matches


def compare_sources(
    ledger: Ledger,
    name: str,
    training: Mixture,
    evaluation: Mixture,
    base: Path,
    among: Collection[Shape] | None = None,
    evaluation_among: Collection[Shape] | None = None,
) -> list[Match]:
    """`count_overlap` for two sets of sources, read anew: prompts are compared as text, before any tokenising."""
    passes: list[tuple[Iterable[Placed], Shape]] = []
    for mixture, shapes in ((training, among), (evaluation, evaluation_among)):
        spare = Ledger(name=name)
        shape, rows = with_shape(read(mixture, base, spare), shapes)
        passes.append((check_rows(rows, shape, spare, "drop"), shape))
    (train_rows, train_shape), (eval_rows, eval_shape) = passes
    return count_overlap(ledger, name, train_rows, train_shape, eval_rows, eval_shape)


class _Index:
    """The evaluation prompts by the rarest of their grams, and a cheap first test for what shares too few."""

    def __init__(self, texts: list[str], threshold: float) -> None:
        self.threshold = threshold
        sets = [_codes(text) for text in texts]
        joined = np.concatenate(sets) if sets else np.empty(0, np.uint64)
        self.known, self.frequency = np.unique(joined, return_counts=True)
        bits = min(26, max(16, int(self.known.size * 16).bit_length()))
        self.mask = np.uint64((1 << bits) - 1)
        self.maybe = np.zeros(1 << bits, np.bool_)
        self.maybe[self.known & self.mask] = True
        self.sets: list[frozenset[int]] = [frozenset(codes.tolist()) for codes in sets]
        self.postings: dict[int, list[int]] = defaultdict(list)
        for number, codes in enumerate(sets):
            for code in self._rarest(codes):
                self.postings[code].append(number)

    def _rarest(self, codes: Codes) -> list[int]:
        """The prefix: grams by rising frequency among the evaluation prompts, those unknown there first."""
        place = np.minimum(np.searchsorted(self.known, codes), max(self.known.size - 1, 0))
        frequency = np.where(self.known[place] == codes, self.frequency[place], 0)
        order = np.lexsort((codes, frequency))
        return codes[order[: self._prefix(len(codes))]].tolist()

    def _prefix(self, size: int) -> int:
        # The tolerance keeps 0.8 * 5 = 4.000000000000001 from asking for five.
        return size - ceil(self.threshold * size - 1e-9) + 1

    def candidates(self, text: str) -> list[int]:
        if not self.sets:
            return []
        codes = _codes(text)
        size = len(codes)
        if int(self.maybe[codes & self.mask].sum()) < self.threshold * size - 1e-9:
            return []  # the shared grams are at least t times either set
        rarest = frozenset(self._rarest(codes))
        found = {number for code in rarest for number in self.postings.get(code, ())}
        if not found:
            return []
        mine = frozenset(codes.tolist())
        return [number for number in sorted(found) if self._alike(mine, rarest, self.sets[number])]

    def _alike(self, one: frozenset[int], rarest: frozenset[int], other: frozenset[int]) -> bool:
        # Jaccard >= t means that at least t / (1 + t) of both sizes together is shared.
        needed = self.threshold / (1 + self.threshold) * (len(one) + len(other)) - 1e-6
        if needed > min(len(one), len(other)):
            return False
        # Most candidates already lack too many of the few rarest grams: a tenth of the work of a full comparison.
        return len(rarest - other) <= len(one) - needed and len(one & other) >= needed


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def _codes(text: str) -> Codes:
    """The distinct grams of a text as sorted 64-bit hashes (used to find candidates, never to decide)."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if points.size < GRAM:
        points = np.concatenate([points, np.zeros(GRAM - points.size, np.uint64)])
    count = points.size - GRAM + 1
    mixed = np.zeros(count, np.uint64)
    for offset in range(GRAM):
        mixed = (mixed + points[offset : offset + count]) * _MULTIPLIER
        mixed ^= mixed >> _SHIFT
    return np.unique(mixed)
