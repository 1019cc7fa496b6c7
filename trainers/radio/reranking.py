"""Score question-document pairs with a cross-encoder: tokenised once, sorted by length, cut into small even batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError
from trainers.radio.aliases import reranker_folder
from trainers.work import Progress, silent

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

CPU_TOKENS = 1024
CUDA_TOKENS = 65536
CHUNK = 16384
"""Pairs that are tokenised and sorted together: memory stays bounded, and lengths are even enough in so many."""


def load_reranker(
    name: str | Path,
    *,
    revision: str | None = None,
    max_length: int | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    seed: int = 0,
) -> CrossEncoder:
    """The cross-encoder with one score for a pair; a model without such a head gets one, drawn from `seed`."""
    import torch
    from sentence_transformers import CrossEncoder

    where = reranker_folder(str(name))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = CrossEncoder(
                where,
                num_labels=1,
                revision=revision,
                trust_remote_code=trust_remote_code,
                model_kwargs={"dtype": getattr(torch, dtype)},
                device="cuda" if torch.cuda.is_available() else "cpu",
            )
    except (OSError, ValueError) as broken:
        raise ModelError(
            f"the reranker cannot be loaded: {str(broken).strip().splitlines()[0]}",
            where=where,
            way_out="name a folder, an encoder alias or `owner/name` on the hub, such as BAAI/bge-reranker-base",
        ) from broken
    if model.num_labels != 1:
        raise ModelError(f"the reranker gives {model.num_labels} scores for a pair, not one", where=where)
    if max_length is not None:
        model.max_seq_length = min(max_length, model.max_seq_length or max_length)
    return model


def score_pairs(
    model: CrossEncoder,
    pairs: Sequence[tuple[str, str]],
    *,
    tokens: int | None = None,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """The model's logits, in the order of the pairs. `tokens`: of one batch, padding included.

    Equal to `CrossEncoder.predict(pairs, activation_fn=torch.nn.Identity())` up to rounding. The logits are given,
    not their sigmoid: in float32 a sigmoid makes scores above 17 equal.
    """
    import torch

    from trainers.radio.first_token import first_token_only

    budget = tokens or (CUDA_TOKENS if model.device.type == "cuda" else CPU_TOKENS)
    scores = np.empty(len(pairs), dtype=np.float32)
    done = 0
    model.eval()
    waiting = iter(pairs)
    with torch.inference_mode(), first_token_only(model):
        while chunk := list(islice(waiting, CHUNK)):
            encoded, lengths = encode_pairs(model, chunk)
            found: list[Any] = []
            order: list[int] = []
            for rows in even_batches(lengths, budget):
                found.append(forward(model, encoded, rows))
                order += rows
                progress(done=done + len(order), total=len(pairs), unit="pairs")
            # One transfer for the chunk: fetching every batch would make the GPU wait for the host.
            scores[done + np.asarray(order)] = torch.cat(found).float().cpu().numpy()
            done += len(chunk)
    return scores


def encode_pairs(
    model: CrossEncoder, pairs: Sequence[tuple[str, str]], *, cut: bool = True
) -> tuple[Any, list[int]]:
    """Token ids of the pairs, unpadded and cut as the model's own preprocessing cuts them, and their lengths."""
    found: Any = model.tokenizer(
        [query for query, _ in pairs],
        [document for _, document in pairs],
        truncation="longest_first" if cut else False,
        max_length=model.max_seq_length if cut else None,
        padding=False,
    )
    return found, [len(ids) for ids in found["input_ids"]]


def even_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places by falling length, cut so that rows times the longest stay within the budget; at least one a batch."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def forward(model: CrossEncoder, encoded: Any, rows: Sequence[int], *, through: Any = None) -> Any:
    """Logits of these rows, padded to the longest of them; `through`: what wraps the model, if anything does."""
    tokenizer: Any = model.tokenizer
    batch = tokenizer.pad({key: [encoded[key][row] for row in rows] for key in encoded}, return_tensors="pt")
    features = {key: value.to(model.device, non_blocking=True) for key, value in batch.items()}
    return (through or model)({**features, "modality": "text"})["scores"].squeeze(-1)


def rerank(
    model: CrossEncoder,
    questions: Sequence[str],
    documents: Sequence[Sequence[str]],
    *,
    tokens: int | None = None,
    progress: Progress = silent,
) -> list[NDArray[np.float32]]:
    """A score for every document of every question. Nothing else goes in: no gold answer and no rationale."""
    pairs = [(question, text) for question, found in zip(questions, documents, strict=True) for text in found]
    scores = score_pairs(model, pairs, tokens=tokens, progress=progress)
    ends = np.cumsum([len(found) for found in documents])
    return [np.asarray(part) for part in np.split(scores, ends[:-1])] if len(documents) else []
