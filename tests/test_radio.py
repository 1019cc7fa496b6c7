"""RADIO's collection: scores, blends, groups and pairs, each against arithmetic written out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.errors import DataError
from data.jsonl import append_jsonl, read_jsonl
from data.radio.fuse import SWEEP, Scored, align, dense_scorer, score_pools, sweep
from data.radio.fusion import descending, fuse, normalise
from data.radio.groups import GroupOptions, growing_offsets, make_groups, ranks, read_groups
from data.radio.pairs import answer_pairs, document_pairs, reader_chat
from data.radio.pools import Document, Pool, distinct, make_pool, read_pools
from data.radio.rationales import collect_rationales, read_rationales, request, scored_text
from data.radio.tfidf import Tfidf

SIX = (3, 4, 6, 9, 13, 18)


def pool(size: int = 20, key: str = "q", answers: Sequence[str] = ("gold",), **texts: str) -> Pool:
    """Documents `d0 … dn`, best first; `texts` replaces some."""
    documents = tuple(Document(f"{key}{i}", texts.get(f"d{i}", f"d{i} of {key}")) for i in range(size))
    return Pool(key, f"what is {key}", tuple(answers), documents, np.linspace(1.0, 0.1, size))


def scored(size: int = 20, seed: int = 0, **given: Any) -> Scored:
    return Scored(pool(size, **given), np.random.default_rng(seed).normal(size=size))


# --- normalise and fuse ---


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank"])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e308, 5e-324])
def test_constant_scores_become_zeros(how: Any, value: float) -> None:
    assert normalise([value] * 5, how).tolist() == [0.0] * 5
    assert normalise([value], how).tolist() == [0.0]


def test_the_four_scales_by_hand() -> None:
    scores = [2.0, 6.0, 4.0, 6.0]
    assert normalise(scores, "minmax").tolist() == [0.0, 1.0, 0.5, 1.0]
    deviation = (((2 - 4.5) ** 2 + 2 * (6 - 4.5) ** 2 + (4 - 4.5) ** 2) / 4) ** 0.5
    assert normalise(scores, "zscore") == pytest.approx([(s - 4.5) / deviation for s in scores], abs=1e-12)
    assert normalise(scores, "rank") == pytest.approx([0, 2 / 3, 1 / 3, 2 / 3], abs=1e-12)
    assert normalise(scores, "none").tolist() == scores
    assert normalise([], "minmax").tolist() == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_minmax_never_leaves_zero_to_one_nor_changes_the_order(values: list[float]) -> None:
    found = normalise(values)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1
    by_value = np.argsort(values, kind="stable")
    assert (np.diff(found[by_value]) >= 0).all()


def test_the_blend_by_hand() -> None:
    found = fuse([0, 10, 5], [1.0, 0.5, 0.0], [0, 0.25, 1])
    assert found.tolist() == [
        [1.0, 0.5, 0.0],
        [0.75 * 1.0, 0.25 * 1 + 0.75 * 0.5, 0.25 * 0.5],
        [0.0, 1.0, 0.5],
    ]


@pytest.mark.parametrize("bad", [[float("nan"), 1.0], [float("inf"), 1.0]])
def test_scores_that_are_no_numbers_are_refused(bad: list[float]) -> None:
    with pytest.raises(DataError, match="finite"):
        fuse(bad, [1.0, 2.0], [0.5])


def test_lists_of_different_length_and_a_lambda_outside_are_refused() -> None:
    with pytest.raises(DataError, match="3 rationale scores and 2"):
        fuse([1, 2, 3], [1, 2], [0.5])
    with pytest.raises(DataError, match="between 0 and 1"):
        fuse([1, 2], [1, 2], [1.5])


def test_equal_scores_keep_their_places() -> None:
    assert descending([1.0, 2.0, 1.0, 2.0, 3.0]).tolist() == [4, 1, 3, 0, 2]


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_lambda_0_is_the_retrievers_order_and_lambda_1_the_rationales(how: Any, seed: int) -> None:
    given = scored(30, seed)
    assert align(given, 0.0, how).order.tolist() == list(range(30))
    assert align(given, 1.0, how).order.tolist() == np.argsort(-given.rationale, kind="stable").tolist()


def test_a_sweep_is_the_same_as_one_lambda_at_a_time() -> None:
    given = scored(25)
    for found in sweep(given, SWEEP):
        alone = align(given, found.weight)
        assert found.order.tolist() == alone.order.tolist()
        assert found.scores.tolist() == alone.scores.tolist()


# --- pools ---


def raw(key: Any = "q1", **more: Any) -> dict[str, Any]:
    documents = [
        {"id": f"d{i}", "text": f"text {i}", "score": score} for i, score in enumerate([0.1, 0.9, 0.5])
    ]
    return {"id": key, "question": "why", "golden_answers": ["so"], "documents": documents, **more}


def test_a_pool_stands_in_the_order_of_its_scores() -> None:
    found = make_pool(raw(), "here")
    assert [d.id for d in found.documents] == ["d1", "d2", "d0"]
    assert found.scores.tolist() == [0.9, 0.5, 0.1]
    assert make_pool(found.row(), "again").row() == found.row()


def test_of_copies_the_best_stays_and_the_others_are_counted() -> None:
    documents = [
        {"id": "a", "text": "same", "score": 0.2},
        {"id": "b", "text": "other", "score": 0.3},
        {"id": "c", "text": "same", "score": 0.7},
        {"id": "d", "text": "same", "score": 0.7},
    ]
    counts = Counter[str]()
    found = make_pool(raw(documents=documents), "here", counts)
    assert [d.id for d in found.documents] == ["c", "b"]
    assert counts == {"duplicate_documents": 2, "pools_with_duplicates": 1}


def test_the_limit_counts_what_is_left_after_copies() -> None:
    documents = [{"id": str(i), "text": f"t{i // 2}", "score": -i} for i in range(8)]
    assert [d.id for d in make_pool(raw(documents=documents), "", limit=3).documents] == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ({"id": None}, "no id"),
        ({"question": " "}, "no text"),
        ({"golden_answers": "so"}, "golden_answers"),
        ({"golden_answers": []}, "golden_answers"),
        ({"documents": None}, "documents"),
        ({"documents": [{"id": "d", "text": "t"}]}, "no document"),
        ({"documents": [{"id": "d", "text": "t", "score": float("nan")}]}, "finite"),
    ],
)
def test_a_broken_pool_is_told(broken: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=what):
        make_pool(raw(**broken), "here:1")


def test_an_id_stands_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stands twice"):
        list(distinct([make_pool(raw(), ""), make_pool(raw(), "")], "file"))
    append_jsonl(tmp_path / "p.jsonl", [raw("a"), raw("b")])
    assert [p.id for p in read_pools(tmp_path / "p.jsonl", Counter())] == ["a", "b"]


# --- rationales ---


def test_the_request_has_a_system_and_three_user_turns() -> None:
    chat = request("who?", ["A", "B"])
    assert [turn["role"] for turn in chat] == ["system", "user", "user", "user"]
    assert "who?" in chat[1]["content"]
    assert '["A", "B"]' in chat[2]["content"]
    shown = request("who?", ["A"], ["first passage", "second"])
    assert "[1] first passage\n[2] second" in shown[1]["content"]
    assert "passage" not in "".join(turn["content"] for turn in chat).lower()


def test_the_scored_text() -> None:
    assert scored_text("who?", ["A", "B's"], "because") == "who?. ['A', \"B's\"]. because"
    assert scored_text("who?", ("A",), "because", "rationale") == "because"
    assert scored_text("who?", ("A",), "because", "answers") == "['A']"


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "question": f"what {i}", "golden_answers": [f"a{i}"]} for i in range(count)]


class Generator:
    """Counts what it is asked."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fail_after = fail_after

    def __call__(self, chats: Sequence[list[dict[str, str]]]) -> list[str]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise ConnectionError("the line is dead")
        self.asked += [chat[1]["content"] for chat in chats]
        return [f"  why {chat[1]['content']} " for chat in chats]


def test_rationales_are_asked_once_and_an_interrupted_call_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with pytest.raises(ConnectionError):
        collect_rationales(questions(10), Generator(fail_after=4), out, batch_size=2)
    assert len(read_jsonl(out)) == 4
    with out.open("ab") as file:
        file.write(b'{"id": "q4", "rea')  # what a kill leaves
    second = Generator()
    figures = collect_rationales(questions(10), second, out, batch_size=4)
    assert second.asked == [f"Question: what {i}" for i in range(4, 10)]
    assert figures == {"questions": 10, "found": 4, "asked": 6, "empty": 0}
    assert read_rationales(out) == {f"q{i}": f"why Question: what {i}" for i in range(10)}
    third = Generator()
    assert collect_rationales(questions(10), third, out)["asked"] == 0
    assert third.asked == []


def test_a_changed_answer_is_asked_anew(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    collect_rationales(questions(3), Generator(), out)
    changed = questions(3)
    changed[1]["golden_answers"] = ["else"]
    again = Generator()
    assert collect_rationales(changed, again, out)["asked"] == 1
    assert again.asked == ["Question: what 1"]


def test_rationales_from_elsewhere_are_joined_by_id(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    append_jsonl(out, [{"id": "b", "reason": "B"}, {"id": "a", "reason": "A"}])
    assert read_rationales(out) == {"a": "A", "b": "B"}
    append_jsonl(out, [{"question": "no id", "reason": "C"}])
    with pytest.raises(DataError, match="needs `id`"):
        read_rationales(out)


# --- scoring ---


def words(texts: Sequence[str], side: str) -> np.ndarray:
    """A unit vector a text: letters counted."""
    counts = np.array(
        [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz0123456789"] for text in texts]
    )
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_scores_are_joined_by_question_id_and_not_by_order() -> None:
    pools = [pool(4, key=key) for key in ("x", "y", "z")]
    seen: list[str] = []

    def scorer(texts: Sequence[str], documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        seen.extend(texts)
        return [np.arange(len(found), dtype=float) for found in documents]

    counts = Counter[str]()
    rationales = {"z": "of z", "x": "of x", "other": "of other"}
    found = list(score_pools(pools, rationales, scorer, counts, chunk=2))
    assert [one.pool.id for one in found] == ["x", "z"]
    assert seen == ["what is x. ['gold']. of x", "what is z. ['gold']. of z"]
    assert counts == {"questions": 3, "scored": 2, "without_rationale": 1}


def test_empty_rationales_and_empty_pools_are_counted() -> None:
    counts = Counter[str]()
    pools = [pool(3, key="a"), pool(0, key="b"), pool(3, key="c")]
    found = list(score_pools(pools, {"a": " ", "b": "r", "c": "r"}, dense_scorer(words), counts))
    assert [one.pool.id for one in found] == ["c"]
    assert counts == {"questions": 3, "empty_rationale": 1, "without_documents": 1, "scored": 1}


def test_dense_scores_are_inner_products_and_a_document_is_encoded_once() -> None:
    encoded: list[str] = []

    def encode(texts: Sequence[str], side: str) -> np.ndarray:
        encoded.extend(f"{side}:{text}" for text in texts)
        return words(texts, side)

    found = dense_scorer(encode)(["abc", "xyz"], [["aab", "shared"], ["shared", "zzz"]])
    assert encoded == ["query:abc", "query:xyz", "document:aab", "document:shared", "document:zzz"]
    assert found[0][0] == pytest.approx((2 + 1) / (3**0.5 * 5**0.5), abs=1e-6)
    assert found[1][1] == pytest.approx(1 / 3**0.5, abs=1e-6)


def test_another_lambda_makes_no_encoder_call() -> None:
    calls: list[int] = []

    def encode(texts: Sequence[str], side: str) -> np.ndarray:
        calls.append(len(texts))
        return words(texts, side)

    pools = [pool(20, key=key) for key in "abc"]
    found = list(score_pools(pools, dict.fromkeys("abc", "why"), dense_scorer(encode), Counter()))
    before = list(calls)
    orders = {weight: [align(one, weight).order.tolist() for one in found] for weight in SWEEP}
    assert calls == before
    assert orders[0.0] != orders[1.0]


def test_tfidf_by_hand() -> None:
    made = Tfidf(["a b", "b c", "b"])
    weight = {"a": 1 + np.log(4 / 2), "b": 1 + np.log(4 / 4), "x": 1 + np.log(4 / 1)}
    expected = (
        weight["a"] * weight["a"] / (np.hypot(weight["a"], weight["x"]) * np.hypot(weight["a"], weight["b"]))
    )
    assert made.score(["A x"], [["a b", "c c"]])[0] == pytest.approx([expected, 0.0], abs=1e-12)


# --- groups ---


def test_shift_takes_rank_0_over_3_4_6_9_13_18() -> None:
    assert growing_offsets() == SIX
    assert ranks(50, GroupOptions(), "q") == [(0, SIX)]
    given = scored(50)
    row = next(make_groups([align(given)], GroupOptions(), Counter()))
    order = np.argsort(-align(given).scores, kind="stable")
    texts = [given.pool.documents[place].text for place in order]
    assert row["pos"] == [texts[0]]
    assert row["neg"] == [texts[rank] for rank in SIX]
    assert row["neg_ranks"] == list(SIX)
    assert not {texts[1], texts[2]} & {*row["pos"], *row["neg"]}
    assert row["retrieval_ranks"] == [int(order[rank]) for rank in (0, *SIX)]
    assert (row["id"], row["lambda"], row["sampler"]) == ("q", 0.5, "shift")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (20, SIX),
        (19, SIX),
        (18, (3, 4, 6, 9, 13, 17)),
        (10, (3, 4, 6, 9)),
        (7, (3, 4, 6)),
        (6, (3, 4, 5)),
        (4, (3,)),
    ],
)
def test_a_small_pool_is_clipped(size: int, expected: tuple[int, ...]) -> None:
    counts = Counter[str]()
    assert ranks(size, GroupOptions(), "q", counts) == [(0, expected)]
    assert counts["clipped_pools"] == (size < 19)


def test_a_pool_that_is_too_small_is_dropped_or_told() -> None:
    counts = Counter[str]()
    small = [align(scored(3)), align(scored(12)), align(scored(20))]
    assert len(list(make_groups(small, GroupOptions(), counts))) == 2
    assert counts["pool_too_small"] == 1
    assert len(list(make_groups(small, GroupOptions(small_pool="drop"), Counter()))) == 1
    with pytest.raises(DataError, match="3 documents"):
        list(make_groups(small, GroupOptions(small_pool="error"), Counter()))


def test_the_other_samplers() -> None:
    assert ranks(50, GroupOptions(sampler="shift_all_neg"), "q") == [(0, tuple(range(3, 20)))]
    blocks = ranks(8, GroupOptions(sampler="iteration"), "q")
    assert blocks == [(0, (1, 2, 3, 4)), (1, (2, 3, 4)), (2, (3, 4)), (3, (4,)), (5, (6, 7)), (6, (7,))]
    assert len(ranks(50, GroupOptions(sampler="iteration"), "q")) == 4 * 4
    drawn = ranks(50, GroupOptions(sampler="random"), "q")
    assert drawn == ranks(50, GroupOptions(sampler="random"), "q")
    (positive, negatives) = drawn[0]
    assert positive == 0
    assert len(set(negatives)) == 6
    assert set(negatives) <= set(range(1, 20))
    others = {ranks(50, GroupOptions(sampler="random"), f"q{i}")[0][1] for i in range(50)}
    assert len(others) > 40
    assert {rank for found in others for rank in found} == set(range(1, 20))


def test_offsets_must_rise() -> None:
    with pytest.raises(ValidationError, match="rise"):
        GroupOptions(neg_offsets=(4, 3))


def test_answer_filters_are_off_by_default_and_counted() -> None:
    texts = {"d0": "no idea", "d3": "it is gold", "d9": "Gold!"}
    given = align(Scored(pool(20, **texts), np.zeros(20)), 0.0)
    counts = Counter[str]()
    assert len(next(make_groups([given], GroupOptions(), counts))["neg"]) == 6
    assert counts == {
        "candidate_groups": 1,
        "neg_with_answer": 2,
        "groups": 1,
        "negatives": 6,
        "pos_with_answer": 0,
    }

    counts = Counter[str]()
    row = next(make_groups([given], GroupOptions(drop_answer_in_neg=True), counts))
    assert row["neg_ranks"] == [4, 6, 13, 18]
    assert counts["removed_neg_with_answer"] == 2

    counts = Counter[str]()
    assert list(make_groups([given], GroupOptions(require_answer_in_pos=True), counts)) == []
    assert counts["dropped_pos_without_answer"] == 1


def test_a_group_without_negatives_is_dropped_and_counted() -> None:
    given = align(Scored(pool(4, d3="gold"), np.zeros(4)), 0.0)
    counts = Counter[str]()
    assert list(make_groups([given], GroupOptions(drop_answer_in_neg=True), counts)) == []
    assert counts["dropped_without_negatives"] == 1


def test_groups_are_read_back_and_checked(tmp_path: Path) -> None:
    rows = list(make_groups([align(scored(20))], GroupOptions(), Counter()))
    append_jsonl(tmp_path / "g.jsonl", rows)
    assert list(read_groups(tmp_path / "g.jsonl")) == json.loads(json.dumps(rows))
    append_jsonl(tmp_path / "g.jsonl", [{"query": "q", "pos": ["p"], "neg": []}])
    with pytest.raises(DataError, match="`neg`"):
        list(read_groups(tmp_path / "g.jsonl"))


# --- pairs ---


def group(**more: Any) -> dict[str, Any]:
    return {
        "query": "where", "pos": ["P"], "neg": ["N1", "N2"], "id": "g", "question_id": "q",
        "golden_answers": ["paris"], "lambda": 0.5, "sampler": "shift", **more,
    }  # fmt: skip


def reader(answers: dict[str, str]) -> Any:
    """Answers by the context it is shown."""

    def generate(chats: Sequence[list[dict[str, str]]]) -> list[str]:
        return [answers[chat[0]["content"].rsplit("] ", 1)[-1]] for chat in chats]

    return generate


def test_the_answer_from_the_aligned_context_is_chosen() -> None:
    counts = Counter[str]()
    found = list(answer_pairs([group()], reader({"P": "Paris", "N1": "Rome", "N2": "old Paris"}), counts))
    assert len(found) == 1
    assert found[0]["prompt"] == reader_chat("where", ["P"])
    assert found[0]["chosen"] == [{"role": "assistant", "content": "Paris"}]
    assert found[0]["rejected"] == [{"role": "assistant", "content": "old Paris"}]
    assert found[0]["unaligned_context"] == ["N2"]
    assert (found[0]["f1_chosen"], found[0]["f1_rejected"]) == (1.0, pytest.approx(2 / 3))
    assert found[0]["group"]["question_id"] == "q"
    assert counts == {"groups": 1, "pairs": 1, "chosen_exact": 1, "rejected_exact": 0, "chosen_worse": 0}


def test_pairs_that_say_nothing_are_counted() -> None:
    answers = reader({"P": "the Paris", "N1": "paris.", "N2": " "})
    counts = Counter[str]()
    assert list(answer_pairs([group()], answers, counts, against="each")) == []
    assert counts == {"groups": 1, "equal_answers": 1, "empty_answers": 1}


def test_a_worse_answer_is_told_and_can_be_left_out() -> None:
    answers = reader({"P": "Lyon", "N1": "Paris", "N2": "Rome"})
    counts = Counter[str]()
    assert len(list(answer_pairs([group()], answers, counts, against="each"))) == 2
    assert counts["chosen_worse"] == 1
    counts = Counter[str]()
    assert list(answer_pairs([group()], answers, counts, against="each", require_better=True)) == []
    assert counts["not_better"] == 2
    with pytest.raises(DataError, match="gold"):
        list(answer_pairs([group(golden_answers=[])], answers, Counter(), require_better=True))


def test_the_prompt_shows_the_context_that_was_asked_for() -> None:
    answers = reader({"P": "a", "N1": "b", "N2": "c"})
    for shown, context in (("aligned", ["P"]), ("unaligned", ["N1"]), ("none", [])):
        found = next(answer_pairs([group()], answers, Counter(), against="hardest", shown=shown))  # type: ignore[arg-type]
        assert found["prompt"] == reader_chat("where", context)


def test_document_pairs() -> None:
    found = list(document_pairs([group()]))
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in found] == [
        ("where", "P", "N1"),
        ("where", "P", "N2"),
    ]
