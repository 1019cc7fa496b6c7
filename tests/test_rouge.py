"""ROUGE-L against hand-computed cases, the textbook table, and the `rouge_score` package."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rouge import longest_common, rouge_l, rouge_l_recall, tokens


def by_table(left: Sequence[str], right: Sequence[str]) -> int:
    """The recursion of the definition."""

    @cache
    def length(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if left[i - 1] == right[j - 1]:
            return length(i - 1, j - 1) + 1
        return max(length(i - 1, j), length(i, j - 1))

    return length(len(left), len(right))


@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.sampled_from("abc"), max_size=40))
def test_the_longest_common_subsequence(left: list[str], right: list[str]) -> None:
    assert longest_common(left, right) == by_table(left, right) == longest_common(right, left)


def test_longer_than_a_machine_word() -> None:
    draw = random.Random(1)
    left, right = (draw.choices("abcdefgh", k=n) for n in (150, 200))
    assert longest_common(left, right) == by_table(left, right)


def test_cocos_f_by_hand() -> None:
    # LCS "the cat the mat": 4 of 5 words of the candidate, 4 of 6 of the reference.
    precision, recall = 4 / 5, 4 / 6
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l("the cat near the mat", "the cat sat on the mat") == pytest.approx(expected, rel=1e-12)
    assert rouge_l("a b", "a b") == 1
    assert rouge_l("a b", "c d") == rouge_l("", "c d") == rouge_l("a", "") == 0
    # It leans to recall, and keeps case and punctuation.
    assert rouge_l("a b c d", "a b") > rouge_l("a b", "a b c d")
    assert rouge_l("The mat.", "the mat") == 0
    assert rouge_l("The mat.", "the mat", how="words") == 1


def test_several_references_give_the_best_precision_and_the_best_recall() -> None:
    # Against "a x y z" P = 1/2, R = 1/4; against "b" P = 1/2, R = 1.
    assert rouge_l("a b", ["a x y z", "b"]) == pytest.approx(2.44 * 0.5 / (1 + 1.44 * 0.5), rel=1e-12)
    with pytest.raises(ValueError, match="no reference"):
        rouge_l("a", [])


def test_recall_by_hand() -> None:
    assert rouge_l_recall("She was born in Oslo, of course", "born in Oslo") == 1
    assert rouge_l_recall("Oslo born", "born in Oslo") == pytest.approx(1 / 3)
    assert rouge_l_recall("he publishes novels", "She published a novel") == pytest.approx(
        2 / 4
    )  # publish, novel
    assert rouge_l_recall("anything", "") == 0


def test_tokens() -> None:
    assert tokens("At 18:40 the well-kept Café's 3.5 km.", "words") == [
        "at",
        "18:40",
        "the",
        "well-kept",
        "café's",
        "3.5",
        "km",
    ]
    assert tokens("The BOATS, running_fast!", "stems") == ["the", "boat", "run", "fast"]
    with pytest.raises(ValueError, match="whitespace, words, stems"):
        tokens("a", "letters")  # pyright: ignore[reportArgumentType]


TEXT = (
    "the author authors authoring wrote writing written novel novels dying lying tying sky skies proceed "
    "succeeded generously happily flies die cats caresses ponies national rationalisation hopefulness "
    "1987 18:40 Oslo Café don't well-known X Æsir news innings under_score be been was"
)
WORDS = TEXT.split()


def test_recall_is_rouge_scores() -> None:
    scorer: Any = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    draw = random.Random(0)
    for _ in range(300):
        said, wanted = (" ".join(draw.choices(WORDS, k=draw.randint(0, 14))) for _ in range(2))
        expected = scorer.score(wanted, said)["rougeL"].recall
        assert rouge_l_recall(said, wanted) == pytest.approx(expected, abs=1e-12), (said, wanted)


def test_f_is_the_definition() -> None:
    draw = random.Random(2)
    for _ in range(50):
        said, wanted = (draw.choices(WORDS, k=draw.randint(1, 12)) for _ in range(2))
        common = by_table(said, wanted)
        precision, recall = common / len(said), common / len(wanted)
        expected = 2.44 * precision * recall / (recall + 1.44 * precision) if common else 0.0
        assert rouge_l(" ".join(said), " ".join(wanted)) == pytest.approx(expected, rel=1e-12)
