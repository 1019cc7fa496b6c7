"""Tuning on answers and explanations: one batch of questions, two losses, `L_ans + m * w * L_exp`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from data.chat import TokeniseOptions, tokenise
from data.errors import DataError
from data.illume.items import Item
from data.illume.loop import Mix
from data.illume.rows import completed
from data.ledger import Ledger
from data.records import Placed
from trainers.models import Loaded
from trainers.training import checkpoints
from trainers.training.watching import FiniteLoss
from trainers.vision.eyes import Eyes, batch_tensors
from trainers.vision.rows import show_row

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
PARTS = ("answer", "explanation")


class ExplainingTrainer(FiniteLoss, checkpoints.SealedCheckpoints, SFTTrainer):
    """TRL's SFTTrainer with the answers' loss and the explanations' loss apart."""

    # The loss is a mean over tokens of a batch; batches of one step count alike, as in the original.
    model_accepts_loss_kwargs = False

    def __init__(self, *args: Any, weight: float, **kwargs: Any) -> None:
        self.weight = weight
        self.parts: dict[str, list[float]] = {}
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        explains, labels = inputs["explains"], inputs["labels"]
        seen = {name: value for name, value in inputs.items() if name not in ("explains", "labels")}
        out = model(**seen)
        logits = out.logits[:, :-1].float()
        each = cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
        answers, explanations = two_losses(each, labels[:, 1:] != IGNORED, explains)
        loss = answers
        self.parts.setdefault("loss/answers", []).append(answers.item())
        if explanations is not None:
            loss = loss + self.weight * explanations
            self.parts.setdefault("loss/explanations", []).append(explanations.item())
        return (loss, out) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        means = {name: sum(values) / len(values) for name, values in self.parts.items()}
        self.parts.clear()
        super().log({**logs, **means}, *args, **kwargs)


def two_losses(
    each: torch.Tensor, scored: torch.Tensor, explains: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean over the scored tokens of the answers, and of the explanations; None where the batch has none of those.

    `each` and `scored` are rows by positions, `explains` says which rows are explanations. The mean over no token
    would be NaN, and a batch without an explanation is nothing rare.
    """
    answers = scored & ~explains[:, None]
    explanations = scored & explains[:, None]
    mean = (each * answers).sum() / answers.sum()
    if not explanations.any():
        return mean, None
    return mean, (each * explanations).sum() / explanations.sum()


class Collate:
    """A batch of questions as one padded block: all their answers, then the explanations of those that have one.

    Pictures go along in the order of the lines, once for each line that shows one.
    """

    def __init__(self, pad: int, eyes: Eyes | None = None) -> None:
        self.pad = pad
        self.eyes = eyes

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = [
            (row[f"{part}_ids"], row[f"{part}_labels"], part == "explanation")
            for part in PARTS
            for row in rows
            if row[f"{part}_ids"]
        ]
        pictures = [
            Path(row["picture"])
            for part in PARTS
            for row in rows
            if row[f"{part}_ids"] and row.get("picture")
        ]
        longest = max(len(ids) for ids, _, _ in made)
        ids = torch.full((len(made), longest), self.pad)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for line, (tokens, wanted, _) in enumerate(made):
            ids[line, : len(tokens)] = torch.tensor(tokens)
            labels[line, : len(tokens)] = torch.tensor(wanted)
            mask[line, : len(tokens)] = 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "explains": torch.tensor([explains for _, _, explains in made]),
            **batch_tensors(self.eyes, pictures),
        }


def two_part_rows(
    items: dict[str, Item], mixed: Mix, loaded: Loaded, max_length: int | None, ledger: Ledger
) -> Dataset:
    """Every row of the mixture with its answer, and its explanation where it has one, as tokens and labels."""
    from datasets import Dataset

    sources = [(items[one.id], one) for one in mixed.explained] + [
        (items[key], None) for key in mixed.answered
    ]
    found: dict[int, dict[str, Any]] = {}

    def parts() -> Iterator[Placed]:
        for place, (item, kept) in enumerate(sources):
            ledger.count_read("answers")
            yield Placed(item.where, {**shown(item, item.answered()), "place": place, "part": "answer"})
            if kept is not None:
                ledger.count_read("explanations")
                row = {"prompt": kept.prompt, "completion": completed(kept.prompt, kept.text)}
                yield Placed(item.where, {**shown(item, row), "place": place, "part": "explanation"})

    def shown(item: Item, row: dict[str, Any]) -> dict[str, Any]:
        return show_row(loaded.eyes, row, item.picture)

    tokenizer: Any = loaded.tokenizer
    options = TokeniseOptions(max_length=max_length, carry=("place", "part"))
    for row in tokenise(parts(), "prompt_completion", tokenizer, options, ledger):
        made = found.setdefault(
            row["place"], {f"{part}_{kind}": [] for part in PARTS for kind in ("ids", "labels")}
        )
        made[f"{row['part']}_ids"], made[f"{row['part']}_labels"] = row["input_ids"], row["labels"]
    for place, row in found.items():
        picture = sources[place][0].picture
        row["picture"] = str(picture) if picture is not None and loaded.eyes is not None else ""
    whole = [found[place] for place in sorted(found) if found[place]["answer_ids"]]
    if not whole:
        raise DataError("no question with its answer fits max_length", where="max_length", way_out="raise it")
    return Dataset.from_list(whole)
