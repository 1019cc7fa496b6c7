"""Copies found exactly where brute force finds them."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.ledger import Ledger
from data.overlap import count_overlap, find_overlap, grams, normalise, prompt_of, similarity
from data.records import placed


def test_grams_and_similarity():
    assert grams("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert grams("abc") == {"abc"}
    # abcde bcdef cdefg against bcdef cdefg defgh: 2 of 4
    assert similarity("abcdefg", "bcdefgh") == 0.5
    assert normalise("  The\tSKY\n is ") == "the sky is"


def test_exact_and_near():
    training = [
        "Nothing alike at all here.",
        "WHAT color  is\nthe sky today?",
        "Name three rivers in northern Spain.",
    ]
    evaluation = [
        "what color is the sky today?",
        "Name three rivers in northern Spain!",
        "How tall is a giraffe?",
    ]
    found = find_overlap(training, evaluation)
    assert [(m.evaluation, m.training, m.exact) for m in found] == [(0, 1, True), (1, 2, False)]
    # 36 letters make 32 grams; the last letter stands in one of them: 31 of 33
    assert found[1].similarity == 31 / 33
    assert [m.evaluation for m in find_overlap(training, evaluation, threshold=0.95)] == [0]


def test_an_exact_copy_wins_over_an_earlier_near_one_and_doubles_all_count():
    training = ["Name three rivers in Spain!", "Name three rivers in Spain."]
    found = find_overlap(training, ["name three rivers in spain.", "Name three rivers in Spain."])
    assert [(m.evaluation, m.training, m.exact) for m in found] == [(0, 1, True), (1, 1, True)]


@pytest.mark.parametrize(
    ("training", "evaluation"), [([], ["a"]), (["a"], []), ([""], ["a"]), (["ab"], ["abc"])]
)
def test_empty_and_short(training, evaluation):
    assert find_overlap(training, evaluation) == []
    assert [m.exact for m in find_overlap(["Hi"], ["hi "])] == [True]


@pytest.mark.parametrize("threshold", [0, 1.1])
def test_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match="not in"):
        find_overlap(["a"], ["a"], threshold)


texts = st.lists(st.text(alphabet="ab c", min_size=0, max_size=24), max_size=12)


@settings(max_examples=300)
@given(texts, texts, st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]))
def test_the_same_as_brute_force(training, evaluation, threshold):
    found = {m.evaluation: m for m in find_overlap(training, evaluation, threshold)}
    clean = [normalise(text) for text in training]
    for number, raw in enumerate(evaluation):
        text = normalise(raw)
        near = [i for i, other in enumerate(clean) if len(other) > 5 and similarity(text, other) >= threshold]
        if text in clean:
            assert found[number].exact
            assert found[number].training == clean.index(text)
        elif near:
            assert not found[number].exact
            assert found[number].training == near[0]
            assert found[number].similarity == similarity(text, clean[near[0]])
        else:
            assert number not in found


def test_templated_prompts_in_number_stay_in_seconds():
    dice = random.Random(0)
    words = ["river", "train", "letter", "bridge", "winter", "garden", "doctor", "signal", "market", "island"]

    def prompt():
        chosen = " ".join(dice.choice(words) + str(dice.randrange(1000)) for _ in range(8))
        return f"Rewrite the following message as a short telegram in capitals: {chosen}"

    training = [prompt() for _ in range(5000)]
    evaluation = [prompt() for _ in range(290)] + [text.upper() for text in training[:5]]
    evaluation += [text + " now" for text in training[100:105]]
    start = time.process_time()
    found = find_overlap(training, evaluation)
    assert time.process_time() - start < 10
    assert [m.training for m in found] == [*range(5), *range(100, 105)]
    assert [m.exact for m in found] == [True] * 5 + [False] * 5


def test_prompt_of():
    system, ask, answer = ({"role": role, "content": role} for role in ("system", "user", "assistant"))
    assert prompt_of({"prompt": "p", "chosen": "c"}, "preference") == "p"
    assert prompt_of({"prompt": [system, ask]}, "prompt") == "user"
    assert prompt_of({"messages": [system, ask, answer, ask, answer]}, "messages") == "user\nassistant\nuser"
    assert prompt_of({"messages": [ask]}, "messages") == "user"
    assert prompt_of({"text": "t"}, "text") == "t"
    blocks = [{"type": "image"}, {"type": "text", "text": "what is this?"}]
    assert prompt_of({"prompt": [{"role": "user", "content": blocks}]}, "prompt") == "\nwhat is this?"


def test_the_ledger_is_told():
    ledger = Ledger(name="train")
    training = placed([{"text": "Name three rivers in Spain."}, {"text": "What is it?"}], "train.jsonl")
    evaluation = placed(
        [{"prompt": "what is it?"}, {"prompt": "Name three rivers in Spain!"}, {"prompt": "x"}], "e"
    )
    matches = count_overlap(ledger, "held-out", training, "text", evaluation, "prompt")
    assert len(matches) == 2
    shared = ledger.overlap["held-out"]
    assert (shared.prompts, shared.exact, shared.near) == (3, 1, 1)
    assert shared.examples == ["e:row 1 = train.jsonl:row 2", "e:row 2 ≈ train.jsonl:row 1 (0.92)"]
