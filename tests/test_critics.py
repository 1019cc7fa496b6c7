from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.critics import Rubric
from data.errors import DataError
from data.rouge import rouge_l


def part(candidate: str, row: dict[str, Any] | None = None, **check: Any) -> float:
    """The one part of a rubric of one check, which is then also the score."""
    scored = Rubric.model_validate({"checks": [check]}).score(candidate, row or {})
    assert list(scored.parts.values()) == [pytest.approx(scored.score)]
    return scored.score


def test_it_imports_no_torch() -> None:
    code = "import sys, data.critics; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_regex() -> None:
    assert part("ARRIVE NINE STOP", check="regex", pattern=r"STOP$") == 1
    assert part("ARRIVE NINE STOP ", check="regex", pattern=r"STOP$") == 1  # Outer blanks are no matter.
    assert part("STOP ARRIVE NINE", check="regex", pattern=r"STOP$") == 0
    assert part("ARRIVE", check="regex", pattern=r"[a-z]", must="not_match") == 1
    assert part("ARRIVe", check="regex", pattern=r"[a-z]", must="not_match") == 0


def test_max_words_falls_to_zero_at_twice_the_limit() -> None:
    assert part("a b c d", check="max_words", words=4) == 1
    assert part("a b c d e", check="max_words", words=4) == pytest.approx(2 - 5 / 4)
    assert part("a b c d e f", check="max_words", words=4) == pytest.approx(2 - 6 / 4)
    assert part("a " * 8, check="max_words", words=4) == 0
    assert part("a " * 80, check="max_words", words=4) == 0


def test_min_words_is_the_share_reached() -> None:
    assert part("a b c", check="min_words", words=4) == pytest.approx(3 / 4)
    assert part("a b c d e", check="min_words", words=4) == 1


def test_contains_counts_whole_words() -> None:
    row = {"facts": ["Anna", "New York", "18:40", "3"]}
    assert part("ANNA NEW YORK 18:40 3 LAMPS", row, check="contains") == 1
    # Not ANNABEL for Anna, nor 18:403 or 3:40 for the numbers; only New York is there.
    assert part("ANNABEL NEW YORK 18:403 3:40", row, check="contains") == 1 / 4
    assert part("NEW ANNA YORK", row, check="contains") == 1 / 4
    assert part("ANNA NEW YORK", row, check="contains", case=True) == 0
    assert part("Anna NEW YORK 18:40", row, check="contains", case=True) == 2 / 4
    assert part("x", {"names": ["x", "y"]}, check="contains", column="names") == 1 / 2
    assert part("anything", {"facts": []}, check="contains") == 1


def test_no_new_numbers_reads_the_prompt_without_the_instruction() -> None:
    prompt = [
        {"role": "system", "content": "At most 12 words."},
        {"role": "user", "content": "3 lamps at 18:40."},
    ]
    check = {"check": "no_new_numbers"}
    assert part("3 LAMPS 18:40", {"prompt": prompt}, **check) == 1
    assert part("3 LAMPS 18:45", {"prompt": prompt}, **check) == 1 / 2
    assert part("12 LAMPS", {"prompt": prompt}, **check) == 0
    assert part("12 LAMPS", {"prompt": "take 12"}, **check) == 1
    assert part("LAMPS", {"prompt": prompt}, **check) == 1


def test_no_repetition() -> None:
    # a b, b a, a b: two different of three.
    assert part("a b a b", check="no_repetition") == pytest.approx(2 / 3)
    assert part("A b a B", check="no_repetition", n=1) == pytest.approx(2 / 4)
    assert part("a b c d", check="no_repetition") == 1
    assert part("a", check="no_repetition") == 1


def test_rouge_l_is_the_coco_form() -> None:
    # Common, in order: the cat ... mat = 3 of 4 said words, 3 of 6 wanted ones.
    precision, recall, square = 3 / 4, 3 / 6, 1.2**2
    wanted = (1 + square) * precision * recall / (recall + square * precision)
    assert rouge_l("The cat ate mat", "the cat sat on a mat", how="words") == pytest.approx(wanted)
    assert wanted == pytest.approx(0.5791139)
    row = {"reference": [{"role": "assistant", "content": "the cat sat on a mat"}]}
    assert part("the cat ate mat", row, check="rouge_l") == pytest.approx(wanted)
    assert part("the cat sat on a mat", row, check="rouge_l") == pytest.approx(1)
    assert part("dogs", {"gold": "cats"}, check="rouge_l", column="gold") == 0


def test_the_score_is_the_weighted_mean_of_the_parts() -> None:
    rubric = Rubric.model_validate(
        {
            "checks": [
                {"check": "contains", "weight": 4},
                {"check": "max_words", "words": 2, "weight": 2},
                {"check": "regex", "name": "capitals", "pattern": "[a-z]", "must": "not_match"},
                {"check": "regex", "name": "stop", "pattern": "STOP$"},
            ]
        }
    )
    scored = rubric.score("ANNA COMES STOP", {"facts": ["Anna", "Rome"]})
    assert scored.parts == {"contains": 0.5, "max_words": 0.5, "capitals": 1.0, "stop": 1.0}
    assert scored.score == pytest.approx((4 * 0.5 + 2 * 0.5 + 1 * 1 + 1 * 1) / (4 + 2 + 1 + 1))
    silent = rubric.score(" \n", {"facts": []})
    assert (silent.score, set(silent.parts.values())) == (0, {0.0})


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ([], "at least 1"),
        ([{"check": "max_word", "words": 3}], "max_word"),
        ([{"check": "max_words", "words": 0}], "greater than or equal to 1"),
        ([{"check": "max_words", "words": 3, "weight": 0}], "greater than 0"),
        ([{"check": "max_words", "words": 3, "weight": float("nan")}], "finite"),
        ([{"check": "max_words", "words": 3, "column": "facts"}], "Extra inputs"),
        ([{"check": "regex", "pattern": "("}], "not a regular expression"),
        ([{"check": "regex", "pattern": "a"}, {"check": "regex", "pattern": "b"}], "give each a `name`"),
    ],
)
def test_what_is_refused(checks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rubric.model_validate({"checks": checks})


def test_it_is_frozen() -> None:
    rubric = Rubric.model_validate({"checks": [{"check": "no_repetition"}]})
    with pytest.raises(ValidationError):
        rubric.checks = ()
    with pytest.raises(ValidationError):
        rubric.checks[0].weight = 2
    assert Rubric.model_validate_json(rubric.model_dump_json()) == rubric


def test_a_row_without_the_column_is_named() -> None:
    with pytest.raises(DataError, match=r"`facts`.*\n.*prompt, answer"):
        part("a", {"prompt": "p", "answer": "b"}, check="contains")
    with pytest.raises(DataError, match="list of strings"):
        part("a", {"facts": "Anna"}, check="contains")
    with pytest.raises(DataError, match="text or a list of messages"):
        part("a", {"prompt": 3}, check="no_new_numbers")


@given(st.text(max_size=80), st.lists(st.text(max_size=10), max_size=4), st.text(max_size=40))
def test_every_part_stays_within_bounds(candidate: str, facts: list[str], prompt: str) -> None:
    rubric = Rubric.model_validate(
        {
            "checks": [
                {"check": "regex", "pattern": "^[A-Z]"},
                {"check": "max_words", "words": 3},
                {"check": "min_words", "words": 3, "weight": 0.3},
                {"check": "contains", "weight": 7},
                {"check": "no_new_numbers"},
                {"check": "rouge_l", "column": "prompt"},
                {"check": "no_repetition"},
            ]
        }
    )
    scored = rubric.score(candidate, {"facts": facts, "prompt": prompt})
    assert all(0 <= value <= 1 + 1e-12 for value in (scored.score, *scored.parts.values()))
