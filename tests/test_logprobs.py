"""The engine's log-probabilities and gradients against the plain computation, one sequence at a time, in float64."""

from __future__ import annotations

import copy
import sys
import types
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.test_groups import random_groups
from trainers import aliases
from trainers.engine import engines, segment_attention, tiles
from trainers.engine.groups import lay_out
from trainers.engine.logprobs import completion_log_probs, head_log_probs, sums

ENGINES: Any = ("tree", "packed", "padded")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"num_key_value_heads": 1, "sliding_window": None},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 64},
    "granite": {"num_key_value_heads": 2, "logits_scaling": 3.0, "attention_multiplier": 0.3},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.3},
    "olmo2": {"num_key_value_heads": 2},
    "gpt2": {"n_inner": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    "phi": {"resid_pdrop": 0.0},  # a head with a bias
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
}


def build(family: str = "llama", dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    from transformers import AutoConfig

    torch.manual_seed(3)
    sizes = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = AutoConfig.for_model(family, **{**sizes, **FAMILIES[family], **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype)
    if family == "mixtral":
        model.set_experts_implementation("eager")  # the grouped product has no float64
    for parameter in model.parameters():  # flat initial weights would hide most mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def naive(model: Any, groups: Any) -> torch.Tensor:
    """Every sequence alone through the ordinary forward; the head's logits as the model makes them."""
    found = []
    for prompt, completions in groups:
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion]])
            logps = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            first = max(len(prompt), 1)
            found.append(logps[first - 1 : -1].gather(1, ids[0, first:, None])[:, 0])
    return torch.cat(found)


def loss(tokens: torch.Tensor) -> torch.Tensor:
    """Weighs every token differently, so that no two can be exchanged."""
    weights = torch.linspace(-1, 2, len(tokens), dtype=tokens.dtype)
    return (weights * tokens).sum()


def gradients(model: Any, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gap(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest error of any tensor, by the largest entry of all."""
    assert set(found) == set(expected)
    size = max(g.abs().max().item() for g in expected.values())
    assert size > 0
    return max((found[name] - expected[name]).abs().max().item() for name in expected) / size


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_the_plain_computation(family: str, engine: Any):
    model = build(family)
    groups = [*random_groups(0), *random_groups(12)]
    expected = naive(model, groups)
    wanted = gradients(model, loss(expected))
    assert engines.prepare(engine, model, longest=20) == (engine, "asked for")
    found = completion_log_probs(model, groups).tokens
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-9
    assert gap(gradients(model, loss(found)), wanted) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(8))
def test_every_shape_of_groups_equals_the_plain_computation(seed: int, engine: Any):
    model = build()
    groups = random_groups(seed)
    expected = naive(model, groups)
    wanted = gradients(model, loss(expected))
    engines.install(model, engine)
    found = completion_log_probs(model, groups)
    assert (found.tokens - expected).abs().max() < 1e-9
    assert gap(gradients(model, loss(found.tokens)), wanted) < 1e-6
    assert found.offsets[-1] == len(expected)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["kept", "checkpointed", "reentrant"])
@pytest.mark.parametrize("how", ["full", "frozen head", "lora", "dora"])
def test_what_learns_gets_the_plain_gradient(how: str, checkpointing: bool | None):
    model = build()
    groups = random_groups(5)
    if how == "frozen head":
        model.lm_head.requires_grad_(False)
    elif how != "full":
        adapter = LoraConfig(
            r=4, target_modules="all-linear", init_lora_weights=False, use_dora=how == "dora"
        )
        model = get_peft_model(model, adapter).double()
    model.train()
    expected = naive(model, groups)
    wanted = gradients(model, loss(expected))
    for engine in ENGINES:
        engines.install(model, engine)
        if checkpointing is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
            if how != "full":
                model.enable_input_require_grads()
        found = completion_log_probs(model, groups).tokens
        assert (found - expected).abs().max() < 1e-9
        assert gap(gradients(model, loss(found)), wanted) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_qlora_equals_its_plain_computation(engine: Any):
    from trainers.models import _keep_trainable

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        aliases.resolve("tiny"), quantization_config=quantised, dtype=torch.float32
    )
    _keep_trainable(model)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    groups = random_groups(6)
    expected = naive(model, groups)
    wanted = gradients(model, loss(expected))
    assert engines.prepare(engine, model) == (engine, "asked for")
    found = completion_log_probs(model, groups).tokens
    assert (found - expected).abs().max() < 2e-5
    assert gap(gradients(model, loss(found)), wanted) < 2e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_autocast_reaches_the_backbone_and_the_head(engine: Any):
    """As near to the float32 numbers as the plain computation is under the same autocast."""
    model = build(dtype=torch.float32)
    groups = random_groups(13)
    exact = naive(model, groups)
    wanted = gradients(model, loss(exact))
    with torch.autocast("cpu", torch.bfloat16):
        plain = naive(model, groups)
    plain_error = gap(gradients(model, loss(plain.float())), wanted)
    engines.install(model, engine)
    with torch.autocast("cpu", torch.bfloat16):
        found = completion_log_probs(model, groups).tokens
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 2 * (plain - exact).abs().max()
    assert gap(gradients(model, loss(found)), wanted) < 2 * plain_error


def test_bfloat16_weights_give_float32_log_probabilities():
    model = build(dtype=torch.bfloat16)
    groups = random_groups(8)
    expected = naive(copy.deepcopy(model).float(), groups)
    for engine in ENGINES:
        engines.install(model, engine)
        found = completion_log_probs(model, groups).tokens
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 0.3
        loss(found).backward()


def test_accelerate_wraps_around_the_engine():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # a test before this one may have had another precision

    model = build(dtype=torch.float32)
    engines.install(model, "tree")
    groups = random_groups(9)
    exact = completion_log_probs(model, groups).tokens
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    found = completion_log_probs(prepared, groups).tokens
    assert 1e-4 < (found - exact).abs().max() < 1


def test_no_gradient_is_formed_where_none_is_asked_for():
    model = build(dtype=torch.float32).requires_grad_(False)
    groups = random_groups(10)
    engines.install(model, "tree")
    frozen = completion_log_probs(model, groups).tokens
    assert not frozen.requires_grad
    model.requires_grad_(True)
    with torch.no_grad():
        silent = completion_log_probs(model, groups).tokens
    assert not silent.requires_grad
    assert torch.equal(silent, frozen)


def test_nothing_scored_is_an_empty_row_with_a_gradient():
    model = build(dtype=torch.float32)
    engines.install(model, "tree")
    found = completion_log_probs(model, [([], [[5], [6]])])
    assert found.offsets.tolist() == [0, 0, 0]
    assert sums(*found).tolist() == [0, 0]
    sums(*found).sum().backward()


@pytest.mark.parametrize("engine", ["tree", "packed"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_ordinary_use_is_unchanged(family: str, engine: Any):
    """Padding stays masked, on both sides; generation writes the same tokens."""
    model = build(family, torch.float32).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9], [0, 0, 7, 8, 9]])
    left = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])

    def ordinary() -> list[torch.Tensor]:
        with torch.no_grad():
            padded = model(input_ids=ids, attention_mask=left).logits[:, -3:]
            right = model(input_ids=ids.flip(1), attention_mask=left.flip(1)).logits[:, :3]
            written = model.generate(input_ids=ids, attention_mask=left, max_new_tokens=8, do_sample=False)
            return [padded, right, written]

    before = ordinary()
    engines.prepare(engine, model, longest=20)
    completion_log_probs(model, random_groups(11)).tokens.sum().backward()
    after = ordinary()
    assert model.config._attn_implementation == segment_attention.NAME
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.no_grad():
        alone = model(input_ids=ids[1:, 2:].flip(1)).logits[0]
    assert torch.allclose(alone, after[1][1], atol=1e-5)
    engines.remove(model)
    assert model.config._attn_implementation == "sdpa"
    assert "forward" not in vars(model)


def test_a_saved_model_knows_nothing_of_the_engine(tmp_path: Any):
    model = build(dtype=torch.float32)
    engines.install(model, "tree")
    model.save_pretrained(str(tmp_path))
    assert segment_attention.NAME not in (tmp_path / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    assert loaded.config._attn_implementation == "sdpa"


def test_a_copy_runs_its_own_forward():
    model = build()
    engines.install(model, "tree")
    groups = random_groups(12)
    before = completion_log_probs(model, groups).tokens
    other = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(completion_log_probs(other, groups).tokens, before)
    ids = torch.tensor([[1, 2, 3]])
    assert not torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)


def test_trl_and_the_engine_share_a_model():
    """TRL patches the same forward; whichever comes first, both ways of calling work."""
    from trl.trainer.utils import add_fused_lm_head

    groups = random_groups(13)
    for order in ("ours first", "trl first"):
        model = build(dtype=torch.float32)
        expected = naive(model, groups)
        patches = [lambda m: engines.install(m, "tree"), add_fused_lm_head]
        for patch in patches if order == "ours first" else patches[::-1]:
            patch(model)
        assert torch.allclose(completion_log_probs(model, groups).tokens, expected, atol=1e-5)
        ids = torch.tensor([[4, 5, 6, 7]])
        labels = torch.tensor([[-100, -100, 6, 7]])
        fused = model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs
        ours = completion_log_probs(model, [([4, 5], [[6, 7]])]).tokens
        assert torch.allclose(fused[0, 1:], ours, atol=1e-5)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_head_in_pieces_is_the_head(monkeypatch: Any, scale: float, softcap: float | None, learns: bool):
    monkeypatch.setattr(tiles, "pieces", lambda n, *_: [slice(i, min(i + 3, n)) for i in range(0, n, 3)])
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(23, 8, dtype=torch.float64, requires_grad=learns)
    bias = torch.randn(23, dtype=torch.float64, requires_grad=learns)
    targets = torch.randint(23, (11,))
    upstream = torch.randn(11, dtype=torch.float64)
    logits = scale * (hidden @ weight.T + bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    leaves = [hidden, weight, bias] if learns else [hidden]
    wanted = torch.autograd.grad((upstream * expected).sum(), leaves)
    found = head_log_probs(hidden, weight, bias, targets, scale, softcap)
    got = torch.autograd.grad((upstream * found).sum(), leaves)
    assert torch.allclose(found, expected, atol=1e-12)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_pieces_cover_every_row_once():
    for count, vocabulary in ((0, 100), (1, 100), (1000, 100), (1000, 49152), (100, 256_000)):
        pieces = tiles.pieces(count, vocabulary, torch.device("cpu"))
        assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(count))
        assert all(piece.stop - piece.start <= 256 for piece in pieces)


def test_sums_lose_nothing_over_many_terms():
    torch.manual_seed(0)
    logps = (-10 * torch.rand(1000)).requires_grad_()
    offsets = torch.tensor([0, 400, 400, 1000])
    found = sums(logps, offsets)
    assert found.dtype == torch.float32
    exact = [logps[:400].double().sum(), torch.tensor(0.0), logps[400:].double().sum()]
    assert torch.equal(found, torch.stack([value.float() for value in exact]))
    found.sum().backward()
    assert logps.grad is not None
    assert torch.equal(logps.grad, torch.ones(1000))


def _flex_and_sdpa(
    device: str, dtype: torch.dtype, kernel: str
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    layout = lay_out(random_groups(12) + random_groups(16)).to(device)
    torch.manual_seed(0)
    tokens = layout.input_ids.shape[1]
    base = [torch.randn(1, heads, tokens, 32, device=device, dtype=dtype) for heads in (4, 2, 2)]
    upstream = torch.randn(1, tokens, 4, 32, device=device, dtype=dtype)
    results = []
    for name, kind in ((kernel, dtype), ("sdpa", torch.float32)):
        q, k, v = (t.to(kind).detach().requires_grad_() for t in base)
        layout.kernel = name
        out, _ = segment_attention.segment_attention(
            torch.nn.Module(), q, k, v, None, scaling=0.2, segments=layout
        )
        assert out.shape == (1, tokens, 4, 32)
        out.backward(upstream.to(kind))
        results.append([t.detach().float() for t in (out, q.grad, k.grad, v.grad) if t is not None])
    return results[0], results[1]


def test_flex_sees_what_the_segments_see():
    """Its slow form, on a CPU: the mask, forward."""
    layout = lay_out(random_groups(12) + random_groups(16))
    torch.manual_seed(0)
    tokens = layout.input_ids.shape[1]
    q, k, v = (torch.randn(1, heads, tokens, 16, dtype=torch.float64) for heads in (4, 2, 2))
    with torch.no_grad(), pytest.warns(UserWarning, match="flex_attention called without torch.compile"):
        found = segment_attention.KERNELS["flex"](q, k, v, layout, 0.2, 0.0)
    assert torch.allclose(found, segment_attention.KERNELS["sdpa"](q, k, v, layout, 0.2, 0.0), atol=1e-9)


def ragged_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: Any, key_ends: Any, scale: float
) -> torch.Tensor:
    """What FlashAttention 2 computes: causal, aligned to the last query and the last key."""
    found = []
    for i in range(len(ends) - 1):
        rows, columns = slice(ends[i], ends[i + 1]), slice(key_ends[i], key_ends[i + 1])
        q, k, v = query[rows].transpose(0, 1), key[columns].transpose(0, 1), value[columns].transpose(0, 1)
        ahead = k.shape[1] - q.shape[1]
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(ahead)
        times = q.shape[0] // k.shape[0]
        k, v = k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)
        found.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale))
    return torch.cat(found, dim=1).transpose(0, 1)


def varlen_now(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    assert window_size == (-1, 0)
    assert enable_gqa
    assert max_q == cu_seq_q.diff().max()
    assert max_k == cu_seq_k.diff().max()
    return ragged_attention(query, key, value, cu_seq_q, cu_seq_k, scale)


def varlen_first(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    assert is_causal
    assert query.shape[1] == key.shape[1]
    return ragged_attention(query, key, value, cu_seq_q, cu_seq_k, query.shape[-1] ** -0.5)


def flash_attn(q, k, v, cu_seqlens_q, cu_seqlens_k, max_q, max_k, *, softmax_scale, causal):
    assert causal
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    return ragged_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale)


@pytest.mark.parametrize("stand_in", [varlen_now, varlen_first, flash_attn])
@pytest.mark.parametrize("engine", ["tree", "packed"])
def test_flash_kernels_are_given_what_they_need(monkeypatch: Any, stand_in: Any, engine: Any):
    """Stand-ins that compute what the kernels promise, with the signatures of torch 2.10, 2.13 and flash-attn."""
    if stand_in is flash_attn:
        package: Any = types.ModuleType("flash_attn")
        package.flash_attn_varlen_func = stand_in
        monkeypatch.setitem(sys.modules, "flash_attn", package)
    else:
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_in)
    layout = lay_out(random_groups(12) + random_groups(16), engine)
    torch.manual_seed(0)
    tokens = layout.input_ids.shape[1]
    heads = [torch.randn(1, n, tokens, 16, dtype=torch.float64, requires_grad=True) for n in (4, 2, 2)]
    upstream = torch.randn(1, tokens, 4, 16, dtype=torch.float64)
    name = "flash_attn" if stand_in is flash_attn else "varlen"
    results = []
    for kernel in (name, "sdpa"):
        out = segment_attention.KERNELS[kernel](*heads, layout, 0.2, 0.0)
        results.append([out, *torch.autograd.grad((out * upstream).sum(), heads)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_the_layout_passes_through_ddp(tmp_path: Any):
    from torch.nn.parallel import DistributedDataParallel

    model = build()
    groups = random_groups(17)
    wanted = gradients(model, loss(naive(model, groups)))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        engines.install(model, "tree")
        model.zero_grad()
        wrapped = DistributedDataParallel(model)
        loss(completion_log_probs(wrapped, groups).tokens).backward()
    finally:
        torch.distributed.destroy_process_group()
    got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gap({n: g.clone() for n, g in got.items()}, wanted) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["varlen", "flash_attn", "flex"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_cuda_kernel_equals_sdpa_forward_and_backward(kernel: str, dtype: torch.dtype):
    if not segment_attention.available(kernel):
        pytest.skip(f"{kernel} is not installed")
    found, expected = _flex_and_sdpa("cuda", dtype, kernel)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 2e-2 * b.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ENGINES)
def test_on_cuda_the_engine_equals_the_plain_computation(engine: Any):
    groups = random_groups(16)
    expected = naive(build(), groups)
    model = build(dtype=torch.bfloat16).cuda()
    assert engines.prepare(engine, model) == (engine, "asked for")
    found = completion_log_probs(model, groups).tokens
    assert (found.double().cpu() - expected).abs().max() < 0.3
    loss(found.cpu()).backward()
