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

    from trainers.engine.completions import completions_only

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


def test_transformers_lets_attention_and_its_masks_be_registered():
    """By name, for every model at once: what is registered here is what a layer calls."""
    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    assert parameters(AttentionInterface.register) == ["key", "value"]
    assert parameters(AttentionMaskInterface.register) == ["key", "value"]
    assert parameters(sdpa_attention_forward)[:7] == [
        "module",
        "query",
        "key",
        "value",
        "attention_mask",
        "dropout",
        "scaling",
    ]
    calls: list[dict[str, object]] = []

    def attention(module, query, key, value, attention_mask, **kwargs):  # type: ignore[no-untyped-def]
        calls.append({"mask": attention_mask, **kwargs})
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("contract", attention)
    AttentionMaskInterface.register("contract", sdpa_mask)
    model = AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny"))
    model.set_attn_implementation("contract")
    mask = torch.tensor([[1, 1, 1, 0]])
    model.model(torch.tensor([[5, 6, 7, 0]]), attention_mask=mask, segments="layout")
    assert [call["segments"] for call in calls] == ["layout", "layout"]
    seen = calls[0]["mask"]
    assert isinstance(seen, torch.Tensor)
    assert seen.shape == (1, 1, 4, 4)
    assert not seen[0, 0, :, 3].any()
    finished = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    model.model(torch.tensor([[5, 6]]), attention_mask=finished)
    assert calls[-1]["mask"] is finished  # four dimensions are taken for a mask that is done


def test_models_say_whether_their_attention_can_be_replaced():
    from transformers import BloomForCausalLM, GPTJForCausalLM, LlamaForCausalLM

    assert LlamaForCausalLM._supports_attention_backend
    assert LlamaForCausalLM._can_set_attn_implementation()
    for other in (BloomForCausalLM, GPTJForCausalLM):
        assert not (other._supports_attention_backend and other._can_set_attn_implementation())


def test_accelerate_leaves_this_mark_where_it_wraps_a_forward():
    from accelerate import Accelerator

    source = inspect.getsource(Accelerator.prepare_model)
    assert "model._original_forward = model.forward" in source
    assert source.index("_original_forward") < source.index("DistributedDataParallel(")


def test_peft_wraps_layers_in_these_two_classes():
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper
    from transformers import AutoModelForCausalLM

    config = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["post_attention_layernorm"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny")), config)
    layer = model.get_base_model().model.layers[0]
    assert isinstance(layer.self_attn.q_proj, BaseTunerLayer)
    assert isinstance(layer.post_attention_layernorm, AuxiliaryTrainingWrapper)
    names = {name for name, _ in model.named_parameters()}
    below = "base_model.model.model.layers.0."
    assert below + "self_attn.q_proj.base_layer.weight" in names
    assert below + "self_attn.q_proj.lora_A.default.weight" in names
    assert below + "post_attention_layernorm.original_module.weight" in names


def test_trainer_has_the_parts_of_a_step_we_replace():
    from transformers import Trainer

    assert parameters(Trainer.get_batch_samples) == ["self", "epoch_iterator", "num_batches", "device"]
    assert parameters(Trainer.compute_loss) == [
        "self",
        "model",
        "inputs",
        "return_outputs",
        "num_items_in_batch",
    ]
    assert parameters(Trainer._set_signature_columns_if_needed) == ["self"]
    assert Trainer.loss_is_scaled_for_ga is None
    step = inspect.getsource(Trainer.training_step)
    assert "loss_is_scaled_for_ga = self.loss_is_scaled_for_ga" in step
    assert (
        "if not loss_is_scaled_for_ga:\n                loss = loss / self.current_gradient_accumulation_steps"
        in step
    )
    loop = inspect.getsource(Trainer._run_epoch)
    _, _, after = loop.partition("self.get_batch_samples(epoch_iterator, num_batches, self.args.device)")
    assert after, "the loop no longer asks for a whole step's batches before the first of them is trained on"
    assert "self.current_gradient_accumulation_steps = len(batch_samples)" in after
    assert "self.training_step(model, inputs, num_items_in_batch)" in after


def test_accelerate_does_not_divide_by_the_accumulation_too():
    """Trainer counts micro-batches itself; else every loss would be divided twice."""
    from transformers import Trainer

    source = inspect.getsource(Trainer.create_accelerator_and_postprocess)
    assert 'grad_acc_kwargs["num_steps"] = 1' in source


def test_dpo_trainer_has_what_our_step_reads():
    from trl import DPOTrainer

    start = inspect.getsource(DPOTrainer.__init__)
    for name in ("aux_loss_enabled", "router_aux_loss_coef", "maybe_activation_offload_context"):
        assert f"self.{name} = " in start
    assert "self._precompute_ref_logps(" in start
    assert parameters(DPOTrainer._compute_loss) == ["self", "model", "inputs", "return_outputs"]
    assert "self._compute_loss(model, inputs, return_outputs)" in inspect.getsource(DPOTrainer.compute_loss)
    # It lies around forward and backward; once more around the loss alone, it would let go of what backward reads.
    assert "with self.maybe_activation_offload_context:" in inspect.getsource(DPOTrainer.training_step)
    for name in ("_metrics", "_total_train_tokens", "_tp_size"):
        assert name in inspect.getsource(DPOTrainer)
    assert parameters(DPOTrainer._set_signature_columns_if_needed) == ["self"]


def test_dpo_trainer_rounds_a_quantised_models_adapter_before_the_reference():
    """We take that back while the reference is measured, so it has to have happened by then."""
    from trl import DPOTrainer

    source = inspect.getsource(DPOTrainer.__init__)
    assert source.index("param.data = param.data.to(torch.bfloat16)") < source.index(
        "self._precompute_ref_logps("
    )


def test_the_fused_head_has_these_fields():
    import dataclasses

    from trl.trainer.utils import FusedCausalLMOutput

    fields = {field.name for field in dataclasses.fields(FusedCausalLMOutput)}
    assert {"log_probs", "entropy", "mean_logits", "is_top1", "aux_loss"} <= fields
