"""Batches for unlearning: each forget row beside a retain row and a template, in one layout for one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from trainers.engine.batches import Answers, Batch, Groups, Tokens
from trainers.engine.groups import Engine, Layout
from trainers.engine.logprobs import sums
from trainers.engine.scoring import Scored
from trainers.losses import Pairs, Rows, Totals
from trainers.losses.unlearning import mean_probability

ORDER, PARTNER = 1, 2
"""What random numbers are for, so that no two uses share them."""


class Drawn:
    """The forget rows, each with the retain row and the template that its epoch brings.

    Place epoch * len + i is row i in that epoch: what is drawn depends on (seed, epoch, i) alone, not on the process
    that loads it, on the batch, or on what ran before. Nothing has to be told which epoch it is.
    """

    def __init__(self, forget: Any, retain: Any, seed: int) -> None:
        self.forget, self.retain, self.seed = forget, retain, seed
        self.column_names = ["prompt_ids", "completions", "retain_prompt_ids", "retain_ids"]

    def __len__(self) -> int:
        return len(self.forget)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, place: int) -> dict[str, Any]:
        epoch, index = divmod(int(place), len(self))
        row = self.forget[index]
        if "completions" in row:
            answer, *templates = row["completions"]
            completions = [answer, templates[epoch % len(templates)]]
        else:
            completions = [row["completion_ids"]]
        made = {"prompt_ids": row["prompt_ids"], "completions": completions}
        if self.retain is not None:
            drawn = np.random.default_rng([self.seed, PARTNER, epoch, index]).integers(len(self.retain))
            partner = self.retain[int(drawn)]
            made |= {"retain_prompt_ids": partner["prompt_ids"], "retain_ids": partner["completion_ids"]}
        return made


class EpochSampler(Sampler[int]):
    """The places of one epoch in `Drawn`, in an order that depends on (seed, epoch) alone."""

    def __init__(self, rows: Drawn) -> None:
        self.rows, self.epoch = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        size = len(self.rows)
        order = np.random.default_rng([self.rows.seed, ORDER, self.epoch]).permutation(size)
        return iter((self.epoch * size + order).tolist())


class Forgotten(NamedTuple):
    """What the two terms of the loss read."""

    forget: Rows
    pairs: Pairs | None
    """Template and answer to forget, where the method has templates."""
    probabilities: tuple[torch.Tensor, torch.Tensor] | None
    """The mean token probabilities of the same two."""
    retain: Rows | None


@dataclass
class ForgetBatches:
    """Collates rows of `Drawn`, and turns the log-probabilities of their answers into what the losses read."""

    pad: int
    kl: bool = False
    """Whether the distributions at the retain answers' tokens are asked for."""
    engine: Engine = "padded"
    reference: Tokens | None = None

    def __call__(self, rows: Sequence[Any]) -> Batch:
        groups = Groups(self.engine == "tree")
        places: dict[str, list[tuple[int, int]]] = {"forget": [], "template": [], "retain": []}
        known: list[np.ndarray] = []
        for row in rows:
            found = groups.add(Answers(list(row["prompt_ids"]), [list(ids) for ids in row["completions"]]))
            for side, place in zip(("forget", "template"), found, strict=False):
                places[side].append(place)
            if self.reference is not None:
                known += [self.reference(row["prompt_ids"], one) for one in row["completions"]]
        partners = [
            Answers(list(r["retain_prompt_ids"]), [list(r["retain_ids"])]) for r in rows if "retain_ids" in r
        ]
        places["retain"] = [groups.add(one)[0] for one in partners]
        made, before = groups.lay_out(self.engine, self.pad, None)
        index = {
            side: torch.tensor([before[g] + i for g, i in found], dtype=torch.long)
            for side, found in places.items()
        }
        # `weight` first: by it, accelerate tells how large a batch is.
        batch: Batch = {"weight": torch.ones(len(rows)), **index, **made}
        if self.reference is not None:
            batch["reference"] = torch.from_numpy(np.concatenate(known))
            batch["reference_lengths"] = torch.tensor([len(one) for one in known])
        if self.kl:
            batch["layout"].wanted = _tokens_of(batch["layout"], index["retain"])
            batch["retain_layout"] = self._alone(partners)
        return batch

    def _alone(self, partners: list[Answers]) -> Layout:
        """The retain rows by themselves, for the reference's forward; the same tokens in the same order."""
        groups = Groups(self.engine == "tree")
        places = [groups.add(one)[0] for one in partners]
        made, before = groups.lay_out(self.engine, self.pad, None)
        layout: Layout = made["layout"]
        layout.wanted = _tokens_of(layout, torch.tensor([before[g] + i for g, i in places]))
        return layout

    def inputs(self, batch: Batch, scored: Scored) -> Forgotten:
        """Sums and mean probabilities; policy and reference are summed alike, so that they can be the same number."""
        found = sums(scored.tokens, scored.offsets)
        lengths = scored.offsets.diff().to(scored.tokens.device)
        forget, template, retain = batch["forget"], batch["template"], batch["retain"]
        below: torch.Tensor | None = None
        if "reference" in batch:
            bounds = torch.cat(
                (batch["reference_lengths"].new_zeros(1), batch["reference_lengths"].cumsum(0))
            )
            below = sums(batch["reference"].to(scored.tokens.device), bounds)
            below = below.view(len(forget), -1)
        pairs = probabilities = None
        if len(template):
            reference = (None, None) if below is None else (below[:, 1], below[:, 0])
            pairs = Pairs(found[template], found[forget], lengths[template], lengths[forget], *reference)
            each = mean_probability(scored.tokens, scored.offsets)
            probabilities = (each[template], each[forget])
        return Forgotten(
            Rows(found[forget], lengths[forget], None if below is None else below[:, 0]),
            pairs,
            probabilities,
            Rows(found[retain], lengths[retain]) if len(retain) else None,
        )

    def totals(self, batch: Batch) -> Totals:
        """What the means of a step divide by, before anything is computed: of forget and of retain rows."""
        lengths = batch["layout"].offsets.diff().to(batch["weight"].device)
        sides = [batch["forget"], batch["retain"]]
        rows = torch.stack([batch["weight"].new_tensor(float(len(side))) for side in sides])
        return Totals(rows, torch.stack([lengths[side].sum().to(rows) for side in sides]))


def _tokens_of(layout: Layout, answers: torch.Tensor) -> torch.Tensor:
    """The places of these answers' tokens among the scored ones, answer by answer."""
    bounds = layout.offsets.tolist()
    return torch.cat([torch.arange(bounds[i], bounds[i + 1]) for i in answers.tolist()])
