"""Models side by side: greedy answers, scores, paired intervals, and what is kept between calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import trainers.evaluate
from data.critics import Rubric
from data.errors import DataError, RecipeError
from data.jsonl import read_jsonl
from data.sources import Mixture
from trainers import aliases
from trainers.comparison import compare, lines
from trainers.config import GenerationOptions
from trainers.evaluate import evaluate
from trainers.work import Work

RUBRIC = Rubric.model_validate(
    {"checks": [{"check": "max_words", "words": 2, "weight": 3}, {"check": "no_repetition", "n": 1}]}
)
OPTIONS = GenerationOptions(max_new_tokens=8, batch_size=2)
ROWS = [{"prompt": f"The signal {i} is" + " sun" * i} for i in range(3)] + [
    {"prompt": [{"role": "user", "content": "Where is\nthe mirror?"}], "completion": "There."}
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with other weights, in a folder of its own."""
    folder = tmp_path_factory.mktemp("other")
    model: Any = AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny"))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(aliases.resolve("tiny")).save_pretrained(folder)
    return str(folder)


def run(folder: Path, starts: dict[str, str], rubric: Rubric = RUBRIC, **changes: Any) -> Any:
    (folder / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    said: list[str] = []
    options = OPTIONS.model_copy(update=changes)
    mixture = Mixture.model_validate("held-out.jsonl")
    figures = evaluate(options, starts, mixture, rubric, folder, 1, 200, Work(folder, say=said.append))
    return figures, said


def test_every_model_answers_greedily_and_is_scored(tmp_path: Path, other: str) -> None:
    figures, _ = run(tmp_path, {"base": "tiny", "sft": other, "same": "tiny"})
    model: Any = AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny")).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(aliases.resolve("tiny"))
    answers = read_jsonl(tmp_path / "answers-base.jsonl")
    for row, answer in zip(ROWS[:3], answers, strict=False):
        ids = tokenizer(row["prompt"], return_tensors="pt")
        whole = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert answer["answer"] == tokenizer.decode(whole, skip_special_tokens=True)
        scored = RUBRIC.score(answer["answer"], row)
        assert (answer["score"], answer["parts"]) == (scored.score, scored.parts)
    for label in ("base", "sft", "same"):
        rows = read_jsonl(tmp_path / f"answers-{label}.jsonl")
        assert figures[label]["prompts"] == 4
        assert figures[label]["score"] == round(sum(row["score"] for row in rows) / 4, 6)
        assert figures[label]["parts"]["max_words"] == round(
            sum(r["parts"]["max_words"] for r in rows) / 4, 6
        )
        assert figures[label]["words"] == round(sum(len(r["answer"].split()) for r in rows) / 4, 2)
        assert figures[label]["cut"] == sum(not row["finished"] for row in rows) / 4
    assert figures["base"] == figures["same"]
    assert figures["differences"]["same - base"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert list(figures["differences"]) == ["sft - base", "same - base", "same - sft"]
    assert figures["samples"][0]["answers"]["sft"] == read_jsonl(tmp_path / "answers-sft.jsonl")[0]["answer"]
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept == {key: value for key, value in figures.items() if key != "lines"}
    assert "> The signal 0 is" in figures["lines"]


def test_a_finished_model_is_not_asked_again(
    tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = trainers.evaluate.load_policy
    loaded: list[str] = []

    def watched(start: str, *rest: Any) -> Any:
        loaded.append(start)
        if len(loaded) == 2:
            raise KeyboardInterrupt  # killed between the first model and the second
        return load(start, *rest)

    monkeypatch.setattr(trainers.evaluate, "load_policy", watched)
    starts = {"base": "tiny", "sft": other}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, starts)
    figures, said = run(tmp_path, starts)
    assert loaded == ["tiny", other, other]
    assert "base: its 4 answers are there already" in said
    assert run(tmp_path, starts)[0] == figures
    assert len(loaded) == 3
    run(tmp_path, starts, max_new_tokens=4)  # another question: both are asked again
    assert loaded[3:] == ["tiny", other]


def test_intervals_are_paired() -> None:
    # A constant gain on every prompt is certain, however much the prompts differ.
    scores = {"base": [0.1, 0.9, 0.4, 0.2], "sft": [0.2, 1.0, 0.5, 0.3], "dpo": [0.2, 0.6, 0.5, 0.7]}
    found = compare(scores, resamples=4000, seed=1)
    assert found["sft - base"] == {"mean": 0.1, "low": 0.1, "high": 0.1}
    # dpo - base: gaps 0.1, -0.3, 0.1, 0.5; mean 0.4 / 4.
    gap = found["dpo - base"]
    assert gap["mean"] == 0.1
    # A draw is 0.1 (1/2), -0.3 (1/4) or 0.5 (1/4). The mean of four is -0.3 in 1 of 256 cases (0.4 %) and -0.2, which
    # is three times -0.3 and once 0.1, in 4 * 2 of 256: together 3.5 %. So 2.5 % falls on -0.2; above, alike, on 0.4.
    assert (gap["low"], gap["high"]) == (-0.2, 0.4)
    assert list(found) == ["sft - base", "dpo - base", "dpo - sft"]
    assert compare(scores, resamples=4000, seed=1) == found
    assert compare({"only": [0.5]}, resamples=100, seed=1) == {}


def test_the_table_has_labels_as_columns() -> None:
    one = {"prompts": 2, "score": 0.5, "parts": {"facts": 0.25}, "words": 4.0, "cut": 0.5}
    two = {"prompts": 2, "score": 0.75, "parts": {"facts": 1.0}, "words": 3.5, "cut": 0.0}
    figures = {
        "base": one,
        "aligned": two,
        "differences": {"aligned - base": {"mean": 0.25, "low": -0.1, "high": 0.6}},
        "samples": [
            {
                "prompt": [{"role": "user", "content": "Say\nit."}],
                "answers": {"base": "No.", "aligned": "It\nis."},
            }
        ],
    }
    assert lines(["base", "aligned"], figures, 16) == [
        "2 held-out prompts    base  aligned",
        "score                0.500    0.750",
        "  facts              0.250    1.000",
        "words                  4.0      3.5",
        "cut at 16 tokens     50.0%     0.0%",
        "aligned - base: +0.250 (95 % interval -0.100 to +0.600; 0 lies inside)",
        "",
        "> Say ⏎ it.",
        "  base: No.",
        "  aligned: It ⏎ is.",
    ]


def test_faults_are_told_before_any_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.evaluate, "load_policy", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(DataError, match=r"held-out.jsonl:1: the rubric reads the column `facts`"):
        run(tmp_path, {"base": "tiny"}, Rubric.model_validate({"checks": [{"check": "contains"}]}))
    with pytest.raises(RecipeError, match="cannot be labelled `lines`"):
        run(tmp_path, {"lines": "tiny"})
    with pytest.raises(RecipeError, match=r"same file name as another: answers-a_b\.jsonl"):
        run(tmp_path, {"a/b": "tiny", "a b": "tiny"})


def test_models_are_compared_on_the_same_prompts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = iter((512, 14))
    monkeypatch.setattr(trainers.evaluate, "context_of", lambda _: next(contexts))
    with pytest.raises(DataError, match=r"second can answer \d of the prompts, the models before it 4"):
        run(tmp_path, {"first": "tiny", "second": "tiny"})
