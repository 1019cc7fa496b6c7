"""Everything private, or undocumented, of TRL, transformers, PEFT and bitsandbytes that we lean on.

A failure here names the thing that moved; the trainers then need a second look, not this file alone.
"""

from __future__ import annotations

import inspect

import pytest
import torch

from trainers import aliases


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_dpo_trainer_has_the_two_methods_we_replace():
    from trl import DPOTrainer

    assert parameters(DPOTrainer._prepare_dataset) == [
        "self",
        "dataset",
        "processing_class",
        "args",
        "dataset_name",
    ]
    assert parameters(DPOTrainer._precompute_ref_logps) == ["self", "dataset", "name", "batch_size"]


def test_dpo_trainer_reads_the_columns_we_give():
    from trl import DPOTrainer

    source = inspect.getsource(DPOTrainer)
    for column in ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps"):
        assert f'"{column}"' in source
    assert 'inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]' in source  # only when precomputed


def test_dpo_trainer_still_copies_the_adapter_we_take_back():
    from trl import DPOTrainer

    assert 'model.add_adapter("ref", default_config)' in inspect.getsource(DPOTrainer.__init__)


def test_sft_trainer_takes_tokenised_rows_as_they_are():
    from trl import SFTTrainer

    assert 'is_processed = "input_ids" in column_names' in inspect.getsource(SFTTrainer._prepare_dataset)
    assert 'dataset_kwargs.get("skip_prepare_dataset"' in inspect.getsource(SFTTrainer.__init__)


def test_trainer_has_the_checkpoint_methods_we_wrap():
    from transformers import Trainer

    assert parameters(Trainer._save_checkpoint) == ["self", "model", "trial"]
    assert parameters(Trainer._save) == ["self", "output_dir", "state_dict"]
    assert parameters(Trainer._load_from_checkpoint) == ["self", "resume_from_checkpoint", "model"]
    assert "save_total_limit=self.args.save_total_limit" in inspect.getsource(Trainer._save_checkpoint)


def test_the_fused_head_returns_float32_log_probabilities():
    """Against log_softmax in double precision, on a bfloat16 model too."""
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny"), dtype=dtype)
        ids = torch.arange(30)[None]
        labels = ids.clone()
        labels[:, :10] = -100
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state
            expected = torch.log_softmax((hidden @ model.lm_head.weight.T).double(), -1)
        add_fused_lm_head(model)
        with torch.no_grad():
            found = model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs
        assert found.dtype == torch.float32
        assert found.shape == (1, 29)
        assert found[0, :9].abs().max() == 0
        by_hand = expected[0, torch.arange(29), ids[0, 1:]][9:]
        assert found[0, 9:].double() == pytest.approx(by_hand, abs=5e-6 if dtype == torch.float32 else 2e-2)


def test_the_fused_head_asks_this_function_whether_to_skip_the_prompt():
    from trl.trainer import utils

    from trainers.completions import completions_only

    assert "compact = _use_triton(hidden_states.device)" in inspect.getsource(utils.add_fused_lm_head)
    before = utils._use_triton
    with completions_only():
        assert utils._use_triton(torch.device("cpu"))
    assert utils._use_triton is before


def test_peft_runs_several_adapters_at_once_and_trains_one():
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny")), config, adapter_name="below0"
    )
    model.add_adapter("default", config)
    model.base_model.set_adapter(["below0", "default"])
    model.set_requires_grad(["below0"], requires_grad=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".default." in name for name in trained)
    assert model.active_adapters == ["below0", "default"]


def test_bitsandbytes_repacks_only_where_this_attribute_says_so():
    from bitsandbytes.nn import Linear4bit

    assert "self.support_avx512bf16_for_cpu" in inspect.getsource(Linear4bit.forward)
