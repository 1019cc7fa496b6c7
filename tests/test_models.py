"""Loading: what `auto` becomes, what is refused, and that a written policy is read back wherever the run lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from data.errors import ModelError
from tests.training import run_prefer, run_sft
from trainers import aliases, attention, policy
from trainers.config import AdapterOptions, ModelOptions
from trainers.models import load_policy
from trainers.work import Work


def quiet(tmp_path: Path) -> Work:
    return Work(out=tmp_path, say=lambda _: None)


def test_auto_is_resolved_once_and_recorded(tmp_path: Path):
    said: list[str] = []
    work = Work(out=tmp_path, say=said.append)
    loaded = load_policy("tiny", None, work)
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert loaded.device.type == expected
    if expected == "cpu":
        assert work.resolved["dtype"] == {"value": "float32", "why": "no GPU"}
        assert work.resolved["attn_implementation"]["value"] == "sdpa"
        assert loaded.model.config._attn_implementation == "sdpa"
        assert loaded.model.dtype == torch.float32
    load_policy("tiny", None, work)
    assert len(said) == 2  # the same choices for another model are not said again


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3"])
def test_an_absent_kernel_is_an_error_with_the_way_to_get_it(kernel: str, tmp_path: Path):
    options = ModelOptions.model_validate({"model": "tiny", "attn_implementation": kernel})
    with pytest.raises(ModelError, match=f"{kernel} cannot be used: it runs on CUDA only") as refused:
        load_policy("tiny", options, quiet(tmp_path))
    assert refused.value.way_out is not None
    assert "install" in refused.value.way_out


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "flex_attention"])
def test_kernels_that_load_here_agree(kernel: str, tmp_path: Path):
    options = ModelOptions.model_validate({"model": "tiny", "attn_implementation": kernel})
    found = load_policy("tiny", options, quiet(tmp_path)).model
    assert found.config._attn_implementation == kernel
    ids = torch.arange(24)[None]
    expected = load_policy(
        "tiny", ModelOptions(model="tiny", attn_implementation="eager"), quiet(tmp_path)
    ).model
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, expected(ids).logits, atol=1e-4, rtol=1e-4)


def test_flash_attention_in_float32_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "missing", lambda name: None)
    with pytest.raises(ModelError, match="works in bfloat16 or float16"):
        attention.resolve("flash_attention_2", "float32")
    assert attention.resolve("auto", "bfloat16")[0] == "flash_attention_3"
    monkeypatch.setattr(attention, "missing", lambda name: None if name.endswith("2") else "absent")
    assert attention.resolve("auto", "bfloat16") == ("flash_attention_2", "the fastest that loads here")


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_are_what_bitsandbytes_makes_of_them(bits: int, tmp_path: Path):
    options = ModelOptions.model_validate({"model": "tiny", f"load_in_{bits}bit": True})
    quantised = load_policy("tiny", options, quiet(tmp_path)).model
    plain = load_policy("tiny", None, quiet(tmp_path)).model
    ids = torch.arange(24)[None]
    with torch.no_grad():
        gap = (quantised(ids).logits - plain(ids).logits).abs().max().item()
    assert 0 < gap < 1.0  # not the plain weights, and not far from them
    kinds = {type(m).__name__ for m in quantised.modules()}
    assert ("Linear4bit" if bits == 4 else "Linear8bitLt") in kinds


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"load_in_4bit": True, "load_in_8bit": True}, "both set"),
        ({"load_in_4bit": True}, "4-bit weights cannot be trained in full"),
        ({"load_in_8bit": True}, "8-bit weights cannot be trained in full"),
    ],
)
def test_quantisation_that_cannot_be_trained(options: dict[str, bool], said: str, tmp_path: Path):
    asked = ModelOptions.model_validate({"model": "tiny", **options})
    with pytest.raises(ModelError, match=said):
        load_policy("tiny", asked, quiet(tmp_path), train=AdapterOptions())


def test_lora_on_a_layer_that_is_not_there(tmp_path: Path):
    train = AdapterOptions(use_peft=True, lora_target_modules=("q_proj_typo",))
    with pytest.raises(ModelError, match="q_proj_typo"):
        load_policy("tiny", None, quiet(tmp_path), train=train)


def test_a_model_that_is_not_there_names_itself_and_the_way_out(tmp_path: Path):
    with pytest.raises(ModelError, match="nobody/nothing") as refused:
        load_policy("nobody/nothing", None, quiet(tmp_path))
    assert refused.value.way_out is not None
    assert "owner/name" in refused.value.way_out


def test_a_run_can_be_moved(tmp_path: Path):
    run_sft(tmp_path / "here" / "sft", max_steps=1)
    run_prefer(
        tmp_path / "here" / "dpo", str(tmp_path / "here" / "sft" / "model"), max_steps=1, use_peft=True
    )
    before = load_policy(str(tmp_path / "here" / "dpo" / "model"), None, quiet(tmp_path)).model
    ids = torch.arange(24)[None]
    with torch.no_grad():
        expected = before(ids).logits
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = load_policy(str(tmp_path / "there" / "dpo" / "model"), None, quiet(tmp_path)).model
    with torch.no_grad():
        assert torch.equal(after(ids).logits, expected)


def test_a_lone_adapter_is_one_that_peft_loads_by_itself(tmp_path: Path):
    from peft import AutoPeftModelForCausalLM

    run_sft(tmp_path / "sft", max_steps=2, use_peft=True)
    ours = load_policy(str(tmp_path / "sft" / "model"), None, quiet(tmp_path)).model
    theirs = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "sft" / "model"))
    ids = torch.arange(24)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99, "base": "x"}'])
def test_a_broken_policy_file_names_itself(content: str, tmp_path: Path):
    (tmp_path / policy.FILE).write_text(content)
    with pytest.raises(ModelError, match=r"policy\.json"):
        policy.read(str(tmp_path))


def test_a_missing_adapter_file_names_its_folder(tmp_path: Path):
    run_sft(tmp_path / "sft", max_steps=1, use_peft=True)
    (tmp_path / "sft" / "model" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="an adapter cannot be loaded"):
        load_policy(str(tmp_path / "sft" / "model"), None, quiet(tmp_path))


def test_policy_json_says_the_chain(tmp_path: Path):
    run_sft(tmp_path / "sft", max_steps=1, use_peft=True)
    written = json.loads((tmp_path / "sft" / "model" / "policy.json").read_text())
    assert written == {
        "format": 1,
        "base": "tiny",
        "revision": None,
        "dtype": "float32",
        "quantization": None,
        "adapters": ["."],
    }
    assert aliases.is_alias(written["base"])
