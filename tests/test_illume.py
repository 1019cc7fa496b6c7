"""ILLUME's algorithms: what is kept, what is mixed in, what the placebo draws, when it ends, who accepts."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data.critics import Contains
from data.errors import DataError
from data.illume.critic import ModelCritic, PeopleCritic, RougeCritic, RubricCritic, VotesCritic
from data.illume.items import Item, answer_is_right, read_items
from data.illume.loop import (
    Judged,
    Kept,
    Round,
    accumulate,
    derived_seed,
    draw_placebo,
    mix,
    shuffled,
    why_stop,
)
from data.illume.model_judge import by_model, ring
from data.illume.rows import negatives, pairs, sft_rows, unpaired_rows
from data.illume.verdicts import Sheet, Verdict, by_file, by_rule
from data.illume.world import SLOTS, World, build
from data.ledger import Ledger
from data.sources import Mixture
from data.votes import VotesMissing


def judged(
    key: str,
    text: str,
    accepted: bool | None,
    score: float | None = None,
    iteration: int = 0,
    prompt: Any = None,
) -> Judged:
    return Judged(key, iteration, prompt or f"{key}?", None, text, 0.3, accepted, score, "rouge_l", "then")


def kept(key: str, text: str) -> Kept:
    return Kept(key, text, f"{key}?", 0, 0.3, 1.0, "rouge_l")


def texts(accepted: Any) -> dict[str, list[str]]:
    return {key: [one.text for one in found] for key, found in accepted.items()}


# ---- The critic


def test_rouge_l_by_hand_leans_to_recall():
    # Candidate of 4 tokens, reference of 3, all 3 in order: P = 3/4, R = 1.
    expected = (1 + 1.44) * 0.75 * 1 / (1 + 1.44 * 0.75)
    accepted, score = RougeCritic(kind="rouge_l").judge("a red big ball", {"reference": "red big ball"})
    assert score == pytest.approx(expected, abs=1e-12)
    assert accepted
    assert RougeCritic(kind="rouge_l").judge("red ball here", {"reference": "red ball here"}) == (True, 1.0)
    assert RougeCritic(kind="rouge_l").judge("blue sky there", {"reference": "red ball here"}) == (False, 0.0)


def test_the_threshold_itself_is_accepted():
    # P = R = 1/2 gives exactly 1/2.
    row = {"reference": "one two"}
    assert RougeCritic(kind="rouge_l", threshold=0.5).judge("one six", row) == (True, 0.5)
    assert RougeCritic(kind="rouge_l", threshold=0.5000001).judge("one six", row) == (False, 0.5)


def test_short_texts_score_nothing_and_case_does_not_count_unless_asked():
    assert RougeCritic(kind="rouge_l").judge("it", {"reference": "it"}) == (False, 0.0)
    assert RougeCritic(kind="rouge_l", min_chars=2).judge("it", {"reference": "it"}) == (True, 1.0)
    assert RougeCritic(kind="rouge_l").judge("Red Ball", {"reference": "red ball"})[1] == 1.0
    assert RougeCritic(kind="rouge_l", lowercase=False).judge("Red ball", {"reference": "red ball"})[1] == 0.5


def test_the_best_of_several_references_counts():
    row = {"reference": ["nothing alike at all", "a red ball"]}
    assert RougeCritic(kind="rouge_l").judge("a red ball", row) == (True, 1.0)


def test_a_row_without_reference_is_named():
    with pytest.raises(DataError, match=r"rows.jsonl:3: the column `reference` holds no reference"):
        by_rule(RougeCritic(kind="rouge_l"))("a text", Item("x", "rows.jsonl:3", {"prompt": "x"}))


def test_a_rubric_accepts_from_its_threshold():
    rubric = RubricCritic(checks=(Contains(check="contains", column="facts"),), threshold=1.0)
    row = {"facts": ["red", "ball"]}
    assert rubric.judge("a ball that is red", row) == (True, 1.0)
    assert rubric.judge("a ball that is blue", row) == (False, 0.5)


def votes_file(folder: Path, lines: Iterable[dict[str, Any]], iteration: int = 0) -> VotesCritic:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"votes-{iteration}.jsonl").write_text(text)
    return VotesCritic(kind="file", path="votes-{iteration}.jsonl")


def sheet(sizes: dict[str, int], folder: Path = Path(), budget: int | None = None) -> Sheet:
    """Prompts with so many candidates: a0, a1, …"""
    rows = [
        {
            "id": key,
            "prompt": f"{key}? yes because",
            "image": None,
            "candidates": [
                {"text": f"{key}{i} it is", "temperature": 0.3, "prompt": f"{key}? yes because"}
                for i in range(size)
            ],
        }
        for key, size in sizes.items()
    ]
    items = {key: Item(key, f"rows:{key}", {"prompt": f"{key}?", "answer": "yes"}) for key in sizes}
    return Sheet(0, rows, items, folder / "candidates.jsonl", budget)


def test_peoples_file_is_independent_of_order_and_keeps_unjudged_apart(tmp_path: Path):
    lines = [
        {"id": "a", "scores": [1, 0, None]},
        {"id": "b", "scores": [None, None]},
        {"id": "a", "scores": [0, 0, None]},
        {"id": "a", "scores": [1, 1, None]},
    ]
    sizes, found = {"a": 3, "b": 2}, []
    for _ in range(4):
        critic = votes_file(tmp_path, lines)
        found.append(by_file(critic, tmp_path, sheet(sizes, tmp_path)))
        random.Random(1).shuffle(lines)
    assert all(one == found[0] for one in found)
    assert [one[:2] for one in found[0]["a"]] == [
        (True, pytest.approx(2 / 3)),
        (False, pytest.approx(1 / 3)),
        (None, None),
    ]
    assert [one.n_votes for one in found[0]["a"]] == [3, 3, 0]
    assert [one[:2] for one in found[0]["b"]] == [(None, None), (None, None)]


def test_a_partly_judged_file_waits_and_goes_on_until_the_budget_is_spent(tmp_path: Path):
    sizes = {"a": 2, "b": 2, "c": 2}
    critic = VotesCritic(kind="file", path="votes-{iteration}.jsonl")
    with pytest.raises(VotesMissing, match="3 prompts wait"):
        by_file(critic, tmp_path, sheet(sizes, tmp_path))
    votes_file(tmp_path, [{"id": "a", "scores": [1, 0]}])
    with pytest.raises(VotesMissing, match="2 of 3 prompts have no votes"):
        by_file(critic, tmp_path, sheet(sizes, tmp_path))
    spent = by_file(critic, tmp_path, sheet(sizes, tmp_path, budget=2))
    assert [one[:2] for one in spent["c"]] == [(None, None)] * 2
    with pytest.raises(VotesMissing):
        by_file(critic, tmp_path, sheet(sizes, tmp_path, budget=3))


def test_votes_on_pairs_do_not_say_what_fits(tmp_path: Path):
    critic = votes_file(tmp_path, [{"id": "a", "chosen": 0, "rejected": 1}])
    with pytest.raises(DataError, match="does not say whether either text fits"):
        by_file(critic, tmp_path, sheet({"a": 2}, tmp_path))


def test_every_iteration_has_a_file_of_its_own():
    with pytest.raises(ValidationError, match="iteration"):
        VotesCritic(kind="file", path="votes.jsonl")


# ---- A model that judges


def replies(says: Any) -> Any:
    """A judge that answers each chat by the text of its last turn."""
    return lambda chats: [says(chat[-1]["content"]) for chat in chats]


def test_a_judge_that_says_yes_to_whatever_comes_first_has_said_nothing():
    critic = ModelCritic(kind="model")
    found = by_model(critic, sheet({"a": 2}), replies(lambda text: text.rsplit("word: ")[1].split()[0]))
    assert [one.accepted for one in found.verdicts["a"]] == [None, None]
    assert found.figures == {"asked": 4, "unreadable": 0, "contradicted": 2, "decided": 0}


def test_a_judge_is_asked_both_ways_and_the_words_of_its_reply_are_read():
    def says(text: str) -> str:
        if "a2" in text:
            return "perhaps"
        return "Yes, it does." if "a0" in text else "NO"

    seen: list[str] = []

    def noted(chats: Any) -> list[str]:
        seen.extend(chat[-1]["content"] for chat in chats)
        return [says(text) for text in seen]

    found = by_model(ModelCritic(kind="model", criterion="It is short."), sheet({"a": 3}), noted)
    assert [one[:2] for one in found.verdicts["a"]] == [(True, 1.0), (False, 0.0), (None, None)]
    assert found.verdicts["a"][0] == Verdict(True, 1.0, "model", 2, 1.0)
    assert found.figures == {"asked": 6, "unreadable": 2, "contradicted": 0, "decided": 2}
    assert seen[0].endswith("yes or no.")
    assert seen[1].endswith("no or yes.")
    assert all(part in seen[0] for part in ("Question: a?", "Answer: yes", "Explanation: a0", "It is short."))


def test_two_at_a_time_a_judge_that_prefers_a_place_decides_nothing():
    critic = ModelCritic(kind="model", how="pairwise")
    found = by_model(critic, sheet({"a": 3}), replies(lambda _: "the first one"))
    assert [one.accepted for one in found.verdicts["a"]] == [None] * 3
    assert found.figures["contradicted"] == 3


def test_two_at_a_time_the_share_of_won_comparisons_is_the_score():
    # a0 beats a1 and a2; between a1 and a2 the judge takes whichever comes first.
    def says(text: str) -> str:
        first, second = (line.split(": ")[1][:2] for line in text.splitlines()[2:4])
        if "a0" in (first, second):
            return "first" if first == "a0" else "second"
        return "first"

    critic = ModelCritic(kind="model", how="pairwise", threshold=0.5)
    found = by_model(critic, sheet({"a": 3, "b": 1}), replies(says))
    assert [one[:2] for one in found.verdicts["a"]] == [(True, 1.0), (False, 0.0), (False, 0.0)]
    assert [one.n_votes for one in found.verdicts["a"]] == [4, 2, 2]
    assert found.verdicts["b"] == [Verdict(None, None, "model")]
    assert found.figures == {"asked": 6, "unreadable": 0, "contradicted": 1, "decided": 2}


def test_what_is_too_short_is_rejected_unasked():
    one = sheet({"a": 2})
    one.rows[0]["candidates"][1]["text"] = "x"
    found = by_model(ModelCritic(kind="model"), one, replies(lambda _: "yes"))
    assert [verdict.accepted for verdict in found.verdicts["a"]] == [True, False]
    assert found.figures["asked"] == 2


def test_a_ring_has_every_two_at_most_once():
    assert ring([4], 3) == []
    assert ring([4, 5], 3) == [(4, 5)]
    assert sorted(map(sorted, ring([0, 1, 2, 3], 1))) == [[0, 1], [0, 3], [1, 2], [2, 3]]
    for size in range(2, 8):
        for opponents in range(1, 8):
            met = [tuple(sorted(two)) for two in ring(list(range(size)), opponents)]
            assert len(set(met)) == len(met) == min(size * opponents, size * (size - 1) // 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"votes": ["best", "choose"]}, "do not say whether any fits"),
        ({"votes": ["edit", "flag"]}, "at least one of|needs `choose`"),
        ({"quota": 3}, "Extra inputs"),
    ],
)
def test_people_are_asked_what_fits_and_nothing_else(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        PeopleCritic.model_validate({"kind": "people", **settings})


# ---- The accepted set


def test_what_was_accepted_stays_and_duplicates_collapse():
    first = accumulate({}, [judged("a", "x", True), judged("a", "x", True), judged("a", "y", False)])
    assert texts(first.accepted) == {"a": ["x"]}
    assert (first.new, first.duplicates) == (1, 1)
    second = accumulate(
        first.accepted,
        [judged("a", "x", False, iteration=1), judged("b", "z", True, iteration=1), judged("c", "u", None)],
    )
    assert texts(second.accepted) == {"a": ["x"], "b": ["z"]}
    assert second.accepted["a"][0].iteration == 0
    assert second.accepted["b"][0].iteration == 1
    assert texts(first.accepted) == {"a": ["x"]}


def test_latest_starts_anew():
    grown = accumulate({"a": [kept("a", "x")]}, [judged("b", "z", True)], how="latest")
    assert texts(grown.accepted) == {"b": ["z"]}


def test_the_cap_takes_the_best_of_the_new_and_never_drops_the_old():
    before = {"a": [kept("a", "old")]}
    new = [judged("a", text, True, score) for text, score in (("low", 0.7), ("high", 0.9), ("mid", 0.8))]
    grown = accumulate(before, new, max_per_prompt=3)
    assert texts(grown.accepted) == {"a": ["old", "high", "mid"]}
    assert (grown.new, grown.over_cap) == (2, 1)


def test_the_set_only_grows_whatever_comes():
    dice = random.Random(3)
    accepted: dict[str, list[Kept]] = {}
    for k in range(30):
        found = [
            judged(
                dice.choice("abcdef"),
                str(dice.randrange(40)),
                dice.choice([True, False, None]),
                dice.random(),
                k,
            )
            for _ in range(8)
        ]
        grown = accumulate(accepted, found, max_per_prompt=dice.choice([None, 2, 5]))
        for key, earlier in accepted.items():
            assert grown.accepted[key][: len(earlier)] == earlier
        assert all(len({o.text for o in g}) == len(g) for g in grown.accepted.values())
        accepted = grown.accepted


# ---- The mixture


IDS = [f"q{i}" for i in range(50)]


def test_answers_alone_come_from_uncovered_prompts_and_follow_the_seed():
    accepted = {"q3": [kept("q3", "x"), kept("q3", "y")], "q7": [kept("q7", "z")], "q9": []}
    mixed = mix(IDS, accepted, ratio=4, seed=1)
    assert [one.text for one in mixed.explained] == ["x", "y", "z"]
    assert len(mixed.answered) == 12
    assert not {"q3", "q7"} & set(mixed.answered)
    assert mixed == mix(IDS, accepted, ratio=4, seed=1)
    assert set(mixed.answered) != set(mix(IDS, accepted, ratio=4, seed=2).answered)
    shuffled_ids = sorted(IDS, key=lambda one: one[::-1])
    assert set(mix(shuffled_ids, accepted, ratio=4, seed=1).answered) == set(mixed.answered)


def test_the_weight_is_v_over_s_and_no_less_than_one():
    accepted = {key: [kept(key, "x")] for key in IDS[:5]}
    assert mix(IDS, accepted, ratio=4).weight == 20 / 5
    assert mix(IDS, accepted, ratio=100).weight == 45 / 5
    assert len(mix(IDS, accepted, ratio=100).answered) == 45
    assert mix(IDS, accepted, ratio=0, rows=15).weight == 3.0
    covered = {key: [kept(key, "x")] for key in IDS}
    assert mix(IDS, covered, ratio=10).weight == 1.0
    assert mix(IDS, covered, ratio=10, min_weight=0.0).weight == 0.0
    assert mix(IDS, covered, ratio=10, weight=0.25).weight == 0.25


# ---- The placebo


def test_the_placebo_is_uniform_over_candidates_and_not_per_prompt():
    # All that the critic accepts belongs to `good`; nine in ten candidates do not.
    found = [judged("good", f"g{i}", True, 0.9) for i in range(10)]
    found += [judged(f"bad{i}", f"b{i}", False, 0.1) for i in range(90)]
    drawn = Counter[str]()
    for seed in range(400):
        one = draw_placebo(found, None, seed)
        assert len(one) == 10
        assert all(d.accepted and d.judge == "placebo" and d.score is None for d in one)
        drawn.update("good" if d.id == "good" else "bad" for d in one)
    # Per prompt it would be 1.0. Expected 0.1, standard error 0.0045.
    assert abs(drawn["good"] / 4000 - 0.1) < 0.02


def test_the_placebo_draws_different_texts_and_as_many_as_it_is_told():
    found = [
        judged("a", "same", True),
        judged("a", "same", True),
        judged("a", "other", False),
        judged("b", "", None),
    ]
    assert len(draw_placebo(found, None, 0)) == 1
    assert sorted(one.candidate for one in draw_placebo(found, 9, 0)) == ["other", "same"]
    assert draw_placebo(found, 1, 5) == draw_placebo(list(found), 1, 5)


# ---- When it ends


def rounds(*scores: float | None, judged: int = 10) -> list[Round]:
    return [Round(score, score, judged) for score in scores]


def test_the_stop_rules():
    def why(found: list[Round], **other: Any) -> str | None:
        return why_stop(found, **{"base_score": 0.1, "max_iterations": 9, **other})

    assert why([]) is None
    assert why(rounds(0.2, 0.3)) is None
    assert why(rounds(0.2, 0.3), max_iterations=2) == "all 2 iterations are done"
    assert why(rounds(0.2, 0.2), patience=2) is None
    assert "patience 2" in str(why(rounds(0.2, 0.2, 0.1), patience=2))
    assert "patience 2" in str(why(rounds(0.05, 0.1), patience=2)), "the start counts as the best so far"
    assert why(rounds(0.2, 0.1, 0.3), patience=2) is None
    assert "target_acceptance 0.5" in str(why(rounds(0.2, 0.5), target_acceptance=0.5))
    assert why(rounds(0.5, 0.4), target_acceptance=0.5) is None
    assert "20 candidates are judged" in str(why(rounds(0.2, 0.3), max_judgements=20))
    assert why(rounds(0.2, 0.3), max_judgements=21) is None
    assert why(rounds(None, None), base_score=None, patience=1) is None


def test_seeds_and_orders_depend_on_names_alone():
    assert derived_seed(1, "draw", 0) == derived_seed(1, "draw", 0) < 2**32
    assert len({derived_seed(s, "draw", k) for s in range(5) for k in range(5)}) == 25
    words = [str(i) for i in range(20)]
    assert shuffled(words, 1, "a") == shuffled(words[::-1], 1, "a") != shuffled(words, 1, "b")


# ---- Rows


def test_unjudged_is_in_no_row_and_a_text_once_accepted_is_no_negative():
    found = [
        judged("a", "good", True, 0.9),
        judged("a", "bad", False, 0.2, 1),
        judged("a", "worse", False, 0.1),
        judged("a", "silent", None),
        judged("a", "good", False, 0.3, 2),
        judged("b", "alone", False, 0.4),
    ]
    assert [row["completion"] for row in negatives(found)] == [" bad", " worse", " alone"]
    assert [(row["completion"], row["label"]) for row in unpaired_rows(found)] == [
        (" good", True),
        (" bad", False),
        (" worse", False),
        (" alone", False),
    ]
    made = list(pairs(found, max_per_prompt=9))
    assert [(row["chosen"], row["rejected"]) for row in made] == [(" good", " worse"), (" good", " bad")]
    assert made[0]["id"] == "a"
    assert made[1]["rejected_iteration"] == 1
    assert [row["rejected"] for row in pairs(found, max_per_prompt=1)] == [" worse"]


def test_pairs_of_votes_say_how_many_and_which():
    def voted(text: str, accepted: bool, score: float, *ids: int, agreement: float = 1.0) -> Judged:
        return replace(
            judged("a", text, accepted, score), n_votes=len(ids), agreement=agreement, vote_ids=list(ids)
        )

    found = [voted("good", True, 1.0, 3, 4), voted("bad", False, 0.25, 5, 4, 9, 2, agreement=0.75)]
    (row,) = pairs(found, max_per_prompt=5)
    # Of those who chose, three in four more chose the one.
    assert (row["weight"], row["margin"]) == (0.75, 0.75)
    assert (row["n_votes"], row["agreement"], row["vote_ids"]) == (2, 0.75, [2, 3, 4, 5, 9])
    assert [one["vote_ids"] for one in unpaired_rows(found)] == [[3, 4], [5, 4, 9, 2]]
    kept_rows = list(sft_rows(accumulate({}, found).accepted))
    assert [(one["n_votes"], one["vote_ids"]) for one in kept_rows] == [(2, [3, 4])]
    (plain,) = pairs([judged("a", "g", True, 0.9), judged("a", "b", False, 0.2)], max_per_prompt=5)
    assert not {"weight", "n_votes", "vote_ids", "image"} & set(plain)
    assert plain["margin"] == pytest.approx(0.7)


def test_pairs_never_cross_prompts():
    found = [judged("a", "good", True, prompt="a? one"), judged("a", "bad", False, prompt="a? two")]
    assert list(pairs(found, max_per_prompt=5)) == []


def test_conversations_get_messages():
    asked = [{"role": "user", "content": "Why?"}]
    rows = list(sft_rows({"a": [Kept("a", "so", asked, 2, 0.8, 0.7, "file")]}))
    assert rows[0]["completion"] == [{"role": "assistant", "content": "so"}]
    assert (rows[0]["iteration"], rows[0]["temperature"], rows[0]["judge"]) == (2, 0.8, "file")


# ---- Items


def items_of(folder: Path, rows: list[dict[str, Any]]) -> Any:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_items(Mixture.model_validate(str(folder / "rows.jsonl")), folder, Ledger(name="data"))


def test_the_prompt_for_an_explanation_holds_the_answer_it_is_given(tmp_path: Path):
    chat = [{"role": "user", "content": "Colour?"}]
    text, talk = items_of(
        tmp_path, [{"prompt": "Q: colour? A:", "answer": "red"}, {"prompt": chat, "answer": "red"}]
    )
    assert text.explain(text.answer, None) == "Q: colour? A: red because"
    assert text.explain("blue", "since") == "Q: colour? A: blue since"
    assert [m["content"] for m in talk.explain("blue", None)] == ["Colour?", "blue", "Why?"]
    assert text.answered() == {"prompt": "Q: colour? A:", "completion": " red"}


def test_rows_that_cannot_be_explained_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"rows.jsonl:1: `answer` is None"):
        items_of(tmp_path, [{"prompt": "Q"}])
    with pytest.raises(DataError, match="stands twice"):
        items_of(tmp_path, [{"prompt": "Q", "answer": "a"}, {"prompt": "Q", "answer": "b"}])


def test_answers_are_right_when_one_contains_the_other():
    assert answer_is_right("A red ball", "red")
    assert answer_is_right("red", "red ball")
    assert not answer_is_right("", "red")
    assert not answer_is_right("blue", "red")


# ---- The invented world


def test_the_world_is_the_same_twice_and_no_question_stands_in_two_parts():
    small = World(seed=3, start=200, train=60, held_out=30)
    one, two = build(small), build(small)
    assert one == two
    assert build(World(seed=4, start=200, train=60, held_out=30)) != one
    asked = [row["prompt"] for row in (*one.train, *one.held_out)]
    start = {row["prompt"] for row in one.start[::2]}
    assert len(set(asked)) == 90
    assert not start & set(asked)
    for row in one.train:
        assert row["answer"] in row["prompt"].split("What")[0]
        assert row["answer"] not in row["facts"]
        assert all(fact in row["reference"].split() for fact in row["facts"])
        assert len(row["reference"].split()) == 6


def test_the_start_explains_mostly_by_chatter():
    made = build(World(seed=0, start=3000, train=1, held_out=1))
    critic = RougeCritic(kind="rouge_l")
    named = {word for words in SLOTS.values() for word in words}
    said = [row["completion"] for row in made.start[1::2]]
    chatter = sum(not named & set(one.split()) for one in said) / len(said)
    assert abs(chatter - World().chatter) < 0.03
    assert all(
        not critic.judge(one, row)[0]
        for row in made.train
        for one in said[:50]
        if not named & set(one.split())
    )
