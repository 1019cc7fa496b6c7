"""The unlearning recipe and its benchmark: fresh questions, a judge that can say no, and a run of it all."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.unlearning.__main__ import METHODS, RECIPE, held, lines, main, table
from data.forgetting.authors import files, splits
from data.forgetting.tofu import read_split
from data.jsonl import read_jsonl
from pipelines.recipe import check, load
from trainers import aliases

AUTHORS = RECIPE.parent / "data" / "authors"


def test_the_recipes_questions_are_what_the_generator_writes():
    made = files(splits(seed=0))
    found = sorted(AUTHORS.glob("*.jsonl"))
    assert {"base", "full", "retain90", "forget10_perturbed", "holdout10"} <= {file.stem for file in found}
    for file in found:
        assert read_jsonl(file) == made[file.stem], file.name


def test_the_recipe_measures_every_method_against_a_model_that_never_knew():
    recipe = load(RECIPE)
    assert recipe.notices == ()
    stages: dict[str, Any] = {stage.name: stage for stage in recipe.stages}
    suite = stages["forgetting"]
    assert list(suite.models) == ["full", "retrain", *METHODS]
    assert suite.retrained == "retrain"
    assert {stages[name].model for name in METHODS} == {"full"}
    # Both learn the same but for the rows to forget.
    full, retrain = stages["full"].model_dump(), stages["retrain"].model_dump()
    assert {key for key in full if full[key] != retrain[key]} == {"name", "data"}
    forgotten = {one.question for one in read_split("data/authors", "forget10", RECIPE.parent)}
    learned = {row["question"] for row in read_jsonl(AUTHORS / "retain90.jsonl")}
    assert len(forgotten) == 40
    assert not forgotten & learned
    assert forgotten | learned == {row["question"] for row in read_jsonl(AUTHORS / "full.jsonl")}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("forget:", "forget: missing"),
        ("retain:", "retain: missing"),
        ("retrained: retrain", "retrained: gone"),
        ("holdout: data/authors/holdout10.jsonl", "critic: {checks: [{check: max_words, words: 3}]}"),
        ("suite: forgetting", "suite: answers"),
    ],
)
def test_what_does_not_fit_the_suite_is_told_at_its_key(tmp_path: Path, change: str, told: str):
    text = RECIPE.read_text()
    before, stage = text.split("  - name: forgetting")
    if told.endswith("missing"):
        stage = "\n".join(line for line in stage.splitlines() if not line.strip().startswith(change))
    else:
        assert change in stage
        stage = stage.replace(change, told)
    file = tmp_path / "r.yaml"
    (tmp_path / "data").symlink_to(RECIPE.parent / "data")
    file.write_text(f"{before}  - name: forgetting{stage}\n")
    faults = " ".join(f"{fault.path}: {fault.message}" for fault in check(file).faults)
    key = {"critic": "critic", "suite": "prompts"}.get(told.split(":")[0], told.split(":")[0])
    assert f"stages.forgetting.{key}" in faults or f"forgetting.{key}" in faults, faults
    assert faults.count("forgetting.") == 1, faults


def test_the_alias_says_every_name_in_few_tokens():
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(aliases.resolve("authors"))
    assert len(tokenizer) == aliases.ALIASES["authors"].vocab_size
    for seed, most in ((0, 45), (1, 60)):
        rows = splits(seed=seed)["full"]
        sizes = [len(tokenizer(row["answer"])["input_ids"]) for row in rows]
        assert max(sizes) < most
        assert tokenizer.decode(tokenizer(rows[0]["answer"])["input_ids"]) == rows[0]["answer"]


# ---------------------------------------------------------------- the judge


def figures(quality: float, utility: float) -> dict[str, Any]:
    one = {"value": 0.5, "low": 0.4, "high": 0.6}
    return {
        "forget_quality": {**one, "value": quality},
        "utility": {**one, "value": utility},
        "sets": {name: {"probability": one} for name in ("forget", "retain")},
        "extraction_strength": one,
        "auc": one,
    }


def seed(npo: tuple[float, float], ga: tuple[float, float]) -> dict[str, Any]:
    models = {"full": figures(1e-9, 0.6), "npo_rt": figures(*npo), "ga": figures(*ga)}
    return {"models": models, "held": held(models)}


def test_the_claim_is_held_or_not_part_by_part():
    good = seed((0.4, 0.55), (0.9, 0.01))
    assert list(good["held"].values()) == [True, True, True]
    assert list(seed((0.04, 0.55), (0.9, 0.01))["held"].values()) == [False, True, True]
    assert list(seed((0.4, 0.53), (0.9, 0.01))["held"].values()) == [True, False, True]  # 0.54 is 90 % of 0.6
    assert list(seed((0.4, 0.55), (0.9, 0.07))["held"].values()) == [True, True, False]


def test_the_table_has_every_seed_and_the_median():
    seeds = {
        "0": seed((0.4, 0.55), (0.9, 0.01)),
        "1": seed((0.01, 0.5), (0.8, 0.3)),
        "2": seed((0.2, 0.58), (0.7, 0.02)),
    }
    found = {
        "seeds": seeds,
        "table": table(seeds),
        "held": {k: v["held"] for k, v in seeds.items()},
        "smoke": False,
    }
    assert found["table"]["npo_rt"]["utility"] == [0.55, 0.5, 0.58]
    said = lines(found)
    row = next(line for line in said if line.startswith("npo_rt"))
    assert " ".join(row.split()) == "npo_rt 0.2 (0.4 0.01 0.2) 0.550 (0.550 0.500 0.580)"
    assert said[-3:] == [
        "npo_rt forgets: in 2 of 3 seeds",
        "npo_rt keeps utility: in 2 of 3 seeds",
        "ga collapses: in 2 of 3 seeds",
    ]
    smoke = lines(copy.deepcopy(found) | {"smoke": True})
    assert smoke[-1] == "a smoke run says nothing about the claim"


@pytest.mark.slow
def test_the_recipe_runs_from_end_to_end(tmp_path: Path):
    found = main(["--smoke", "--json", str(tmp_path / "r.json"), "--keep", str(tmp_path / "kept")])
    assert list(found["seeds"]) == ["0"]
    assert set(found["table"]) == {"full", "retrain", *METHODS}
    assert found["table"]["retrain"]["forget_quality"] == [1.0]
    assert json.loads((tmp_path / "r.json").read_text())["table"] == found["table"]
    stage = tmp_path / "kept" / "seed-0" / "runs" / "unlearning" / "forgetting"
    steps = json.loads((stage / "steps.json").read_text())
    assert list(steps) == list(METHODS)
    for one in steps.values():
        assert [point["step"] for point in one["steps"]] == [1, 2, 3, 4, 5]  # 40 rows, 8 a step, one epoch
        assert one["watched"][-1]["step"] == 5
    page = (stage / "forgetting.html").read_text()
    for section in (
        "Forget quality against utility",
        "On the way there",
        "What NPO still pushes on",
        "Taught again",
    ):
        assert section in page
