"""Exact match and F1 as open-domain question answering computes them."""

from __future__ import annotations

import pytest

from data.errors import DataError
from data.radio.answers import answer_finder, contains_answer, exact_match, f1, normalise_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("a cat, an owl; the fox", "cat owl fox"),
        ("U.S.A.", "usa"),
        ("don't", "dont"),
        ("theatre and anthem", "theatre and anthem"),  # articles are whole words
        ("well-known", "wellknown"),  # a hyphen is dropped, not a blank
        ("Zürich – “Altstadt”", "zürich – “altstadt”"),  # only ASCII punctuation goes
        ("The", ""),
        ("\t1,000 \n", "1000"),
        ("The A-Team", "ateam"),  # punctuation goes before articles
    ],
)
def test_the_normal_form(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


def test_exact_match_takes_any_gold() -> None:
    assert exact_match("the Danube.", ["Rhine", "danube"]) == 1.0
    assert exact_match("Danube river", ["Rhine", "danube"]) == 0.0


@pytest.mark.parametrize(
    ("said", "golds", "score"),
    [
        ("barack obama", ["Obama"], 2 * (1 / 2) * 1 / (1 / 2 + 1)),
        ("x y y", ["y y z"], 2 / 3),  # bags: y twice on both sides
        ("y", ["y y z"], 2 * 1 * (1 / 3) / (1 + 1 / 3)),
        ("x", ["y"], 0.0),
        ("big red dog", ["dog", "red dog"], 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # the best gold counts
        ("yes", ["yes it is"], 0.0),  # a closed answer has no partial credit
        ("yes it is", ["no"], 0.0),
        ("Yes!", ["yes"], 1.0),
        ("noanswer", ["noanswer"], 1.0),
        ("", ["x"], 0.0),
    ],
)
def test_f1(said: str, golds: list[str], score: float) -> None:
    assert f1(said, golds) == pytest.approx(score, abs=1e-12)


def test_an_answer_stands_as_whole_tokens() -> None:
    assert contains_answer("It was the Danube, of course.", ["danube"])
    assert not contains_answer("Danubes are many", ["danube"])
    assert contains_answer("in New  York City", ["The New York"])
    assert not contains_answer("anything", ["The", "?"])
    found = answer_finder(["1,000"])
    assert [found("1000 ships"), found("10 000 ships")] == [True, False]


@pytest.mark.parametrize("golds", [[], "one text"])
def test_gold_answers_are_a_list(golds: list[str]) -> None:
    with pytest.raises(DataError, match="list of gold answers"):
        exact_match("x", golds)
