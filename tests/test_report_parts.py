"""Parts of the report that only some runs have: ILLUME, people, RADIO, unlearning."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

import pytest

from pipelines import state
from pipelines.report.collected import collected
from pipelines.report.forgotten import forgotten
from pipelines.report.gather import Recorded, RunRecord
from pipelines.report.reranked import reranked
from pipelines.report.results import results
from pipelines.report.samples import LARGEST_PICTURE, card, picture
from tests.report_runs import jsonl
from tests.test_report import Parsed

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


def stage(folder: Path, name: str, kind: str, config: dict[str, Any], metrics: dict[str, Any]) -> Recorded:
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    done = state.Done(
        name=name, kind=kind, build="b", config=config, started="", metrics=metrics, finished="", seconds=1.0
    )
    return Recorded(name, kind, "done", config, (), path, begun=done, done=done)


def run_of(folder: Path, *stages: Recorded) -> RunRecord:
    return RunRecord("demo", folder, "", "", str(folder), None, stages)


def shown(text: str) -> Parsed:
    assert text
    return Parsed(text)


def curves(found: Parsed) -> dict[str, str]:
    return {
        e["data-label"] or "": e["data-points"] or ""
        for n, e in found.elements
        if n == "g" and (e.get("class") or "").startswith("curve")
    }


def explained(text: str, accepted: bool) -> list[dict[str, Any]]:
    return [{"prompt": "Why does it ring? Because", "explanation": text, "accepted": accepted}]


def test_illume_shows_acceptance_by_iteration_and_what_is_explained(tmp_path: Path) -> None:
    one = stage(tmp_path, "explain", "illume", {}, {"chosen_iteration": 1, "stopped": "max_iterations is 2"})
    folder = one.folder / "iterations"
    held = {
        "acceptance": 0.25,
        "second": 0.125,
        "answer_accuracy": 0.5,
        "samples": explained("of noise", False),
    }
    (folder / "00").mkdir(parents=True)
    (folder / "01").mkdir()
    state.write_json(folder / "base.json", held)
    for k, (share, later) in enumerate(((0.5, 0.375), (0.75, 0.625))):
        state.write_json(
            folder / f"{k:02d}" / "done.json",
            {
                "iteration": k,
                "judged": 48,
                "accepted": int(48 * share),
                "acceptance": share,
                "new": 10 + k,
                "covered": 9 + k,
                "explanations": 24 + k,
                "steps": 6,
                "held_out": {**held, "acceptance": later, "samples": explained("the bell is struck", True)},
            },
        )
    found = shown(collected(run_of(tmp_path, one), []))
    assert curves(found)["accepted of what was drawn"] == "0,0.5 1,0.75"
    assert curves(found)["held out: accepted"] == "0,0.25 1,0.375 2,0.625"
    assert curves(found)["prompts covered"] == "1,9 2,10"
    assert "It stopped: max_iterations is 2." in found.text
    assert "1 taken 48 36 0.75" in found.text
    assert "of noise" in found.text
    assert "the bell is struck" in found.text


def test_a_prompts_picture_is_within_the_page(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(PNG)
    (tmp_path / "large.png").write_bytes(PNG + bytes(LARGEST_PICTURE))
    (tmp_path / "x.svg").write_text("<svg onload='alert(1)'/>")
    coded = b64encode(PNG).decode()
    assert picture(tmp_path, "x.png") == f'<img alt="the picture x.png" src="data:image/png;base64,{coded}">'
    for name in ("large.png", "x.svg", "absent.png", "../outside.png", '"><script>'):
        assert picture(tmp_path, name) == f'<p class="right">with the picture {escape(name)}</p>'
    assert picture(tmp_path, None) == ""
    shown_card = card("What?", {"before": ("a", None)}, picture=picture(tmp_path, "x.png"))
    assert coded in shown_card


def test_people_are_shown_with_their_agreement(tmp_path: Path) -> None:
    metrics = {
        "prompts": 3, "pairs": 2, "votes": 5, "people": 2, "alpha_preferred": 0.4375, "mean_agreement": 0.75,
        "undecided": 1,
    }  # fmt: skip
    one = stage(tmp_path, "collect", "judge", {"critic": {"kind": "people"}}, metrics)

    def vote(person: str, choice: int, seconds: float) -> dict[str, Any]:
        return {"person": person, "kind": "best", "choice": choice, "seconds": seconds}

    jsonl(one.folder / "rows.jsonl", [{"weight": 0.25}, {"weight": 1.0}])
    jsonl(
        one.folder / "votes.jsonl",
        [
            {"id": "a", "votes": [vote("Ada", 0, 4.0), vote("Bob", 0, 2.0)]},
            {"id": "b", "votes": [vote("Ada", 1, 8.0), vote("Bob", 0, 4.0)]},
            {"id": "c", "votes": [vote("Ada", 1, 6.0)]},
        ],
    )
    text = shown(collected(run_of(tmp_path, one), [])).text
    assert "agreement (α) 0.438" in text
    assert "Of 2 items that several people judged, 1 got the same vote from all (50 %)" in text
    assert "Ada 3 best 3 6 s" in text
    assert "Bob 2 best 2 3 s" in text
    assert "margin 0.2 to 0.3: 1 pairs" in text
    assert "margin 0.9 to 1.0: 1 pairs" in text


@pytest.fixture
def radio(tmp_path: Path) -> RunRecord:
    jsonl(tmp_path / "reasons.jsonl", [{"id": "q1", "reason": "it drinks from the waters of ore nai"}])
    config = {"rationales": "reasons.jsonl", "rationale_weight": 0.5}
    groups = stage(
        tmp_path, "groups", "radio", config,
        {"groups": 2, "negatives": 4, "pos_with_answer_share": 0.5, "sweep": {"0.0": 0.25, "0.5": 0.5, "1.0": 1.0}},
    )  # fmt: skip
    row = {
        "query": "which river does the vale have",
        "pos": ["its waters are called ore nai"],
        "neg": ["much is asked about the river", "the river is named in books"],
        "question_id": "q1",
        "id": "q1",
        "golden_answers": ["ore nai"],
        "pos_ranks": [0],
        "neg_ranks": [3, 4],
        "retrieval_ranks": [7, 0, 1],
    }
    stays = {**row, "question_id": "q2", "id": "q2", "retrieval_ranks": [0, 3, 4]}
    jsonl(groups.folder / "rows.jsonl", [stays, row])
    plain = stage(tmp_path, "plain", "radio", {**config, "rationale_weight": 0.0}, {"groups": 2})
    tuned = stage(tmp_path, "tuned", "rerank", {"groups": "groups"}, {})
    other = stage(tmp_path, "other", "rerank", {"groups": "plain"}, {})
    measured = {"f1": 0.5, "answer_said": 0.5, "answer_shown": 0.75}
    figures: dict[str, Any] = {
        "retriever": {"exact_match": 0.125, **measured},
        "with reasons": {"exact_match": 0.375, **measured},
        "without": {"exact_match": 0.25, **measured},
        "differences": {
            "with reasons - retriever": {"exact_match": {"mean": 0.25, "low": 0.125, "high": 0.5}}
        },
        "counts": {"questions": 8},
    }
    suite = {"suite": "rag", "rerankers": {"with reasons": "tuned", "without": "other"}, "top_k": 3}
    asked = stage(tmp_path, "asked", "evaluate", suite, figures)
    answer = {"id": "q1", "question": "which river", "golden_answers": ["ore nai"], "exact_match": 1.0}
    for label in ("retriever", "with_reasons", "without"):
        jsonl(asked.folder / f"answers-{label}.jsonl", [{**answer, "answer": f"said by {label}"}])
    return run_of(tmp_path, groups, plain, tuned, other, asked)


def test_radio_shows_what_the_rationale_moved(radio: RunRecord) -> None:
    found = shown(reranked(radio, []))
    assert "Of 2 positives, 1 stood lower before." in found.text
    assert "it drinks from the waters of ore nai" in found.text
    assert found.text.count("which river does the vale have") == 1  # q2 did not move
    assert [e["aria-label"] for n, e in found.elements if n == "svg" and e.get("class") == "slopes"] == [
        "the positive moved from rank 8 to 1"
    ]
    assert found.named("mark")


def test_lambda_stands_against_both_figures(radio: RunRecord) -> None:
    found = curves(shown(reranked(radio, [])))
    assert found["exact match"] == "0,0.25 0.5,0.375"
    assert found["groups"] == "0,0.25 0.5,0.5 1,1"


def test_rerankers_are_compared_on_questions(radio: RunRecord) -> None:
    text = shown(results(radio, [])).text
    assert "8 questions" in text
    assert "with reasons 0.375 0.500 0.500 0.750" in text
    assert "+0.250" in text
    assert "right: ore nai" in text
    assert "said by with_reasons" in text


def test_a_placebo_s_rationales_are_not_shown_as_reasons(radio: RunRecord) -> None:
    groups = radio.stages[0]
    config = {**groups.config, "placebo": True}
    made = stage(radio.folder, "groups", "radio", config, dict(groups.metrics))
    text = shown(reranked(run_of(radio.folder, made), [])).text
    assert "yes: rationales of other questions" in text
    assert "it drinks" not in text


def test_forgetting_is_drawn_against_utility(tmp_path: Path) -> None:
    def known(value: float) -> dict[str, float]:
        return {"value": value, "low": value * 0.5, "high": value * 1.5}

    def model(quality: float, utility: float) -> dict[str, Any]:
        return {
            "forget_quality": known(quality),
            "utility": known(utility),
            "sets": {"forget": {"probability": known(0.5), "rouge": known(0.25)}},
            "extraction_strength": known(0.125),
            "auc": None,
        }

    one = stage(tmp_path, "forgetting", "evaluate", {"suite": "forgetting"}, {})
    state.write_json(
        one.folder / "forgetting.json",
        {
            "retrained": "never",
            "models": {"full": model(1e-6, 0.625), "never": model(1.0, 0.5), "npo": model(0.25, 0.375)},
            "samples": [
                {"set": "forget", "question": "Who?", "answer": "Ada.", "said": {"full": "Ada.", "npo": "no"}}
            ],
        },
    )
    found = shown(forgotten(run_of(tmp_path, one), []))
    assert "npo 0.25 0.125 to 0.375 0.375 0.188 to 0.562" in found.text
    assert "is not told from never" in found.text
    assert "right: Ada." in found.text
    points = [e for n, e in found.elements if n == "g" and (e.get("class") or "").startswith("series s")]
    assert len(points) == 6  # three in the chart, three in its legend
