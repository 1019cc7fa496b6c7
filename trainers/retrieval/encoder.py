"""A dense encoder over sentence-transformers: prefixes, length-sorted batches, and vectors that are made only once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError
from trainers.fingerprint import fingerprint, start_identity
from trainers.radio.config import EncoderOptions
from trainers.radio.encoders import ENCODERS, encoder_folder
from trainers.radio.reranking import CPU_TOKENS, CUDA_TOKENS, even_batches
from trainers.retrieval.store import EmbeddingStore
from trainers.work import Progress, silent

Side = Literal["query", "document"]
CHUNK = 8192
"""Texts that are tokenised, sorted and written together; what a killed run loses at most."""


class Encoder:
    """Unit vectors of questions and passages. With a store, a text it holds is never encoded again."""

    def __init__(
        self, options: EncoderOptions, cache: Path | None = None, store_dtype: str = "float32"
    ) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self.options = options
        where = encoder_folder(options.encoder)
        try:
            self.model: Any = SentenceTransformer(
                where,
                revision=options.encoder_revision,
                model_kwargs={"dtype": getattr(torch, options.encoder_dtype)},
                device="cuda" if torch.cuda.is_available() else "cpu",
            )
        except (OSError, ValueError) as broken:
            raise ModelError(
                f"the encoder cannot be loaded: {str(broken).strip().splitlines()[0]}",
                where=where,
                way_out=f"name {', '.join(ENCODERS)}, a folder, or `owner/name` on the hub, such as BAAI/bge-m3",
            ) from broken
        self.model.eval()
        self.readable = int(self.model.max_seq_length or options.document_max_length)
        self.dimension = int(self.model.get_embedding_dimension())
        self.encoded = 0
        """Texts that went through the model."""
        self.cut = 0
        """Of these, the ones that were too long."""
        self.cache = cache
        self.store_dtype = store_dtype
        self._stores: dict[Side, EmbeddingStore] = {}

    def max_length(self, side: Side) -> int:
        asked = self.options.query_max_length if side == "query" else self.options.document_max_length
        return min(asked, self.readable)

    def prompt(self, side: Side) -> str:
        return self.options.query_prompt if side == "query" else self.options.document_prompt

    def identity(self, side: Side) -> str:
        """Everything but the text that decides a vector."""
        name = self.options.encoder
        alias = ENCODERS.get(name)
        weights: object = alias.sha256 if alias else start_identity(name)
        parts = (weights, self.options.encoder_revision, self.options.encoder_dtype)
        return fingerprint("embedding 1", *parts, self.prompt(side), self.max_length(side))

    def store(self, side: Side) -> EmbeddingStore:
        if self.cache is None:
            raise ModelError("this encoder keeps no vectors", way_out="give it a cache folder")
        if side not in self._stores:
            self._stores[side] = EmbeddingStore(
                self.cache, self.identity(side), self.dimension, self.store_dtype
            )
        return self._stores[side]

    def __call__(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """Vectors in the order of the texts, from the store where it has them."""
        if self.cache is None:
            return self.fresh(texts, side)
        rows = self.fill(texts, side)
        # A block of a map: only its pages are read.
        return np.asarray(self.store(side).vectors()[rows], dtype=np.float32)

    def fill(
        self, texts: Iterable[str], side: Side, *, total: int | None = None, progress: Progress = silent
    ) -> NDArray[np.int64]:
        """Make sure the store holds every text, streamed; returns their rows in it."""
        store = self.store(side)
        found: list[NDArray[np.int64]] = []
        done = 0
        for chunk in _chunks(texts):
            rows = store.rows(chunk)
            missing = list(dict.fromkeys(text for text, row in zip(chunk, rows, strict=True) if row < 0))
            if missing:
                store.append(missing, self.fresh(missing, side))
                rows = store.rows(chunk)
            found.append(rows)
            done += len(chunk)
            progress(done=done, total=total, unit="texts")
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def fresh(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """Vectors by the model, whatever the store holds."""
        import torch

        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        done = 0
        with torch.inference_mode():
            for chunk in _chunks(texts):
                encoded, lengths = self._tokenise(chunk, side)
                order: list[int] = []
                found: list[Any] = []
                for rows in even_batches(lengths, self._budget()):
                    found.append(self._forward(encoded, rows))
                    order += rows
                out[done + np.asarray(order)] = torch.cat(found).float().cpu().numpy()
                done += len(chunk)
        self.encoded += len(texts)
        return out

    def close(self) -> None:
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def _budget(self) -> int:
        if self.options.encode_tokens is not None:
            return self.options.encode_tokens
        return CUDA_TOKENS if self.model.device.type == "cuda" else CPU_TOKENS

    def _tokenise(self, texts: Sequence[str], side: Side) -> tuple[Any, list[int]]:
        prompt, limit = self.prompt(side), self.max_length(side)
        given = [prompt + text for text in texts] if prompt else list(texts)
        found: Any = self.model.tokenizer(
            given, truncation=True, max_length=limit, padding=False, return_overflowing_tokens=False
        )
        lengths = [len(ids) for ids in found["input_ids"]]
        full = [place for place, length in enumerate(lengths) if length >= limit]
        if full:
            # Exactly as long as allowed, or cut to it: the length before cutting tells.
            whole: Any = self.model.tokenizer([given[place] for place in full], padding=False, verbose=False)
            self.cut += sum(len(ids) > limit for ids in whole["input_ids"])
        return found, lengths

    def _forward(self, encoded: Any, rows: Sequence[int]) -> Any:
        import torch

        picked = {key: [encoded[key][row] for row in rows] for key in encoded}
        batch = self.model.tokenizer.pad(picked, return_tensors="pt")
        features = {key: value.to(self.model.device, non_blocking=True) for key, value in batch.items()}
        vectors = self.model({**features, "modality": "text"})["sentence_embedding"]
        return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(texts)
    while chunk := list(islice(waiting, CHUNK)):
        yield chunk
