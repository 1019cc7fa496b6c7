"""Models and tokenised rows to measure on: made by number, so that both sides read the very same."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from trainers import aliases

VOCABULARY = 49152
Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What the cost of a step depends on."""

    width: int
    layers: int
    heads: int
    vocabulary: int
    trunk: int
    """Parameters of the layers, which every token passes."""


def model_folder(name: str, folder: Path) -> Path:
    """`tiny`: a Llama of 256 x 8 with the vocabulary of a real one, drawn by number; else an alias, as it is."""
    if name != "tiny":
        return aliases.resolve(name)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    made = folder / "tiny"
    LlamaForCausalLM(config).save_pretrained(made)
    for file in aliases.resolve("tiny").glob("*token*"):
        shutil.copy(file, made)
    return made


def shape_of(model: Any) -> Shape:
    config = model.config
    trunk = sum(p.numel() for n, p in model.named_parameters() if "layers." in n and "lora_" not in n)
    return Shape(
        config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.vocab_size, trunk
    )


def pairs(count: int, prompt: int, completion: int, seed: int = 0) -> list[Row]:
    """Pairs of equal lengths, of random tokens: what they say does not change what they cost."""
    draw = torch.Generator().manual_seed(seed)

    def ids(n: int) -> list[int]:
        return torch.randint(5, 900, (n,), generator=draw).tolist()

    return [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(completion), "rejected_ids": ids(completion)}
        for _ in range(count)
    ]


def ranked(candidates: int, prompt: int, completion: int, seed: int = 0) -> tuple[Row, list[Row]]:
    """One prompt with ranked answers, and all its pairs one by one."""
    draw = torch.Generator().manual_seed(seed)
    asked = torch.randint(5, 900, (prompt,), generator=draw).tolist()
    answers = [torch.randint(5, 900, (completion,), generator=draw).tolist() for _ in range(candidates)]
    order = list(combinations(range(candidates), 2))
    together: Row = {
        "prompt_ids": asked,
        "completions": answers,
        "pairs": [list(pair) for pair in order],
        "weights": [1.0] * len(order),
    }
    apart = [{"prompt_ids": asked, "chosen_ids": answers[i], "rejected_ids": answers[j]} for i, j in order]
    return together, apart


def ragged(count: int, prompt: int, completion: int, seed: int = 0) -> list[Row]:
    """Pairs of log-normal lengths about these means (sigma 0.5), as chat data have them."""
    draw = torch.Generator().manual_seed(seed)

    def ids(mean: int) -> list[int]:
        factor = torch.exp(0.5 * torch.randn((), generator=draw) - 0.125).item()
        n = max(8, min(4 * mean, round(mean * factor)))
        return torch.randint(5, 900, (n,), generator=draw).tolist()

    return [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(completion), "rejected_ids": ids(completion)}
        for _ in range(count)
    ]


def length(row: Row) -> int:
    """Of the longer side, which padding goes by."""
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
