"""The reference of a preference stage: token log-probabilities of the policy it starts from, kept on disk by content.

What a value depends on is its key: the tokens, the weights below what is trained, and how they are computed. So it
serves every loss, beta, learning rate and run that starts from the same policy, and more rows cost only themselves.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.errors import DataError, ModelError
from trainers.engine.batches import Answers, answers
from trainers.engine.groups import lay_out
from trainers.engine.scoring import score
from trainers.store.identity import model_identity
from trainers.store.tokens import TokenStore, key
from trainers.work import Work

if TYPE_CHECKING:
    from datasets import Dataset

MAX_GAP = 1e-3
"""Nats a row's sum may move when it is measured again in another batch: another order of adding, not another policy."""
FLUSH_EVERY = 10.0
"""Seconds of measuring that a killed run loses at most."""


class Reference:
    """The reference values of one stage, and the check that they are the starting policy's."""

    def __init__(self, work: Work, start: object) -> None:
        self.work = work
        self.start = start
        self.store: TokenStore | None = None
        self.gap = 0.0
        """Largest difference, in nats, between stored values and the policy measured again."""
        self.measured = 0
        self.read_back = 0

    def __call__(self, prompt: Sequence[int], completion: Sequence[int]) -> np.ndarray:
        """The values of one answer, token by token."""
        return self._open().read(key(prompt, completion))

    def add(self, dataset: Dataset, name: str, trainer: Any, batch_size: int) -> None:
        """Measure what is not stored yet; `trainer.model` must hold the starting policy.

        Where all of it is stored, the first rows are measured again: the store may be right, and this the wrong model.
        """
        store = self.store
        if store is None:
            # Opened here and not earlier: the identity is that of the model which will be trained.
            store = self.store = TokenStore(self.work.references, self._identity(trainer))
            for fault in store.faults():
                self.work.say(f"reference store: {fault}")
        keys: list[list[bytes]] = []
        sizes: list[int] = []
        for row in dataset:
            prompt, completions = answers(row)  # pyright: ignore[reportArgumentType]
            keys.append([key(prompt, one) for one in completions])
            sizes.append(len(prompt) + sum(map(len, completions)))
        places = [(i, j) for i, several in enumerate(keys) for j in range(len(several))]
        todo = [places[n] for n in store.missing([keys[i][j] for i, j in places])]
        known = len({one for several in keys for one in several}) - len(todo)
        self.read_back += known
        if known:
            stored = [place for place in places if keys[place[0]][place[1]] in store][:batch_size]
            self._check(dataset, stored, trainer)
        if todo:
            self._measure(dataset, todo, sizes, name, trainer, batch_size)
        self.measured += len(todo)
        self.work.say(f"reference ({name}): {len(todo)} answers measured, {known} read from the store")

    def _measure(
        self,
        dataset: Dataset,
        todo: list[tuple[int, int]],
        sizes: list[int],
        name: str,
        trainer: Any,
        batch_size: int,
    ) -> None:
        store, accelerator = self._open(), trainer.accelerator
        wanted: dict[int, list[int]] = {}
        for i, j in todo:
            wanted.setdefault(i, []).append(j)
        # The longest first: what does not fit into memory shows at once.
        order = sorted(wanted, key=lambda i: -sizes[i])
        mine = order[accelerator.process_index :: accelerator.num_processes]
        told, done = time.monotonic(), 0
        for chunk in _chunks(mine, batch_size):
            groups = [_chosen(dataset, i, wanted[i]) for i in chunk]
            values = _log_probs(trainer, groups)
            for i, group in zip(chunk, groups, strict=True):
                for completion in group.completions:
                    found = next(values)
                    if not np.isfinite(found).all():
                        raise ModelError(
                            "the starting policy's log-probabilities are not finite",
                            where=f"row {i} of the tokenised {name} rows",
                            way_out="Look at the weights and at dtype; float16 overflows where bfloat16 does not.",
                        )
                    store.add(key(group.prompt, completion), found)
            done += len(chunk)
            if time.monotonic() - told > FLUSH_EVERY:
                store.flush()
                told = time.monotonic()
            self.work.progress(done=done, total=len(mine), unit=f"reference rows ({name})")
        store.flush()
        accelerator.wait_for_everyone()
        store.refresh()

    def _check(self, dataset: Dataset, stored: list[tuple[int, int]], trainer: Any) -> None:
        store = self._open()
        groups = [_chosen(dataset, i, [j]) for i, j in stored]
        for group, again in zip(groups, _log_probs(trainer, groups), strict=True):
            kept = store.read(key(group.prompt, group.completions[0]))
            gap = float(np.abs(again.sum(dtype=np.float64) - kept.sum(dtype=np.float64)))
            self.gap = max(self.gap, gap)
        if not self.gap <= MAX_GAP * (100 if _half(trainer) else 1):
            raise ModelError(
                f"the stored reference is {self.gap:.3g} nats away from the policy that training starts from",
                where=str(store.folder),
                way_out="Remove that folder: it will be measured again.",
            )

    def _identity(self, trainer: Any) -> Mapping[str, object]:
        args, model = trainer.args, trainer.model
        found = {
            **model_identity(model, self.start),
            "dtype": str(next(model.parameters()).dtype),
            "autocast": "bfloat16" if args.bf16 else "float16" if args.fp16 else None,
            "engine": trainer.engine,
            "attention": model.config.get_text_config()._attn_implementation,
            "device": trainer.accelerator.device.type,
        }
        if trainer.accelerator.num_processes > 1:
            # With FSDP only the first process may hold the weights yet.
            shared: list[Any] = [found]
            torch.distributed.broadcast_object_list(shared)
            found = shared[0]
        return found

    def _open(self) -> TokenStore:
        if self.store is None:
            raise RuntimeError("the reference is read before it was measured")
        return self.store


def _log_probs(trainer: Any, groups: list[Answers]) -> Iterator[np.ndarray]:
    """Token by token, answer by answer, as training will score them."""
    if any(not completion for group in groups for completion in group.completions):
        raise DataError("an answer without tokens has no reference")
    pad = trainer.data_collator.pad
    layout = lay_out([(g.prompt, g.completions) for g in groups], trainer.engine, pad=pad)
    training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        found = score(trainer, trainer.model, layout.to(trainer.accelerator.device))
    trainer.model.train(training)
    tokens = found.tokens.cpu()
    kept = tokens if tokens.dtype == torch.float64 else tokens.float()
    bounds = found.offsets.tolist()
    return (kept[a:b].numpy() for a, b in itertools.pairwise(bounds))


def _chosen(dataset: Dataset, i: int, which: list[int]) -> Answers:
    prompt, completions = answers(dataset[i])
    return Answers(prompt, [completions[j] for j in which])


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _half(trainer: Any) -> bool:
    dtype = next(trainer.model.parameters()).dtype
    return bool(trainer.args.bf16 or trainer.args.fp16) or dtype in (torch.bfloat16, torch.float16)
