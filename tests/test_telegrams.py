from __future__ import annotations

import json
import random
from itertools import chain
from pathlib import Path

import pytest

from data.critics import Rubric
from data.telegrams import DAYS, HELD_OUT, TRAIN, Words, demonstrations, files, telegram

FOLDER = Path(__file__).parent.parent / "recipes" / "data"
WORD_LISTS = ("names", "places", "things", "openings", "events", "requests")


def test_the_files_are_what_the_generator_writes() -> None:
    for name, text in files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, (
            "run: python -m data.telegrams recipes/data"
        )


def test_nothing_held_out_was_trained_on() -> None:
    for part in WORD_LISTS:
        train, held_out = getattr(TRAIN, part), getattr(HELD_OUT, part)
        assert len(set(train)) == len(train)
        assert not set(train) & set(held_out)
    rows = [json.loads(line) for line in chain.from_iterable(text.splitlines() for text in files().values())]
    seen = "\n".join(row["prompt"][1]["content"] for row in rows if "reference" not in row)
    held_out = [row for row in rows if "reference" in row]
    assert len(held_out) == len({row["prompt"][1]["content"] for row in held_out}) >= 48
    for row in held_out:
        name, place, _, _, _, thing = row["facts"]
        assert not any(word in seen for word in (name, place, thing))


@pytest.mark.parametrize("words", [TRAIN, HELD_OUT], ids=["train", "held out"])
def test_the_careful_telegram_is_perfect_and_the_others_are_not(words: Words) -> None:
    rubric = Rubric.model_validate(
        {
            "checks": [
                {"check": "contains", "column": "facts"},
                {"check": "max_words", "words": 12},
                {"check": "regex", "pattern": " STOP$"},
                {"check": "no_new_numbers"},
                {"check": "no_repetition", "n": 1},
            ]
        }
    )
    for seed in range(400):
        one = telegram(words, random.Random(seed))
        row = {"prompt": one.message, "facts": list(one.facts)}
        assert all(fact in one.message for fact in one.facts)
        assert rubric.score(one.careful, row).score == 1
        chatty, hasty = rubric.score(one.chatty, row).parts, rubric.score(one.hasty, row).parts
        assert (chatty["contains"], chatty["regex"], hasty["max_words"]) == (1, 1, 1)
        assert chatty["max_words"] < 1
        # The hasty one leaves out two facts, or four where the request goes too.
        assert hasty["contains"] in (pytest.approx(4 / 6), pytest.approx(2 / 6))


def test_a_seed_gives_the_same_rows_and_the_mixture_is_kept() -> None:
    assert demonstrations(5, seed=3) == demonstrations(5, seed=3) != demonstrations(5, seed=4)
    only = demonstrations(50, seed=1, mixture={"careful": 1.0})
    assert all(len(row["completion"][0]["content"].split()) <= 12 for row in only)
    assert len(DAYS) == 7
