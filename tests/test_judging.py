"""Candidates to pairs: every score and margin below is small enough to be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.critics import Rubric
from data.errors import DataError
from data.jsonl import read_jsonl
from data.judging import VotesFile, VotesMissing, make_pairs

# Two checks of equal weight: the share of facts that are named, and at most two words (0 from four words on).
RUBRIC = Rubric.model_validate(
    {"checks": [{"check": "contains", "column": "facts"}, {"check": "max_words", "words": 2}]}
)


def candidates(folder: Path, *prompts: tuple[Any, ...], prompt: Any = "Say it.") -> Path:
    """Each prompt is its candidates' texts."""
    rows = [
        {
            "id": f"p{i}",
            "prompt": prompt,
            "facts": ["Rome", "noon"],
            "candidates": [
                {"text": text, "index": j, "finished": True, "logprob": -1.0} for j, text in enumerate(texts)
            ],
        }
        for i, texts in enumerate(prompts)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def judge(folder: Path, file: Path, critic: Any = RUBRIC, **settings: Any) -> Any:
    settings = {"pairing": "best_worst", "min_margin": 0.1, "max_pairs_per_prompt": 6, **settings}
    (folder / "judged").mkdir(exist_ok=True)
    out = folder / "judged" / "rows.jsonl"
    figures = make_pairs(file, critic, out, base=folder, **settings)
    return figures, read_jsonl(out), read_jsonl(out.with_name("judged.jsonl"))


def votes(folder: Path, *lines: Any) -> VotesFile:
    (folder / "votes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return VotesFile(path="votes.jsonl")


# Rome noon: facts 2/2 and two words -> (1 + 1) / 2 = 1. Rome: (1/2 + 1) / 2 = 0.75. Three words with one fact:
# (1/2 + (2 - 3/2)) / 2 = 0.5. Nothing right in two words: (0 + 1) / 2 = 0.5.
TEXTS = ("Rome", "Rome noon", "Rome or not", "who knows")


def test_the_best_is_paired_with_the_worst(tmp_path: Path) -> None:
    figures, pairs, judged = judge(tmp_path, candidates(tmp_path, TEXTS))
    assert [line["score"] for line in judged] == [0.75, 1.0, 0.5, 0.5]
    assert judged[2]["parts"] == {"contains": 0.5, "max_words": 0.5}
    assert pairs == [
        {
            "prompt": "Say it.",
            "chosen": "Rome noon",
            "rejected": "Rome or not",  # as low as the fourth, and before it
            "score_chosen": 1.0,
            "score_rejected": 0.5,
            "margin": 0.5,
            "id": "p0",
            "chosen_index": 1,
            "rejected_index": 2,
        }
    ]
    assert figures == {
        "prompts": 1,
        "pairs": 1,
        "no_margin": 0,
        "identical": 0,
        "empty": 0,
        "duplicates": 0,
        "unjudged": 0,
        "mean_score": 0.6875,  # (0.75 + 1 + 0.5 + 0.5) / 4
        "mean_score_chosen": 1.0,
        "mean_score_rejected": 0.5,
        "mean_margin": 0.5,
    }


def test_all_pairs_come_widest_first_up_to_the_limit(tmp_path: Path) -> None:
    file = candidates(tmp_path, TEXTS)
    figures, pairs, _ = judge(tmp_path, file, pairing="all")
    found = [(p["chosen_index"], p["rejected_index"], p["margin"]) for p in pairs]
    # 2 and 3 score alike and make no pair.
    assert found == [(1, 2, 0.5), (1, 3, 0.5), (0, 2, 0.25), (0, 3, 0.25), (1, 0, 0.25)]
    assert figures["mean_margin"] == 0.35  # (0.5 + 0.5 + 3 * 0.25) / 5
    _, pairs, _ = judge(tmp_path, file, pairing="all", max_pairs_per_prompt=3)
    assert [(p["chosen_index"], p["rejected_index"]) for p in pairs] == [(1, 2), (1, 3), (0, 2)]
    _, pairs, _ = judge(tmp_path, file, pairing="all", min_margin=0.3)
    assert len(pairs) == 2


def test_a_margin_that_is_met_but_for_rounding_counts(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b"))
    _, pairs, _ = judge(tmp_path, file, votes(tmp_path, {"id": "p0", "scores": [0.2, 0.3]}))
    assert 0.3 - 0.2 < 0.1
    assert (pairs[0]["chosen"], pairs[0]["margin"]) == ("b", 0.1)


def test_conversations_are_answered_by_conversations(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "Say it."}]
    _, pairs, _ = judge(tmp_path, candidates(tmp_path, TEXTS, prompt=prompt))
    assert pairs[0]["prompt"] == prompt
    assert pairs[0]["chosen"] == [{"role": "assistant", "content": "Rome noon"}]
    assert pairs[0]["rejected"] == [{"role": "assistant", "content": "Rome or not"}]


def test_equal_texts_are_judged_once_and_never_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    score = Rubric.score
    monkeypatch.setattr(Rubric, "score", lambda self, text, row: asked.append(text) or score(self, text, row))
    file = candidates(tmp_path, ("Rome", "noon", "Rome ", "Rome"), ("x", "x"), ("Rome", ""), ("a b", "c d"))
    with pytest.raises(
        DataError, match=r"no pairs: of 4 prompts, 2 have no two .* 2 have fewer than two different"
    ):
        judge(tmp_path, file, min_margin=0)
    assert asked == ["Rome", "noon", "x", "Rome", "", "a b", "c d"]
    judged = read_jsonl(tmp_path / "judged" / "judged.jsonl")
    assert [line["duplicate_of"] for line in judged[:4]] == [None, None, 0, 0]
    assert [line["score"] for line in judged[:4]] == [0.75, 0.75, 0.75, 0.75]
    assert not (tmp_path / "judged" / "rows.jsonl").exists()


def test_an_empty_candidate_scores_0_and_makes_no_pair(tmp_path: Path) -> None:
    figures, pairs, judged = judge(tmp_path, candidates(tmp_path, ("Rome noon", "", "Rome")))
    assert [line["score"] for line in judged] == [1.0, 0.0, 0.75]
    assert pairs[0]["rejected"] == "Rome"
    assert figures["empty"] == 1


def test_votes_on_pairs_count_as_shares(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b", "c"), ("a", "b"), ("a", "b", "a"))
    critic = votes(
        tmp_path,
        *[{"id": "p0", "chosen": 1, "rejected": 0}] * 3,
        {"id": "p0", "chosen": 0, "rejected": 1},
        {"id": "p1", "chosen": 0, "rejected": 1},
        {"id": "p1", "chosen": 1, "rejected": 0},
        {"id": "p2", "chosen": 2, "rejected": 1},
    )
    figures, pairs, judged = judge(tmp_path, file, critic)
    first, second = pairs
    # Three of four prefer b to a: 3/4 - 1/4. c is unjudged, and so neither chosen nor rejected.
    assert (first["chosen"], first["rejected"], first["score_chosen"], first["margin"]) == (
        "b",
        "a",
        0.75,
        0.5,
    )
    assert [line["score"] for line in judged[:3]] == [0.25, 0.75, None]
    # One vote each way is no preference. A vote for the second a is one for the first.
    assert (second["id"], second["chosen_index"], second["margin"]) == ("p2", 0, 1.0)
    assert (figures["pairs"], figures["no_margin"], figures["unjudged"]) == (2, 1, 1)
    # p0 0.25 0.75, p1 0.5 0.5, p2 1 0 1: 4 / 7
    assert figures["mean_score"] == round(4 / 7, 6)


def test_scores_of_several_people_are_averaged_and_null_is_not_judged(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b", "c"), ("d", "e"))
    critic = votes(
        tmp_path,
        {"id": "p0", "scores": [1.0, 0.5, None]},
        {"id": "p0", "scores": [0.5, None, None]},
        {"id": "p1", "scores": [None, None]},
    )
    figures, pairs, _ = judge(tmp_path, file, critic)
    assert [(p["chosen"], p["rejected"], p["score_chosen"], p["margin"]) for p in pairs] == [
        ("a", "b", 0.75, 0.25)
    ]
    assert (figures["unjudged"], figures["no_margin"]) == (3, 1)


def test_missing_votes_say_where_the_candidates_are_and_what_to_write(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b"), ("c", "c"), ("d", "e"))
    with pytest.raises(VotesMissing) as missing:
        judge(tmp_path, file, VotesFile(path="votes.jsonl"))
    assert missing.value.what == f"3 prompts wait for votes: {tmp_path / 'votes.jsonl'} is not there"
    assert str(file) in missing.value.how
    assert '{"id": "…", "chosen": 0, "rejected": 2}' in missing.value.how
    critic = votes(tmp_path, {"id": "p0", "chosen": 0, "rejected": 1})
    with pytest.raises(VotesMissing) as missing:
        judge(tmp_path, file, critic)
    # p1 has no two different candidates, so nobody is asked about it.
    assert missing.value.what == f"1 of 2 prompts have no votes in {tmp_path / 'votes.jsonl'}: p2"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "p9", "chosen": 0, "rejected": 1}, "there is no prompt 'p9' among the candidates"),
        ({"chosen": 0, "rejected": 1}, "a vote needs the prompt's `id`"),
        ({"id": "p0", "chosen": 0, "rejected": 2}, "`rejected` is 2; the prompt has the candidates 0 to 1"),
        ({"id": "p0", "chosen": True, "rejected": 0}, "`chosen` is True"),
        ({"id": "p0", "chosen": 1, "rejected": 1}, "chosen and rejected are the same candidate"),
        ({"id": "p0", "scores": [1]}, "`scores` has 1 numbers; the prompt has 2 candidates"),
        ({"id": "p0", "scores": [1, "2"]}, "`scores` holds '2', neither a number nor null"),
        ({"id": "p0", "choosen": 1, "rejected": 0}, "this line has id, choosen, rejected"),
        ({"id": "p0", "scores": [1, 0]}, "p0 has both scores and chosen/rejected votes"),
    ],
)
def test_a_faulty_vote_is_told_with_its_line(tmp_path: Path, line: Any, message: str) -> None:
    file = candidates(tmp_path, ("a", "b"))
    critic = votes(tmp_path, {"id": "p0", "chosen": 0, "rejected": 1}, line)
    with pytest.raises(DataError, match=r"votes\.jsonl:2: ") as fault:
        judge(tmp_path, file, critic)
    assert message in str(fault.value)


def test_faults_of_candidates_and_rubric_name_the_line(tmp_path: Path) -> None:
    file = candidates(tmp_path, ("a", "b"))
    rubric = Rubric.model_validate({"checks": [{"check": "rouge_l"}]})
    with pytest.raises(DataError, match=r"rows.jsonl:1: the rubric reads the column `reference`"):
        judge(tmp_path, file, rubric)
    file.write_text('{"id": "p", "prompt": "x"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1: no row of candidates"):
        judge(tmp_path, file)
