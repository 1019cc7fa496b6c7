"""Lambda chosen on questions of its own, ranks before and after, and pairs of answers from groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError, RecipeError
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.radio.pairs import READER
from pipelines.recipe import check
from trainers.config import GenerationOptions, ModelOptions
from trainers.radio import rag
from trainers.radio.config import ContrastOptions
from trainers.radio.contrast import contrast
from trainers.radio.rag_config import PatternReader, RagOptions
from trainers.sampling.chat_writer import ChatWriter
from trainers.work import Work

READ = PatternReader(question=r"what is (?P<what>\w+)", document=r"{what} is (?P<answer>\w+)")


def pools(folder: Path, name: str, keys: list[str]) -> Path:
    """Three documents a question: wrong, right, and silent."""
    rows = []
    for key in keys:
        texts = [f"{key} is wrong", f"{key} is right", f"{key} who knows"]
        documents = [{"id": f"{key}{i}", "text": text, "score": -i} for i, text in enumerate(texts)]
        asked = {"id": key, "question": f"what is {key}", "golden_answers": ["right"]}
        rows.append({**asked, "documents": documents})
    write_jsonl_atomic(folder / name, rows)
    return folder / name


def evaluated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, orders: dict[str, dict[str, list[int]]], **options: Any
) -> dict[str, Any]:
    """Rerankers that put a question's documents into a given order; unknown questions stay as they are."""

    def ordered(asked: Any, start: str, *_: Any) -> list[Any]:
        return [
            rag.Asked(
                one.id, one.question, tuple(one.documents[i] for i in orders[start].get(one.id, (0, 1, 2)))
            )
            for one in asked
        ]

    monkeypatch.setattr(rag, "reordered", ordered)
    return rag.evaluate_rag(
        RagOptions(top_k=1, reader_pattern=READ, **options),
        GenerationOptions(),
        pools(folder, "test.jsonl", ["t1", "t2"]),
        {label: label for label in orders},
        None,
        Work(folder, say=lambda _: None),
        validation=pools(folder, "valid.jsonl", ["v1", "v2", "v3"]) if options.get("choose") else None,
        bootstrap=100,
    )


RIGHT, WRONG, SILENT = [1, 0, 2], [0, 1, 2], [2, 0, 1]


def test_what_is_chosen_is_best_on_the_validation_questions_and_not_on_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = {
        "small": {"v1": RIGHT, "v2": RIGHT, "v3": WRONG, "t1": WRONG, "t2": RIGHT},
        "large": {"v1": RIGHT, "v2": WRONG, "v3": SILENT, "t1": RIGHT, "t2": RIGHT},
        "other": {"v1": RIGHT, "v2": RIGHT, "v3": RIGHT, "t1": WRONG, "t2": WRONG},
    }
    found = evaluated(tmp_path, monkeypatch, orders, choose=("small", "large"))
    assert found["choice"] == {
        "label": "small", "questions": 3, "exact_match": {"small": 0.666667, "large": 0.333333}
    }  # fmt: skip
    assert [found[label]["exact_match"] for label in ("retriever", "small", "large", "other")] == [
        0,
        0.5,
        1,
        0,
    ]
    assert "chosen on 3 validation questions: small (small 0.667, large 0.333)" in found["lines"]
    assert json.loads((tmp_path / "rag.json").read_text())["choice"] == found["choice"]
    # Of equal ones the first that is named.
    orders["large"] |= {"v2": RIGHT}
    assert evaluated(tmp_path, monkeypatch, orders, choose=("large", "small"))["choice"]["label"] == "large"
    assert "choice" not in evaluated(tmp_path, monkeypatch, orders)


def test_a_question_that_chooses_must_not_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = pools(tmp_path, "both.jsonl", ["v1", "t2"])
    monkeypatch.setattr(rag, "reordered", lambda asked, *_: asked)
    with pytest.raises(DataError, match="1 questions choose a reranker and judge it too, among them 't2'"):
        rag.evaluate_rag(
            RagOptions(reader_pattern=READ, choose=("a",)),
            GenerationOptions(),
            pools(tmp_path, "test.jsonl", ["t1", "t2"]),
            {"a": "a"},
            None,
            Work(tmp_path, say=lambda _: None),
            validation=both,
        )
    with pytest.raises(RecipeError, match="`choose` names `nobody`"):
        evaluated(tmp_path, monkeypatch, {"a": {}}, choose=("nobody",))


def test_answers_tell_the_ranks_that_their_documents_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(tmp_path, monkeypatch, {"a": {"t1": RIGHT, "t2": SILENT}})
    assert [row["retrieval_ranks"] for row in read_jsonl(tmp_path / "answers-a.jsonl")] == [[1], [2]]
    assert [row["retrieval_ranks"] for row in read_jsonl(tmp_path / "answers-retriever.jsonl")] == [[0], [0]]


RECIPE = """\
recipe: pairs
stages:
  - {name: said, kind: contrast, model: tiny, groups: groups.jsonl, max_new_tokens: 5, against: each}
  - {name: aligned, kind: prefer, model: tiny, pairs: said, max_steps: 1}
"""


def groups(folder: Path) -> Path:
    rows = [
        {
            "id": f"q{i}", "question_id": f"q{i}", "query": f"what is {i}", "pos": [f"{i} is right"],
            "neg": [f"{i} is wrong", f"{i} is right"], "golden_answers": ["right"], "lambda": 0.5,
        }
        for i in range(3)
    ]  # fmt: skip
    write_jsonl_atomic(folder / "groups.jsonl", rows)
    return folder / "groups.jsonl"


def test_pairs_of_answers_are_made_from_groups_and_a_context_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that says its document's last word: what the shipped tiny model says is blank."""
    asked: list[Any] = []

    def last_word(writer: ChatWriter, chats: Any) -> list[str]:
        asked.extend(chats)
        return [f" {chat[0]['content'].split()[-1]} " for chat in chats]

    monkeypatch.setattr(ChatWriter, "__call__", last_word)
    options = ContrastOptions(max_new_tokens=5, against="each")

    def made(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        (tmp_path / name).mkdir()
        work = Work(tmp_path / name, say=lambda _: None, store=tmp_path / "store")
        out = tmp_path / name / "rows.jsonl"
        return contrast(options, ModelOptions(model="tiny"), "tiny", groups(tmp_path), out, work), read_jsonl(
            out
        )

    figures, rows = made("one")
    assert (figures["groups"], figures["pairs"], figures["equal_answers"]) == (3, 3, 3)
    assert (figures["chosen_exact"], figures["rejected_exact"]) == (3, 0)
    assert len(asked) == 6  # a negative that repeats the positive is the same context
    for i, row in enumerate(rows):
        assert row["prompt"][0]["content"] == f"{READER}\n\n[1] {i} is right"
        assert row["prompt"][1] == {"role": "user", "content": f"what is {i}"}
        assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("right", "wrong")
        assert row["group"]["question_id"] == f"q{i}"
        assert (row["f1_chosen"], row["f1_rejected"]) == (1.0, 0.0)
    assert made("two")[1] == rows
    assert len(asked) == 6


def test_a_model_that_says_nothing_makes_no_pair_and_is_told(tmp_path: Path) -> None:
    groups(tmp_path)
    (tmp_path / "pairs.yaml").write_text(RECIPE)
    assert check(tmp_path / "pairs.yaml").faults == ()  # and `prefer` takes what `contrast` makes
    work = Work(tmp_path, say=lambda _: None)
    options = ContrastOptions(max_new_tokens=5, against="each")
    with pytest.raises(DataError, match=r"not one pair.*'empty_answers': 6") as told:
        contrast(options, ModelOptions(model="tiny"), "tiny", groups(tmp_path), tmp_path / "rows.jsonl", work)
    assert json.loads(Path(told.value.where or "").read_text())["replies_written"] == 6


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("choose: [a]", "`choose` and `validation_pools` go together"),
        ("validation_pools: p.jsonl", "`choose` and `validation_pools` go together"),
    ],
)
def test_half_a_choice_is_told(tmp_path: Path, more: str, told: str) -> None:
    pools(tmp_path, "p.jsonl", ["t1"])
    (tmp_path / "half.yaml").write_text(
        "recipe: half\nstages:\n"
        "  - {name: ask, kind: evaluate, suite: rag, pools: p.jsonl, rerankers: {a: tiny-reranker}, reader: tiny, "
        f"{more}}}\n"
    )
    faults = [fault.render("half") for fault in check(tmp_path / "half.yaml").faults]
    assert len(faults) == 1
    assert told in faults[0]
