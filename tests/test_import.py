"""Files of other projects as recipes: every value of the recipe by value, and no key lost on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.errors import RecipeError
from pipelines.importing import axolotl, llama_factory, trl
from pipelines.importing.docs import filled
from pipelines.importing.engine import SOURCES, Imported, convert
from pipelines.importing.rules import Put, Rule
from pipelines.importing.verb import import_file
from pipelines.importing.writing import write
from pipelines.reading.layers import ANY_KIND
from pipelines.reading.yaml_source import read
from pipelines.recipe import check
from pipelines.stages.prefer import Prefer
from pipelines.stages.sft import Sft
from tests.handmade import environment
from tests.test_light_start import HEAVY, SPY
from trainers.training.trl_fields import fields

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "imports"

EXPECTED: dict[str, dict[str, Any]] = {
    "handbook-old-dpo": {
        "name": "dpo", "kind": "prefer", "model": "example-org/chat-7b-sft",
        "pairs": [{"path": "example-org/feedback_binarized", "split": "train_prefs"},
                  {"path": "example-org/more_feedback", "split": "train_prefs"}],
        "eval_pairs": [{"path": "example-org/feedback_binarized", "split": "test_prefs"},
                       {"path": "example-org/more_feedback", "split": "test_prefs"}],
        "dtype": "float16", "use_peft": True, "load_in_4bit": True, "lora_r": 16, "lora_alpha": 16,
        "lora_target_modules": ["q_proj", "v_proj"], "bf16": True, "beta": 0.01,
        "training": {"eval_strategy": "steps", "eval_steps": 100,
                     "gradient_checkpointing_kwargs": {"use_reentrant": False}, "optim": "paged_adamw_32bit"},
        "gradient_accumulation_steps": 1, "gradient_checkpointing": True, "learning_rate": 5e-6,
        "logging_steps": 10, "loss_type": "sigmoid", "lr_scheduler_type": "cosine", "max_length": 1024,
        "num_train_epochs": 1, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8,
        "save_steps": 100, "save_total_limit": 1, "seed": 42, "warmup_steps": 0.1,
    },
    "handbook-new-sft": {
        "name": "sft", "kind": "sft", "model": "example-org/base-3b", "model_revision": "main",
        "data": [{"path": "example-org/chats_200k", "split": "train_sft"},
                 {"path": "example-org/chats_200k", "split": "test_sft"},
                 {"path": "example-org/tables", "name": "SFT"}],
        "dtype": "bfloat16", "attn_implementation": "flash_attention_2", "assistant_only_loss": True,
        "bf16": True, "gradient_accumulation_steps": 2, "gradient_checkpointing": True,
        "training": {"gradient_checkpointing_kwargs": {"use_reentrant": True},
                     "lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "use_liger_kernel": True},
        "learning_rate": 2e-5, "logging_steps": 1, "lr_scheduler_type": "cosine_with_min_lr",
        "max_grad_norm": 0.2, "max_length": 4096, "max_steps": -1, "num_train_epochs": 1, "packing": True,
        "per_device_train_batch_size": 16, "report_to": ["wandb"], "seed": 42, "warmup_steps": 0.03,
    },
    "trl-new-sft": {
        "name": "sft", "kind": "sft", "model": "example-org/base-1b",
        "data": [{"path": "example-org/instructions", "name": "en", "weight": 0.75},
                 {"path": "data/mine.jsonl", "weight": 0.25}],
        "dtype": "bfloat16", "attn_implementation": "sdpa", "use_peft": True, "lora_r": 32, "lora_alpha": 16,
        "lora_dropout": 0.05, "learning_rate": 2e-4, "num_train_epochs": 1, "packing": True,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "gradient_checkpointing": True,
        "logging_steps": 25, "training": {"neftune_noise_alpha": 5},
    },
    "trl-old-dpo": {
        "name": "dpo", "kind": "prefer", "model": "example-org/chat-1b",
        "pairs": [{"path": "example-org/preferences"}],
        "eval_pairs": [{"path": "example-org/preferences", "split": "validation"}],
        "dtype": "bfloat16", "attn_implementation": "flash_attention_2", "beta": 0.05, "label_smoothing": 0.1,
        "loss_type": "cdpo", "learning_rate": 5e-7, "max_length": 1024, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4, "warmup_steps": 0.1, "num_train_epochs": 3.0,
        "training": {"eval_strategy": "steps", "eval_steps": 50},
    },
    "trl-kto": {
        "name": "kto", "kind": "prefer", "model": "example-org/chat-1b", "loss_type": "kto",
        "pairs": [{"path": "example-org/kto-mix"}], "dtype": "float32", "desirable_weight": 1.0,
        "undesirable_weight": 1.33, "beta": 0.1, "learning_rate": 5e-7, "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
    },
    "axolotl-sft": {
        "name": "sft", "kind": "sft", "model": "example-org/base-7b",
        "data": [{"path": "example-org/chats", "columns": {"messages": "conversations"}},
                 {"path": "data/mine.jsonl"}],
        "load_in_8bit": False, "load_in_4bit": True, "use_peft": True, "max_length": 4096, "packing": True,
        "lora_r": 32, "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_modules": "all-linear",
        "gradient_accumulation_steps": 4, "per_device_train_batch_size": 2, "num_train_epochs": 4,
        "training": {"optim": "paged_adamw_32bit", "tf32": False}, "lr_scheduler_type": "cosine",
        "learning_rate": 2e-4, "gradient_checkpointing": True, "logging_steps": 1,
        "attn_implementation": "flash_attention_2", "warmup_steps": 10, "weight_decay": 0.0,
        "assistant_only_loss": True,
    },
    "axolotl-dpo": {
        "name": "dpo", "kind": "prefer", "model": "example-org/chat-8b",
        "pairs": [{"path": "example-org/pairs", "columns": {"prompt": "question"}},
                  {"path": "example-org/chat-pairs"}],
        "eval_pairs": [{"path": "example-org/chat-pairs", "split": "test"}],
        "beta": 0.2, "use_peft": True, "lora_r": 32, "lora_alpha": 16,
        "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "max_length": 2048,
        "gradient_accumulation_steps": 4, "num_train_epochs": 1, "learning_rate": 5e-6,
        "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5], "per_device_train_batch_size": 1,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
    },
    "llama-factory-sft": {
        "name": "sft", "kind": "sft", "model": "example-org/chat-8b", "trust_remote_code": True,
        "data": [{"path": "example-org/chats", "name": "en", "split": "train_sft", "limit": 1000},
                 {"path": "data/mine.jsonl", "limit": 1000,
                  "columns": {"prompt": "question", "completion": "answer"}}],
        "load_in_4bit": True, "use_bnb_nested_quant": True, "use_peft": True, "lora_target_modules": "all-linear",
        "lora_r": 8, "lora_alpha": 16, "max_length": 2048, "logging_steps": 10, "save_steps": 500,
        "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 8,
        "learning_rate": 1e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "bf16": True,
        "num_train_epochs": 3.0, "assistant_only_loss": True,
    },
    "llama-factory-dpo": {
        "name": "dpo", "kind": "prefer", "model": "example-org/chat-8b",
        "pairs": [{"path": "example-org/preferences", "columns": {"prompt": "instruction"}}],
        "eval_pairs": [{"path": "example-org/preferences", "split": "test", "columns": {"prompt": "instruction"}}],
        "attn_implementation": "flash_attention_2", "use_peft": False, "beta": 0.1, "loss_type": "cdpo",
        "sft_weight": 0.2, "label_smoothing": 0.05, "max_length": 1024, "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8, "learning_rate": 5e-6, "num_train_epochs": 3.0,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "bf16": True,
    },
}  # fmt: skip
BY_HAND: dict[str, set[str]] = {
    "handbook-old-dpo": {"dataset_mixer.example-org/more_feedback"},
    "handbook-new-sft": {
        "chat_template", "eos_token", "dataset_mixture.datasets[1].split", "dataset_mixture.datasets[2].weight",
        "dataset_mixture.test_split_size",
    },
    "trl-new-sft": {"eos_token", "lora_target_modules"},
    "trl-old-dpo": set(),
    "trl-kto": set(),
    "axolotl-sft": {"chat_template", "special_tokens", "val_set_size", "data"},
    "axolotl-dpo": {"datasets[0].type"},
    "llama-factory-sft": {"template", "val_size", "data"},
    "llama-factory-dpo": {
        "template", "dataset: preferences.columns", "eval_dataset: preferences_held_out.columns",
    },
}  # fmt: skip
UNKNOWN = {
    "trl-new-sft": {"made_up_key"},
    "trl-old-dpo": {"no_remove_unused_columns"},
    "axolotl-sft": {"lora_qkv_kernels"},
}


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> Imported:
    monkeypatch.chdir(FILES)
    return convert(Path(f"{name}.yaml"), None, None)


@pytest.fixture(params=EXPECTED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_there_are_files_of_every_project_for_both_kinds() -> None:
    for source in ("handbook", "trl", "axolotl", "llama-factory"):
        assert {EXPECTED[name]["kind"] for name in EXPECTED if name.startswith(source)} == {"sft", "prefer"}
    assert {path.stem for path in FILES.glob("*.yaml")} == set(EXPECTED)


def test_the_stage_by_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = write(imported(name, monkeypatch), name, FILES)
    assert {**found.imported.stage} == EXPECTED[name]
    # ... and as our reader takes it from the text.
    parsed = read(found.text.encode()).value["stages"][0]
    for key in ("data", "pairs", "eval_pairs"):
        if key in parsed:
            several = parsed[key] if isinstance(parsed[key], list) else [parsed[key]]
            parsed[key] = [{"path": one} if isinstance(one, str) else one for one in several]
    assert parsed == EXPECTED[name]


def test_what_is_written_validates_and_says_what_is_left_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(FILES)
    to = tmp_path / "mine.yaml"
    list(import_file(Path(f"{name}.yaml"), None, None, to, as_json=False))
    checked = check(to)
    assert checked.faults == ()
    assert checked.notices == ()
    assert checked.recipe is not None
    assert checked.recipe.name == "mine"
    head = to.read_text().split("\nrecipe:")[0]
    for key in BY_HAND[name]:
        assert f"#   - {key}" in head


def test_every_key_of_the_file_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = imported(name, monkeypatch)
    values = read((FILES / f"{name}.yaml").read_bytes()).value
    told = {one.key for one in found.told} | set(found.empty)
    for key in values:
        assert key in told or any(one.startswith((f"{key}[", f"{key}.", f"{key}:")) for one in told), key
    assert {one.key for one in found.told if one.verdict == "unknown"} == UNKNOWN.get(name, set())
    by_hand = {one.key for one in found.told if one.verdict == "by hand"}
    assert by_hand == BY_HAND[name] | {"(batch)"}
    for one in found.told:
        assert one.why or one.verdict in ("kept", "renamed", "unknown", "default"), one
        if one.verdict in ("kept", "renamed", "changed") and one.to:
            parts = {"kind", "path", "split", "columns", "weight", "limit", "training"}
            assert one.to.split(".")[0].split(",")[0] in {*ANY_KIND, *parts}


def test_the_source_is_told_by_its_keys(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = {"handbook": "alignment-handbook", "trl": "trl", "axolotl": "axolotl", "llama": "llama-factory"}
    assert imported(name, monkeypatch).source.name == starts[name.split("-")[0]]


def one(tmp_path: Path, text: str, **how: Any) -> Imported:
    file = tmp_path / "theirs.yaml"
    file.write_text(text)
    return convert(file, how.get("source"), how.get("method"))


TRL = "model_name_or_path: o/m\ndataset_name: o/d\n"
AXOLOTL = "base_model: o/m\nmicro_batch_size: 2\nlearning_rate: 1e-4\ndatasets:\n  - {path: o/d, type: chat_template}\n"


@pytest.mark.parametrize(
    ("text", "values", "told"),
    [
        (
            TRL + "rpo_alpha: 0.5\n",
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
            "rpo_alpha",
        ),
        (TRL + "loss_type: aot_pair\n", {"loss_type": "aot"}, "loss_type"),
        (
            TRL + "loss_type: sigmoid\nlabel_smoothing: 0.2\n",
            {"loss_type": "cdpo", "label_smoothing": 0.2},
            "(loss)",
        ),
        (
            TRL + "loss_type: simpo\nsimpo_gamma: 1.0\n",
            {"loss_type": "simpo", "sft_weight": 1.0},
            "sft_weight",
        ),
        (TRL + "loss_type: simpo\ncpo_alpha: 0.0\n", {"loss_type": "simpo", "sft_weight": 0.0}, "cpo_alpha"),
        (TRL + "packing: false\nwarmup_ratio: 0.25\n", {"warmup_steps": 0.25}, "warmup_ratio"),
        (TRL + "packing: false\nno_cuda: true\n", {"training": {"use_cpu": True}}, "no_cuda"),
        (AXOLOTL + "rl: ipo\n", {"loss_type": "ipo", "kind": "prefer"}, "rl"),
        (AXOLOTL + "rl: orpo\norpo_alpha: 0.2\n", {"loss_type": "orpo", "beta": 0.2}, "orpo_alpha"),
        (
            AXOLOTL + "rl: kto\nkto_undesirable_weight: 2\n",
            {"loss_type": "kto", "undesirable_weight": 2},
            "rl",
        ),
        (AXOLOTL + "train_on_inputs: true\n", {"max_length": 512}, "train_on_inputs"),
        (AXOLOTL + "fp16: true\n", {"bf16": False, "training": {"fp16": True}}, "fp16"),
    ],
)
def test_meanings(text: str, values: dict[str, Any], told: str, tmp_path: Path) -> None:
    found = one(tmp_path, text)
    assert {key: found.stage.get(key) for key in values} == values
    assert told in {line.key for line in found.told}


def test_learning_every_turn_takes_the_assistants_loss_away(tmp_path: Path) -> None:
    assert one(tmp_path, AXOLOTL).stage["assistant_only_loss"] is True
    assert "assistant_only_loss" not in one(tmp_path, AXOLOTL + "train_on_inputs: true\n").stage


def test_dropout_that_was_never_on_is_left_out_of_preference_training(tmp_path: Path) -> None:
    lora = "use_peft: true\nlora_dropout: 0.05\n"
    assert one(tmp_path, TRL + lora, method="sft").stage["lora_dropout"] == 0.05
    assert "lora_dropout" not in one(tmp_path, TRL + lora, method="dpo").stage
    kept = one(tmp_path, TRL + lora + "disable_dropout: false\n", method="dpo").stage
    assert kept["lora_dropout"] == 0.05


def test_the_method_comes_from_keys_then_the_folder_then_hints(tmp_path: Path) -> None:
    assert one(tmp_path, TRL + "beta: 0.1\n").method == "dpo"
    (tmp_path / "orpo").mkdir()
    found = one(tmp_path / "orpo", TRL + "beta: 0.1\n")
    assert (found.method, found.how, found.stage["loss_type"]) == ("orpo", "its folder `orpo`", "orpo")
    assert one(tmp_path / "orpo", TRL + "desirable_weight: 1\n").method == "kto"
    assert one(tmp_path / "orpo", TRL, method="cpo").stage["loss_type"] == "cpo"
    with pytest.raises(RecipeError, match=r"--method sft\|dpo"):
        one(tmp_path, TRL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages: []\n", "recipe of ours already"),
        ("a: 1\n", "whose file this is cannot be told"),
        (AXOLOTL + "rl: grpo\n", "`rl: grpo` has no counterpart"),
        (AXOLOTL + "reward_model: true\n", "reward models"),
        ("stage: ppo\nmodel_name_or_path: o/m\n", "`stage: ppo` has no counterpart"),
        ("stage: dpo\npref_loss: kto_pair\nmodel_name_or_path: o/m\n", "kto_pair"),
        ("stage: sft\nfinetuning_type: freeze\nmodel_name_or_path: o/m\n", "would train other weights"),
        ("stage: sft\ndataset: a\nmodel_name_or_path: o/m\n", "dataset_info.json"),
        (TRL + "reward_funcs: [a]\n", "belongs to a trainer"),
        ("model_name_or_path: o/m\npacking: true\ndataset_train_split: train\n", "no training data"),
        ("a: 1\na: 2\n", "stands twice"),
        ("model_name_or_path: o/m\npacking: true\ndataset_mixer: [o/d]\n", "another shape"),
        ("base_model: o/m\nmicro_batch_size: 1\ndatasets: o/d\n", "another shape"),
    ],
)
def test_what_cannot_be_imported_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        one(tmp_path, text)


def test_what_our_reader_refuses_is_taken_out_and_told_with_its_words(tmp_path: Path) -> None:
    found = one(tmp_path, TRL + "packing: true\nlr_scheduler_type: cosinus\nlearning_rate: 3\n")
    made = write(found, "r", tmp_path)
    by_hand = {line.key: line.why for line in made.told if line.verdict == "by hand"}
    assert "cosinus" in by_hand["lr_scheduler_type"]
    assert "learning_rate" in by_hand
    assert "learning_rate:" not in made.text.split("stages:")[1]


def test_local_paths_start_at_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "recipes").mkdir()
    found = one(
        tmp_path,
        "model_name_or_path: o/m\ndatasets: [{path: json, data_files: rows.jsonl}]\npacking: false\n",
    )
    made = write(found, "r", tmp_path / "recipes")
    assert "data: ../rows.jsonl" in made.text
    missing = one(
        tmp_path, "model_name_or_path: o/m\ndatasets: [{path: json, data_files: no.jsonl}]\npacking: false\n"
    )
    made = write(missing, "r", tmp_path)
    assert any('there is no file "no.jsonl"' in line.why for line in made.told if line.verdict == "by hand")


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text(TRL + "packing: true\n")
    with pytest.raises(RecipeError, match="never writes over"):
        list(import_file(tmp_path / "theirs.yaml", None, None, tmp_path / "theirs.yaml", as_json=False))


def test_without_a_target_what_is_printed_is_a_recipe_with_the_account_in_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text(TRL + "packing: true\nnonsense: 1\n")
    text = "\n".join(import_file(Path("theirs.yaml"), None, None, None, as_json=False))
    assert read(text.encode()).value["stages"][0]["packing"] is True
    assert "# unknown" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs.yaml"]
    value = json.loads("\n".join(import_file(Path("theirs.yaml"), None, None, None, as_json=True)))
    assert {"key": "nonsense", "verdict": "unknown", "value": 1, "to": None, "why": ""} in value["keys"]


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda one: one.name)
def test_the_tables_name_settings_that_there_are(source: Any) -> None:
    ours = {*Sft.model_fields, *Prefer.model_fields}
    theirs = {*fields("SFTConfig"), *fields("DPOConfig")}
    for key, rule in source.rules.items():
        assert isinstance(rule, Rule)
        if rule.to is not None and rule.to != "kind":
            to = rule.to.removeprefix("training.")
            assert to in (theirs if rule.to.startswith("training.") else ours), (key, rule.to)
        assert rule.to or rule.why or rule.read, key
        for value in (True, False) if rule.read else ():
            try:
                became = rule.read(value)
            except RecipeError:
                continue
            for to in became.values if isinstance(became, Put) else ():
                assert to.removeprefix("training.") in ours | theirs, (key, to)
    for default in source.defaults:
        assert default.to in ours
        if default.value is not None and not default.methods and default.to != "learning_rate":
            kinds = [
                kind.model_fields[default.to] for kind in (Sft, Prefer) if default.to in kind.model_fields
            ]
            assert all(default.value != field.default for field in kinds), "no default that differs"


def test_no_rule_hides_a_key_of_ours_that_means_the_same() -> None:
    for rules in (trl.RULES, llama_factory.RULES):
        for key, rule in rules.items():
            if key in Prefer.model_fields and rule.to is None:
                assert rule.why or rule.read, key
    assert axolotl.RULES["lora_r"].to == "lora_r"


def test_the_page_is_fresh() -> None:
    """`python -m pipelines.importing.docs docs/coming-from.md` after a change of a table."""
    page = (ROOT / "docs" / "coming-from.md").read_text()
    assert filled(page) == page
    assert page.count("<!-- begin ") == page.count("<!-- end ") == len(SOURCES) + 2


def test_the_verb_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPY % (HEAVY,), "import", "axolotl-sft.yaml", "--json"],
        cwd=FILES, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "HEAVY []"
    assert json.loads(done.stdout)["from"] == "axolotl"


def test_a_method_that_follows_from_what_is_left_out_says_so(tmp_path: Path):
    assert one(tmp_path, AXOLOTL).how == "`rl`, which is left out"
    assert one(tmp_path, AXOLOTL + "rl: dpo\n").how == "`rl`"
