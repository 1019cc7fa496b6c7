"""Old names: read as today's with a notice where the meaning is the same, refused with what to write elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.reading.layers import ANY_KIND
from pipelines.reading.old_names import CHANGES, NEW_NAMES, REFUSED, Refused, Renamed, modern
from pipelines.recipe import Checked, check
from pipelines.stages.prefer import Prefer
from pipelines.stages.sft import Sft
from trainers.training.trl_fields import fields


def prefer(tmp_path: Path, line: str, *, kind: str = "prefer") -> Checked:
    """One stage with one more line in it, which stands in line 6."""
    data = "pairs" if kind == "prefer" else "data"
    model = "" if "model_name" in line else "    model: tiny\n"
    file = tmp_path / "r.yaml"
    file.write_text(f"stages:\n  - name: a\n    kind: {kind}\n{model}    {data}: o/n\n    {line}\n")
    return check(file)


@pytest.mark.parametrize(
    ("line", "key", "value", "words"),
    [
        ("torch_dtype: bfloat16", "dtype", "bfloat16", "read as `dtype`"),
        ("torch_dtype: torch.float16", "dtype", "float16", "read as `dtype`"),
        ("max_seq_length: 77", "max_length", 77, "read as `max_length`"),
        ("warmup_ratio: 0.1", "warmup_steps", 0.1, "read as `warmup_steps: 0.1`, a share of all steps"),
        ("use_flash_attention_2: true", "attn_implementation", "flash_attention_2", "flash_attention_2"),
        ("evaluation_strategy: 'no'", "training", {"eval_strategy": "no"}, "`training.eval_strategy`"),
        ("training: {evaluation_strategy: 'no'}", "training", {"eval_strategy": "no"}, "eval_strategy"),
        ("training: {warmup_ratio: 0.1}", "warmup_steps", 0.1, "warmup_steps"),
        ("no_cuda: true", "training", {"use_cpu": True}, "use_cpu"),
        ("adafactor: true", "training", {"optim": "adafactor"}, "optim"),
        ("bnb_4bit_use_double_quant: true", "use_bnb_nested_quant", True, "use_bnb_nested_quant"),
    ],
)
def test_the_same_meaning_is_read_with_one_line(
    tmp_path: Path, line: str, key: str, value: object, words: str
) -> None:
    checked = prefer(tmp_path, line)
    assert checked.faults == ()
    assert checked.recipe is not None
    assert getattr(checked.recipe.stages[0], key) == value
    assert len(checked.notices) == 1
    assert checked.notices[0].startswith(f"{tmp_path / 'r.yaml'}:6:")
    assert words in checked.notices[0]


def test_trls_own_name_of_the_model_needs_no_notice(tmp_path: Path) -> None:
    checked = prefer(tmp_path, "model_name_or_path: tiny")
    assert (checked.faults, checked.notices) == ((), ())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_prompt_length: 512", "`max_length` bounds prompt and completion together"),
        ("use_flash_attention_2: false", "write `attn_implementation: sdpa`"),
        ("warmup_ratio: 1.5", "write `warmup_steps:`"),
        ("overwrite_output_dir: true", "`--from STAGE`"),
        ("output_dir: out", "`--name`"),
        ("dataset_mixer: {o/a: 1.0, o/b: 1.0}", "write `pairs: [o/a, o/b]`"),
        ("dataset_mixer: {o/a: 0.5, o/b: 1.0}", "`pairs: [{path: o/a, limit: ROWS}, o/b]`"),
        (
            "dataset_mixture: {datasets: [{id: o/a, config: c, split: s, weight: 0.5}]}",
            "`pairs: [{path: o/a, name: c, split: s, weight: 0.5}]`",
        ),
        ("dataset_name: o/a", "write `pairs: o/a`"),
        ("rpo_alpha: 1.0", "`loss_type: [sigmoid, sft]`"),
        ("push_to_hub: true", "never pushes"),
        ("save_strategy: epoch", "`save_steps`"),
        ("training: {save_strategy: epoch}", "`save_steps`"),
        ("training: {output_dir: x}", "`--runs-dir`"),
        ("training: {resume_from_checkpoint: x}", "the same command goes on"),
        ("training: {model_init_kwargs: {}}", "write `dtype`"),
        ("training: {precompute_ref_log_probs: true}", "the policy that the stage starts from"),
        ("training: {sync_ref_model: true}", "the policy that the stage starts from"),
        ("training: {padding_free: true}", "TRL ignores it"),
        ("training: {seed: 3}", "write `seed` on the stage itself"),
        ("training: {save_steps: 3}", "write `save_steps` on the stage itself"),
        ("training: {beta: 0.2}", "write `beta` on the stage itself"),
    ],
)
def test_another_meaning_is_refused_with_what_to_write(tmp_path: Path, line: str, words: str) -> None:
    checked = prefer(tmp_path, line)
    assert len(checked.faults) == 1
    fault = checked.faults[0]
    assert (fault.line, words in fault.message) == (6, True), fault.message
    assert fault.column == (16 if line.startswith("training") else 5)


def test_an_old_name_beside_the_new_one_is_a_fault(tmp_path: Path) -> None:
    checked = prefer(tmp_path, "torch_dtype: float32\n    dtype: float32")
    assert [(f.line, f.path) for f in checked.faults] == [(6, "stages.a.torch_dtype")]
    assert "`dtype`, which stands here too" in checked.faults[0].message


def test_a_wrong_value_of_an_old_name_is_told_where_it_stands(tmp_path: Path) -> None:
    checked = prefer(tmp_path, "torch_dtype: float12")
    assert [(f.line, f.column, f.path) for f in checked.faults] == [(6, 18, "stages.a.torch_dtype")]


def test_an_override_wins_over_the_old_name_in_the_file(tmp_path: Path) -> None:
    prefer(tmp_path, "torch_dtype: bfloat16")
    for override in ("stages.a.dtype=float32", "stages.a.torch_dtype=float32"):
        checked = check(tmp_path / "r.yaml", [override])
        assert checked.recipe is not None
        assert checked.recipe.stages[0].model_dump()["dtype"] == "float32"


def test_the_table_fits_the_installed_trl() -> None:
    trl = {*fields("SFTConfig"), *fields("DPOConfig")}
    for old, new in NEW_NAMES.items():
        assert old not in trl, f"{old} is no old name here"
        assert old not in ANY_KIND
        assert new[0] in ANY_KIND
        assert len(new) == 1 or new[1] in trl
    for old in CHANGES:
        assert old not in trl
        found = modern(old, True if old != "warmup_ratio" else 0.1, Sft.model_fields, training=False)
        assert isinstance(found, Renamed)
        assert found.trail[-1] in {*trl, *ANY_KIND}
        if found.trail[0] == "training":
            assert fields("SFTConfig")[found.trail[1]].refusal(found.value) is None
    assert not set(REFUSED) & set(ANY_KIND)


def test_what_the_stages_set_themselves_cannot_be_set_under_training() -> None:
    # trainers/training/arguments.py and the trainers pass these to TRL; `training:` comes last there and would win.
    for key in ("output_dir", "save_strategy", "max_length", "seed", "beta", "loss_type", "dataset_kwargs",
                "precompute_ref_log_probs", "logging_nan_inf_filter", "report_to", "bf16"):  # fmt: skip
        assert isinstance(modern(key, 1, Prefer.model_fields, training=True), Refused), key


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("load_best_model_at_end: true", "the last policy is the stage's"),
        ("packing_strategy: wrapped", "cut rows"),
    ],
)
def test_settings_that_would_not_do_what_they_say_are_refused(key: str, said: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n')
    recipe.write_text(
        "recipe: r\nstages:\n"
        f"  - {{name: s, kind: sft, model: tiny, data: d.jsonl, training: {{{key}}}}}\n"
        "  - {name: p, kind: prefer, model: s, pairs: d.jsonl, label_smoothing: 0.1}\n"
    )
    faults = [fault.message for fault in check(recipe).faults]
    assert len(faults) == 2
    assert said in faults[0]
    assert "write `loss_type: cdpo`" in faults[1]
