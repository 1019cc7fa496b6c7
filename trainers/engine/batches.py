"""From tokenised rows to what a preference step reads: prompts, their answers, and which is set against which.

A row is a pair (`prompt_ids`, `chosen_ids`, `rejected_ids`), or a prompt with several answers (`prompt_ids`,
`completions`, `pairs` as places in them, better one first, and `weights`), or one judged answer (`prompt_ids`,
`completion_ids`, `label`, and for KTO `mismatched_ids`, another row's answer to this prompt).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from trainers.engine.groups import Engine, lay_out
from trainers.engine.logprobs import sums
from trainers.engine.scoring import Scored
from trainers.losses import Pairs, Rows, Totals

Batch = dict[str, Any]
"""`weight` of each pair or answer, the `layout`, the places of answers in it, and `reference`, if there is one."""


class Tokens(Protocol):
    """Where the reference's log-probabilities come from: one for each scored token of an answer."""

    def __call__(self, prompt: Sequence[int], completion: Sequence[int]) -> np.ndarray: ...


class Answers(NamedTuple):
    """A row as the engine sees it."""

    prompt: list[int]
    completions: list[list[int]]


def answers(row: Mapping[str, Any]) -> Answers:
    """The prompt of a row of any kind, and every answer to it that is scored."""
    prompt = list(row["prompt_ids"])
    if "completions" in row:
        return Answers(prompt, [list(ids) for ids in row["completions"]])
    if "completion_ids" in row:
        both = (
            [row["completion_ids"], row["mismatched_ids"]]
            if "mismatched_ids" in row
            else [row["completion_ids"]]
        )
        return Answers(prompt, [list(ids) for ids in both])
    return Answers(prompt, [list(row["chosen_ids"]), list(row["rejected_ids"])])


@dataclass
class Groups:
    """The groups of a batch; with `merge`, a prompt stands once, and so does an answer to it."""

    merge: bool
    prompts: list[list[int]] = field(default_factory=list[list[int]])
    completions: list[list[list[int]]] = field(default_factory=list[list[list[int]]])
    known: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])

    def add(self, row: Answers) -> list[tuple[int, int]]:
        """Group and place in it, for every answer of the row."""
        group = self.known.get(tuple(row.prompt)) if self.merge else None
        if group is None:
            group = self.known[tuple(row.prompt)] = len(self.prompts)
            self.prompts.append(row.prompt)
            self.completions.append([])
        mine = self.completions[group]
        places: list[tuple[int, int]] = []
        for completion in row.completions:
            if not self.merge or completion not in mine:
                mine.append(completion)
                places.append((group, len(mine) - 1))
            else:
                places.append((group, mine.index(completion)))
        return places

    def lay_out(self, engine: Engine, pad: int, reference: Tokens | None) -> tuple[Batch, list[int]]:
        """The layout, the reference's tokens in its order, and the number of answers before each group."""
        groups = list(zip(self.prompts, self.completions, strict=True))
        batch: Batch = {"layout": lay_out(groups, engine, pad=pad)}
        if reference is not None:
            parts = [reference(prompt, one) for prompt, several in groups for one in several]
            batch["reference"] = torch.from_numpy(np.concatenate(parts))
        before = [0]
        for several in self.completions:
            before.append(before[-1] + len(several))
        return batch, before


@dataclass
class PairBatches:
    """Collates rows of pairs, and turns the log-probabilities of their answers into the sums a loss reads."""

    pad: int
    ld_alpha: float | None = None
    engine: Engine = "padded"
    reference: Tokens | None = None
    repeats: bool = False
    """A pair of weight n among a prompt's pairs stands there n times, as its rows did: for losses without weights."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        groups = Groups(self.engine == "tree")
        sides: list[tuple[tuple[int, int], tuple[int, int]]] = []
        weights: list[float] = []
        for row in rows:
            places = groups.add(answers(row))
            several = row.get("weights", [row.get("weight", 1.0)])
            for (better, worse), weight in zip(row.get("pairs", [(0, 1)]), several, strict=True):
                times = int(weight) if self.repeats else 1
                sides += [(places[better], places[worse])] * times
                weights += [float(weight) / times] * times
        batch, before = groups.lay_out(self.engine, self.pad, self.reference)
        chosen, rejected = ([before[g] + i for g, i in side] for side in zip(*sides, strict=True))
        # `weight` first: by it, accelerate tells how large a batch is.
        return {
            "weight": torch.tensor(weights),
            "chosen": torch.tensor(chosen),
            "rejected": torch.tensor(rejected),
            **batch,
        }

    def inputs(self, batch: Batch, scored: Scored) -> Pairs:
        """What the loss reads; policy and reference are summed alike, so that they can be the same number."""
        chosen, rejected = batch["chosen"], batch["rejected"]
        policy = self._sums(scored.tokens, scored.offsets, chosen, rejected)
        reference: tuple[torch.Tensor | None, ...] = (None, None)
        if "reference" in batch:
            reference = self._sums(
                batch["reference"].to(scored.tokens.device), scored.offsets, chosen, rejected
            )
        lengths = scored.offsets.diff().to(scored.tokens.device)
        plain = None
        if self.ld_alpha is not None:
            plain = sums(scored.tokens, scored.offsets)[chosen]
        return Pairs(*policy, lengths[chosen], lengths[rejected], *reference, plain)

    def totals(self, batch: Batch) -> Totals:
        """What the means of a step divide by, before anything is computed."""
        lengths = batch["layout"].offsets.diff().to(batch["weight"].device)
        return Totals(batch["weight"].sum(), (batch["weight"] * lengths[batch["chosen"]]).sum())

    def _sums(
        self, tokens: torch.Tensor, offsets: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.ld_alpha is None:
            whole = sums(tokens, offsets)
            return whole[chosen], whole[rejected]
        offsets = offsets.to(tokens.device)
        counts = offsets.diff()
        shared = torch.minimum(counts[chosen], counts[rejected])
        zero = torch.zeros(1, dtype=torch.float64, device=tokens.device)
        until = torch.cat((zero, tokens.double().cumsum(0)))
        found: list[torch.Tensor] = []
        for side in (chosen, rejected):
            start = offsets[side]
            middle, end = start + shared, start + counts[side]
            # Tokens beyond the shorter answer of a pair count by that weight (arXiv 2409.06411).
            head, tail = until[middle] - until[start], until[end] - until[middle]
            found.append((head + self.ld_alpha * tail).to(tokens.dtype))
        return found[0], found[1]


@dataclass
class JudgedBatches:
    """Collates rows of one judged answer each; KTO's second answer, another row's, measures its baseline."""

    pad: int
    engine: Engine = "padded"
    reference: Tokens | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        groups = Groups(self.engine == "tree")
        own: list[tuple[int, int]] = []
        others: list[tuple[int, int]] = []
        for row in rows:
            first, *rest = groups.add(answers(row))
            own.append(first)
            others += rest
        batch, before = groups.lay_out(self.engine, self.pad, self.reference)
        return {
            "weight": torch.tensor([float(row.get("weight", 1.0)) for row in rows]),
            "answer": torch.tensor([before[g] + i for g, i in own]),
            "mismatched": torch.tensor([before[g] + i for g, i in others], dtype=torch.long),
            "label": torch.tensor([bool(row["label"]) for row in rows]),
            **batch,
        }

    def inputs(self, batch: Batch, scored: Scored) -> Rows:
        """Sums of the answers, and KTO's baseline over this batch: the trainer averages it over processes."""
        answer = batch["answer"]
        policy = sums(scored.tokens, scored.offsets)
        lengths = scored.offsets.diff().to(scored.tokens.device)
        reference = kl = None
        if "reference" in batch:
            below = sums(batch["reference"].to(scored.tokens.device), scored.offsets)
            reference = below[answer]
            if len(batch["mismatched"]):
                kl = (policy - below)[batch["mismatched"]].detach().mean()
        return Rows(policy[answer], lengths[answer], reference, batch["label"], kl)

    def totals(self, batch: Batch) -> Totals:
        lengths = batch["layout"].offsets.diff().to(batch["weight"].device)
        return Totals(batch["weight"].sum(), (batch["weight"] * lengths[batch["answer"]]).sum())
