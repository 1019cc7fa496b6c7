"""The loss of a group: cross-entropy of its positive among its documents, whatever the number of its negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainers.radio.reranking import encode_pairs, even_batches, forward

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

CPU_FORWARD_TOKENS = 2048


def group_cross_entropy(logits: torch.Tensor, groups: Sequence[int], tau: float = 1.0) -> torch.Tensor:
    """Mean over groups of -log softmax(logits / tau) at the group's first document.

    `logits` holds the groups one after another, `groups` their sizes. Groups may differ in size; the loss of one does
    not depend on which others stand beside it.
    """
    padded = nn.utils.rnn.pad_sequence(
        list(torch.split(logits.float() / tau, list(groups))), batch_first=True, padding_value=float("-inf")
    )
    # logsumexp, not log_softmax: the gradient of a padded -inf is 0 there, and no 0 * inf arises.
    return (padded.logsumexp(dim=1) - padded[:, 0]).mean()


class GroupCrossEntropy(nn.Module):
    """The loss that CrossEncoderTrainer calls with the columns query, positive, negatives of a batch of groups.

    Pairs are scored in parts of like length, which changes the padding and nothing else.
    """

    def __init__(
        self,
        model: CrossEncoder,
        *,
        tau: float = 1.0,
        in_batch_negatives: bool = False,
        forward_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        # Kept apart: under DDP the trainer replaces `model` by its wrapper, which has no tokenizer.
        self.__dict__["encoder"] = model
        self.tau = tau
        self.in_batch_negatives = in_batch_negatives
        self.forward_tokens = forward_tokens

    def forward(self, inputs: list[Any], labels: Any = None, **_: Any) -> torch.Tensor:
        pairs, sizes = self.pairs(*inputs)
        return group_cross_entropy(self.logits(pairs), sizes, self.tau)

    def pairs(
        self, queries: Sequence[str], positives: Sequence[str], negatives: Sequence[Sequence[str]]
    ) -> tuple[list[tuple[str, str]], list[int]]:
        """Question-document pairs, each group's positive first, and the sizes of the groups."""
        pairs: list[tuple[str, str]] = []
        sizes: list[int] = []
        for query, positive, rivals in zip(queries, positives, negatives, strict=True):
            group = [positive, *rivals]
            if self.in_batch_negatives:
                group += [other for other in dict.fromkeys(positives) if other not in group]
            pairs += [(query, document) for document in group]
            sizes.append(len(group))
        return pairs, sizes

    def logits(self, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
        encoder: Any = self.__dict__["encoder"]
        encoded, lengths = encode_pairs(encoder, pairs)
        budget = self.forward_tokens
        if budget is None:
            # On CUDA one pass for all keeps the device busy; on CPU it only adds padding.
            budget = CPU_FORWARD_TOKENS if encoder.device.type == "cpu" else len(pairs) * max(lengths)
        batches = list(even_batches(lengths, budget))
        found = torch.cat([forward(encoder, encoded, rows, through=self.model) for rows in batches])
        order = torch.tensor([row for rows in batches for row in rows], device=found.device)
        return found[torch.argsort(order)]
