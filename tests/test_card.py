"""The card says what the run's records say, in the format that the hub reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from data.errors import RunError
from pipelines import state
from pipelines.card.writing import render, write_cards
from pipelines.recipe import load, resolved, to_json
from pipelines.report.gather import gather
from pipelines.stage import input_names
from pipelines.staleness import input_files
from tests.handmade import heliograph
from trainers import policy
from trainers.policy import Policy

RECIPE = """\
recipe: lessons
description: A model that learns from people
stages:
  - name: sft
    kind: sft
    model: example-org/base-1b
    data: [{path: example-org/chats, split: train_sft}, rows.jsonl]
    use_peft: true
    lora_r: 4
    learning_rate: 3e-4
  - {name: candidates, kind: sample, model: sft, prompts: prompts.jsonl}
  - name: people
    kind: judge
    candidates: candidates
    critic: {kind: people, votes_per_item: 2}
  - name: dpo
    kind: prefer
    model: sft
    pairs: people
    use_peft: true
    loss: {formula: Loser -> Winner, given: ~(Winner & Loser), beta: 0.5}
  - {name: merged, kind: merge, model: dpo}
  - name: score
    kind: evaluate
    models: {before: example-org/base-1b, sft: sft, ours: merged}
    prompts: held-out.jsonl
    critic: {kind: rubric, checks: [{check: max_words, words: 6}]}
"""
METRICS: dict[str, dict[str, Any]] = {
    "sft": {"rows": 90, "steps": 12, "epochs": 1.0, "train_loss": 2.25},
    "candidates": {"prompts": 40, "candidates": 160, "cut": 3},
    "people": {"prompts": 40, "pairs": 37, "votes": 81, "people": 3, "undecided": 2, "alpha_preferred": 0.612},
    "dpo": {"rows": 37, "steps": 5, "epochs": 1.0, "train_loss": 0.6, "reference_gap": 1.5e-06, "first_loss": 0.6931},
    "merged": {"adapters": 2, "logit_gap": 1e-05},
    "score": {
        "before": {"prompts": 48, "score": 0.125, "parts": {"max_words": 0.125}, "words": 20.5},
        "sft": {"prompts": 48, "score": 0.5, "parts": {"max_words": 0.5}, "words": 9.0},
        "ours": {"prompts": 48, "score": 0.75, "parts": {"max_words": 0.75}, "words": 5.5},
        "overlap": {"sft": {"prompts": 48, "exact": 1, "near": 2}, "dpo": {"prompts": 48, "exact": 0, "near": 0}},
        "score": "before 0.125 -> sft 0.500 -> ours 0.750",
        "differences": {
            "sft - before": {"mean": 0.375, "low": 0.3, "high": 0.45},
            "ours - before": {"mean": 0.625, "low": 0.5, "high": 0.75},
            "ours - sft": {"mean": 0.25, "low": -0.01, "high": 0.5},
        },
    },
}  # fmt: skip
LEDGER = {
    "name": "train", "read": {"example-org/chats": 80, "rows.jsonl": 20}, "left_out": {"rows.jsonl": 4},
    "dropped": {"the prompt alone fills max_length": {"count": 6, "examples": ["rows.jsonl:3"]}},
    "kept": 90, "cut": {"rows": 7, "tokens": 1234, "longest": 400}, "tokens": 45678, "loss_tokens": 23456,
    "longest": 1024,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of records alone: no weight is read for a card."""
    for file in ("rows.jsonl", "prompts.jsonl", "held-out.jsonl"):
        (tmp_path / file).write_text("{}\n")
    (tmp_path / "lessons.yaml").write_text(RECIPE)
    recipe = load(tmp_path / "lessons.yaml")
    folder = tmp_path / "runs" / "lessons"
    builds: dict[str, str] = {}
    for number, stage in enumerate(recipe.stages):
        out = folder / stage.name
        out.mkdir(parents=True)
        done = state.Done(
            name=stage.name,
            kind=str(stage.kind),
            build=f"{number:012x}",
            config=state.plain(resolved(stage)),
            inputs={name: builds[name] for name in input_names(stage, set(builds))},
            files=input_files(stage, tmp_path, set(builds)),
            started=state.now(),
            resolved={"dtype": {"value": "bfloat16", "why": "the GPU has it"}} if stage.name == "sft" else {},
            metrics=METRICS[stage.name],
            versions={"heliograph": "9.8.7", "torch": "2.99"},
            device="cuda: Imagined",
            commit={"id": "ab" * 20, "dirty": False},
            finished="2026-01-02T03:04:05.000+00:00",
            seconds=61.0,
            peak_memory={"gpu": 3 * 2**30},
        )
        state.write(out / state.DONE, done)
        builds[stage.name] = done.build
        if stage.kind in ("sft", "prefer", "merge"):
            adapters = [folder / name / "model" for name in ("sft", "dpo")]
            known = {"sft": adapters[:1], "dpo": adapters, "merged": []}[stage.name]
            (out / "model").mkdir()
            policy.write(Policy(base="example-org/base-1b", adapters=tuple(known)), out / "model")
    (folder / "sft" / state.LEDGER).write_text(json.dumps({"train": LEDGER}))
    (folder / "recipe.yaml").write_text(RECIPE)
    state.write_json(folder / state.RECIPE, to_json(recipe))
    return folder


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_only_final_models_have_a_card_beside_them(run: Path) -> None:
    (run / "dpo" / "card.md").write_text("of an earlier, shorter recipe")
    assert write_cards(run) == [run / "merged" / "card.md"]
    assert sorted(path.parent.name for path in run.glob("*/card.md")) == ["merged"]


def test_the_front_matter_is_the_hubs(run: Path) -> None:
    card = ModelCard.load(write_cards(run)[0])
    data = card.data.to_dict()
    assert data["base_model"] == "example-org/base-1b"
    assert data["base_model_relation"] == "finetune"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["datasets"] == ["example-org/chats"]
    assert data["tags"] == ["heliograph", "sft", "lora", "prefer", "merge"]
    assert "license" not in data, "nobody told one"
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert index["name"] == "lessons-merged"
    assert result["dataset"] == {"name": "held-out.jsonl (score, held out)", "type": "held-out"}
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert found == {"score": 0.75, "parts.max_words": 0.75, "words": 5.5}
    assert card.data.eval_results is not None


def test_an_adapters_card_names_its_base_and_library(run: Path) -> None:
    card = ModelCard(render(gather(run), "sft", exported={"form": "adapter", "checked": {
        "prompts": 3, "tokens": 72, "equal": True, "near_ties": 0}}))  # fmt: skip
    assert card.data.library_name == "peft"
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert "A PEFT adapter for `example-org/base-1b`." in card.text
    assert "72 greedy tokens to 3 prompts are those of the run's model" in card.text
    assert "2 PEFT adapters, stacked, for `example-org/base-1b`" in render(gather(run), "dpo")


def test_lineage_goes_back_to_the_votes(run: Path) -> None:
    text = section(render(gather(run), "merged"), "Lineage")
    assert "`example-org/base-1b` → **sft** → **dpo** → **merged**" in text
    rows = [line.split(" | ")[0].lstrip("| ") for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["stage", "sft", "candidates", "people", "dpo", "merged"]
    assert "| people | judge | candidates | 1 min 01 s | cuda: Imagined | `000000000002` |" in text


def test_the_ledger_adds_up_on_the_card(run: Path) -> None:
    text = section(render(gather(run), "merged"), "Data")
    read, left_out, dropped, kept = 100, 4, 6, 90
    assert read == left_out + dropped + kept
    row = "| sft | train | 100 | 4 | 6 | 90 | 7 rows, 1234 tokens | 45,678 | 23,456 | 1,024 |"
    assert row in text
    assert "- sft, train: dropped 6: the prompt alone fills max_length" in text
    assert "- candidates: prompts 40, candidates 160, cut 3" in text


def test_the_loss_is_told_as_it_was_stated(run: Path) -> None:
    text = section(render(gather(run), "merged"), "Training")
    assert "formula: Loser -> Winner\ngiven: ~(Winner & Loser)\nbeta: 0.5\n" in text
    assert "| reference_gap | 1.5e-06 |" in text
    assert "| first_loss | 0.6931 |" in text
    sft = text.split("### dpo")[0]
    assert "| `learning_rate` | `0.0003` |" in sft
    assert "| `lora_r` | `4` |" in sft
    assert "`lora_dropout`" not in text, "a default that nobody asks for"


def test_held_out_figures_stand_beside_the_others_with_their_intervals(run: Path) -> None:
    text = section(render(gather(run), "merged"), "Held-out results")
    assert "### score: 48 held-out prompts" in text
    assert "|  | before | sft | **ours** |" in text
    assert "| words | 20.5 | 9 | 5.5 |" in text
    assert "- ours - before: +0.625 (95 % interval +0.500 to +0.750)" in text
    assert "- ours - sft: +0.250 (95 % interval -0.010 to +0.500; 0 lies inside)" in text
    assert "sft - before" not in text
    limits = section(render(gather(run), "merged"), "Limits")
    assert "- score: 3 held-out prompts stand in the rows of sft, or nearly so." in limits
    assert "No stage of the run measured this model" in section(render(gather(run), "dpo"), "Limits")


def test_figures_with_intervals_of_their_own_keep_them(run: Path) -> None:
    """As the forgetting suite tells them: below `models`, each with its interval."""
    file = run / "score" / state.DONE
    done = json.loads(file.read_text())
    told = {
        "utility": {"value": 0.5, "low": 0.25, "high": 0.75},
        "sets": {"forget": {"rouge": {"value": 0.125}}},
    }
    done["metrics"] = {
        "quality": "ours",
        "questions": 9,
        "models": {"ours": told},
        "attacks": {"ours": {"steps": 3}},
    }
    file.write_text(json.dumps(done))
    text = render(gather(run), "merged")
    found = section(text, "Held-out results")
    assert "| utility | 0.5 (0.25 to 0.75) |" in found
    assert "| sets.forget.rouge | 0.125 |" in found
    assert "steps" not in found
    metrics = ModelCard(text).data.to_dict()["model-index"][0]["results"][0]["metrics"]
    assert [(one["type"], one["value"], one.get("args")) for one in metrics] == [
        ("utility", 0.5, {"low": 0.25, "high": 0.75}),
        ("sets.forget.rouge", 0.125, None),
    ]


def test_of_many_models_a_card_shows_those_that_matter_to_its_own(run: Path) -> None:
    file = run / "score" / state.DONE
    done = json.loads(file.read_text())
    for label in ("cousin", "uncle"):
        done["metrics"][label] = {"prompts": 48, "score": 0.25}
    file.write_text(json.dumps(done))
    found = section(render(gather(run), "merged"), "Held-out results")
    assert "|  | before | sft | **ours** |" in found
    assert "Measured beside it too: cousin, uncle." in found


def test_people_auto_versions_and_the_way_to_do_it_again(run: Path) -> None:
    row = {"command": "heliograph run lessons.yaml stages.sft.lora_r=4", "time": state.now()}
    (run / state.COMMANDS).write_text(json.dumps(row) + "\n")
    text = render(gather(run), "merged")
    people = section(text, "People")
    for line in ("| people | 3 |", "| votes | 81 |", "| pairs | 37 |", "| alpha_preferred | 0.612 |"):
        assert line in people
    assert "| sft | `dtype` | bfloat16 | the GPU has it |" in section(text, "Chosen by `auto`")
    again = section(text, "Do it again")
    assert "$ heliograph run lessons.yaml stages.sft.lora_r=4\n" in again
    assert RECIPE.rstrip() in again
    made = section(text, "Made with")
    assert "heliograph 9.8.7, torch 2.99." in made
    assert "Device: cuda: Imagined. Peak memory: gpu 3.00 GiB. Finished 2026-01-02T03:04:05Z." in made
    assert f"`{'ab' * 20}`." in made


def test_a_base_that_is_an_alias_brings_its_origin_and_licence(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HELIOGRAPH_CACHE", str(tmp_path / "cache"))
    text = (run / state.RECIPE).read_text().replace("example-org/base-1b", "smollm2-135m")
    (run / state.RECIPE).write_text(text)
    for name in ("sft", "dpo", "merged"):
        done = run / name / state.DONE
        done.write_text(done.read_text().replace("example-org/base-1b", "smollm2-135m"))
    assert ModelCard(render(gather(run), "merged")).data.base_model is None, (
        "not built here, so nothing is known"
    )
    facts = tmp_path / "cache" / "models" / "smollm2-135m-1" / "heliograph.json"
    facts.parent.mkdir(parents=True)
    facts.write_text(
        json.dumps({"origin": "HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit weights", "license": "Apache-2.0"})
    )
    data = ModelCard(render(gather(run), "merged")).data
    assert (data.base_model, data.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert "made from `smollm2-135m` (HuggingFaceTB/SmolLM2-135M-Instruct)." in render(gather(run), "merged")
    adapter = ModelCard(render(gather(run), "sft")).data
    assert adapter.base_model is None, "the alias' weights were rounded: the hub's are others"


def test_an_unfinished_stage_has_none(run: Path) -> None:
    (run / "merged" / state.DONE).unlink()
    with pytest.raises(RunError, match="`merged` has no finished model"):
        render(gather(run), "merged")
    assert write_cards(run) == [run / "dpo" / "card.md"]


def test_a_run_that_ends_leaves_it(run: Path) -> None:
    done = heliograph("run", "lessons.yaml", "--runs-dir", "runs", cwd=run.parent.parent)
    assert done.returncode == 0, done.stderr
    assert "card: runs/lessons/merged/card.md" in done.stdout
    text = (run / "merged" / "card.md").read_text()
    assert "run lessons.yaml --runs-dir runs\n```" in section(text, "Do it again")
