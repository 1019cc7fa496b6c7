"""A merged model is the base its adapters were trained on, plus the adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from data.errors import ModelError
from tests.training import HOW, run_prefer, run_sft
from trainers.merge import merge
from trainers.models import load_policy
from trainers.work import Work


def work(folder: Path) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(out=folder, say=lambda _: None)


@pytest.mark.parametrize("how", ["lora", "qlora"])
def test_merged_logits_are_those_of_base_and_adapters(how: str, tmp_path: Path):
    run_sft(tmp_path / "sft", learning_rate=1e-2, **HOW[how])
    keep = {k: v for k, v in HOW[how].items() if k != "load_in_4bit"}
    run_prefer(tmp_path / "dpo", str(tmp_path / "sft" / "model"), learning_rate=1e-2, **keep)
    figures = merge(str(tmp_path / "dpo" / "model"), 1e-4, work(tmp_path / "merged"))
    assert figures["adapters"] == 2
    assert figures["logit_gap"] < 2e-5

    ids = torch.randint(0, 900, (3, 20), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        chain = load_policy(str(tmp_path / "dpo" / "model"), None, work(tmp_path)).model(ids).logits
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "model", dtype=torch.float32)
        base = load_policy("tiny", None, work(tmp_path)).model(ids).logits
        torch.testing.assert_close(plain(ids).logits, chain, atol=2e-5, rtol=1e-4)
    assert (chain - base).abs().max() > 0.1  # the adapters did something


def test_qlora_merges_on_the_dequantised_weights_not_on_the_original(tmp_path: Path):
    """With B = 0 the adapter adds nothing, so each merged weight is dequantise(quantise(original)), bit for bit."""
    run_sft(tmp_path / "sft", learning_rate=1e-12, max_steps=1, **HOW["qlora"])
    merge(str(tmp_path / "sft" / "model"), 1e-4, work(tmp_path / "merged"))
    original = load_policy("tiny", None, work(tmp_path)).model
    merged = load_policy(str(tmp_path / "merged" / "model"), None, work(tmp_path)).model
    for layer in ("q_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{layer}"
        weight = original.get_submodule(name).weight.data
        expected = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4"))
        found = merged.get_submodule(name).weight.data
        assert (found - expected).abs().max() < 1e-7
        assert (found - weight).abs().max() > 1e-3


def test_8_bit_policies_merge_on_the_dequantised_weights(tmp_path: Path):
    """The int8 layers also round what goes into them; that gap is told, and is not the merge's."""
    run_sft(tmp_path / "sft", learning_rate=1e-2, use_peft=True, lora_r=4, load_in_8bit=True)
    figures = merge(str(tmp_path / "sft" / "model"), None, work(tmp_path / "merged"))
    assert figures["logit_gap_relative"] < 1e-5
    assert 1e-4 < figures["quantised_logit_gap"] < 0.3


def test_bfloat16_policies_merge_by_default(tmp_path: Path):
    run_sft(tmp_path / "sft", learning_rate=1e-2, use_peft=True, lora_r=4, dtype="bfloat16")
    figures = merge(str(tmp_path / "sft" / "model"), None, work(tmp_path / "merged"))
    assert 1e-4 < figures["logit_gap_relative"] < 3e-2


def test_a_plain_model_has_nothing_to_merge(tmp_path: Path):
    run_sft(tmp_path / "sft", max_steps=1)
    with pytest.raises(ModelError, match="no adapter to merge"):
        merge(str(tmp_path / "sft" / "model"), 1e-3, work(tmp_path / "merged"))


def test_a_gap_above_the_limit_fails_and_leaves_no_model(tmp_path: Path):
    run_sft(tmp_path / "sft", learning_rate=1e-2, **HOW["lora"])
    with pytest.raises(ModelError, match="merged and unmerged logits differ"):
        merge(str(tmp_path / "sft" / "model"), 1e-30, work(tmp_path / "merged"))
    assert not (tmp_path / "merged" / "model").exists()
