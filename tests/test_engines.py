"""Which models share prompts, which do not and why, and that an engine asked for is had or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from data.errors import ModelError
from tests.test_logprobs import build
from trainers.engine import engines, logprobs, segment_attention
from trainers.engine.groups import lay_out

LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
GROUPS: Any = [([1, 2, 3], [[4, 5], [6]])]


def skeleton(family: str, **more: Any) -> Any:
    """A model of the family without its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **more)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_a_plain_decoder_gets_the_tree():
    assert engines.resolve("auto", build()) == ("tree", "each prompt is encoded once")
    assert engines.resolve("packed", build()) == ("packed", "asked for")
    assert engines.resolve("padded", build()) == ("padded", "asked for")
    assert engines.problem(get_peft_model(build(), LORA)) is None
    dropping = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1)
    assert (
        "dropout draws one mask for a prompt" in engines.resolve("auto", get_peft_model(build(), dropping))[1]
    )


@pytest.mark.parametrize(
    ("family", "more", "reason"),
    [
        ("mistral", {**SMALL, "sliding_window": 8}, "sliding window of 8 tokens is shorter than rows of 20"),
        ("gemma3_text", {**SMALL, "sliding_window": 8}, "sliding window of 8"),
        ("gemma2", {**SMALL, "sliding_window": 64}, "soft-capped"),
        ("gpt_oss", {**SMALL, "num_local_experts": 2, "sliding_window": 64}, "sinks"),
        ("mixtral", {**SMALL, "num_local_experts": 2, "output_router_logits": True}, "router loss"),
        ("mamba", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}, "left to right"),
        ("qwen3_next", {**SMALL, "num_experts": 2, "num_hidden_layers": 4}, "left to right"),
        ("lfm2", {**SMALL, "layer_types": ["conv", "full_attention"]}, "left to right"),
        ("falcon_h1", SMALL, "left to right"),
        ("bloom", {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "does not go through"),
        ("gptj", {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}, "does not go through"),
    ],
)  # fmt: skip
def test_what_a_tree_would_get_wrong_is_refused_with_its_reason(family: str, more: Any, reason: str):
    model = skeleton(family, **more)
    engine, why = engines.resolve("auto", model, longest=20)
    assert engine == "padded"
    assert reason in why
    for asked in ("tree", "packed"):
        with pytest.raises(ModelError, match="engine: the engine " + asked + " cannot be had"):
            engines.resolve(asked, model, longest=20)


def test_a_window_that_no_row_reaches_does_not_matter():
    model = build("mistral", sliding_window=20)
    assert engines.problem(model, longest=20) is None
    assert engines.problem(model, longest=21) is not None
    assert "rows of any length" in str(engines.problem(model))
    unused = build("qwen2", sliding_window=4, use_sliding_window=False)
    assert engines.problem(unused, longest=21) is None


def test_a_row_past_the_window_is_an_error_and_never_another_number():
    model = build("mistral", sliding_window=6)
    engines.install(model, "tree")
    logprobs.completion_log_probs(model, [([1, 2, 3], [[4, 5, 6]])])
    with pytest.raises(ModelError, match="a row of 7 tokens is longer than the model's sliding window of 6"):
        logprobs.completion_log_probs(model, [([1, 2, 3, 4], [[4, 5, 6]])])


def test_images_are_refused():
    model = build()
    model.config.vision_config = {"hidden_size": 8}
    assert "images" in str(engines.problem(model))


def test_prompt_learning_is_refused():
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert "virtual tokens" in str(engines.problem(get_peft_model(build(), virtual)))


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(r=2, target_modules=["q_proj", "lm_head"]),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    ],
    ids=["targeted", "saved"],
)
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings")
def test_an_adapter_on_the_head_is_refused(adapter: Any):
    model = get_peft_model(build(), adapter)
    engine, why = engines.prepare("auto", model)
    assert (engine, why) == ("padded", "the head: it carries an adapter")
    assert not logprobs.installed(model)
    with pytest.raises(ModelError, match="scored in pieces: it carries an adapter"):
        engines.install(model, "padded")


def test_a_model_that_drops_the_layout_is_found_out(monkeypatch: pytest.MonkeyPatch):
    """Ordinary attention over a packed row would give numbers too: wrong ones."""
    model = build()
    engines.install(model, "tree")
    whole = model.model.forward

    def forgetful(*args: Any, position_ids: Any = None, segments: Any = None, **kwargs: Any) -> Any:
        return whole(*args, position_ids=position_ids, **kwargs)

    monkeypatch.setattr(model.model, "forward", forgetful)
    with pytest.raises(ModelError, match="3 of 3 attention layers did not get the layout"):
        logprobs.completion_log_probs(model, GROUPS)
    engine, why = engines.prepare("auto", model)
    assert engine == "padded"
    assert "did not get the layout" in why
    assert not logprobs.installed(model)


def test_a_model_with_more_behind_its_head_is_found_out(monkeypatch: pytest.MonkeyPatch):
    model = build()
    ordinary = model.forward

    def odd(*args: Any, **kwargs: Any) -> Any:
        found = ordinary(*args, **kwargs)
        found.logits = found.logits * 1.3
        return found

    monkeypatch.setattr(model, "forward", odd)
    engine, why = engines.prepare("auto", model)
    assert engine == "padded"
    assert "nats from those of the model's own forward" in why
    assert not logprobs.installed(model)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ModelError, match="the engine tree cannot be had: its log-probabilities"):
        engines.prepare("tree", model)


def test_the_probe_leaves_the_model_as_it_was():
    model = build()
    model.train()
    engines.prepare("auto", model)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert engines.probe(model) < 1e-9


def test_installing_twice_is_installing_once():
    model = build()
    before = model.forward
    for engine in ("tree", "padded", "packed"):
        engines.install(model, engine)
    assert logprobs.installed(model)
    engines.remove(model)
    engines.remove(model)
    assert not logprobs.installed(model)
    assert model.forward == before


def test_a_patch_over_the_engine_is_not_taken_with_it():
    from trl.trainer.utils import add_fused_lm_head

    model = build()
    engines.install(model, "tree")
    add_fused_lm_head(model)
    with pytest.raises(RuntimeError, match="another patch of forward"):
        engines.remove(model)
    assert logprobs.installed(model)


def test_after_accelerate_it_is_too_late():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # a test before this one may have had another precision

    model = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(build(dtype=torch.float32))
    with pytest.raises(ModelError, match="before accelerate"):
        engines.install(model, "tree")


def test_without_an_engine_there_are_no_numbers():
    with pytest.raises(RuntimeError, match="prepare"):
        logprobs.completion_log_probs(build(), GROUPS)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("varlen", "CUDA only"),
        ("flash_attn", "CUDA only"),
        ("triton", "no segment kernel"),
    ],
)
def test_a_kernel_asked_for_by_name_is_had_or_refused(kernel: str, message: str):
    model = build()
    engines.install(model, "tree", kernel)
    with pytest.raises(ModelError, match=message):
        logprobs.completion_log_probs(model, GROUPS)


def test_attention_that_is_not_done_is_refused():
    layout = lay_out(GROUPS)
    q = torch.randn(1, 2, 6, 4)
    for extra in ({"softcap": 5.0}, {"s_aux": torch.zeros(2)}, {"is_causal": False}):
        with pytest.raises(ModelError, match="no prompt tree"):
            segment_attention.segment_attention(torch.nn.Module(), q, q, q, None, segments=layout, **extra)
