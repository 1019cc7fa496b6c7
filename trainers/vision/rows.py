"""Rows with pictures on their way into training: the picture in the prompt, and its tensors in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from data.errors import DataError
from data.pictures import COLUMN, picture_of
from data.records import Placed, Shape
from trainers.vision.eyes import Eyes, batch_tensors

PICTURE = "picture"
"""The column that holds where the picture is; empty where a row has none."""
IGNORED = -100


def show_row(eyes: Eyes | None, row: dict[str, Any], picture: Path | None) -> dict[str, Any]:
    """The row of prompt and completion as a model reads it that sees, or that does not."""
    if eyes is None:
        return row
    prompt = eyes.spoken(row["prompt"]) if picture is None else eyes.show(row["prompt"], picture)
    return {**row, "prompt": prompt, "completion": eyes.spoken(row["completion"])}


def shown(rows: Iterator[Placed], shape: Shape, eyes: Eyes | None) -> Iterator[Placed]:
    """Rows to fine-tune on, their pictures in their prompts."""
    for where, row in rows:
        if eyes is None and row.get(COLUMN) is not None:
            raise DataError(
                "the row has an `image`, and the model sees none",
                where=where,
                way_out="take a model that sees, such as the alias `tiny-llava`, or leave the column out",
            )
        if eyes is None:
            yield Placed(where, row)
            continue
        if shape != "prompt_completion":
            raise DataError(
                f"a model that sees learns from rows of prompt and completion, and these are {shape}",
                where=where,
                way_out="write the question as `prompt`, the answer as `completion`, the picture as `image`",
            )
        picture = picture_of(row, where)
        yield Placed(
            where, {**show_row(eyes, row, picture), PICTURE: "" if picture is None else str(picture)}
        )


class PicturedBatch:
    """Rows of `input_ids`, `labels` and `picture` as one padded block with the pictures' tensors."""

    def __init__(self, pad: int, eyes: Eyes) -> None:
        self.pad = pad
        self.eyes = eyes

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), self.pad)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for line, row in enumerate(rows):
            size = len(row["input_ids"])
            ids[line, :size] = torch.tensor(row["input_ids"])
            labels[line, :size] = torch.tensor(row["labels"])
            mask[line, :size] = 1
        pictures = [Path(row[PICTURE]) for row in rows if row[PICTURE]]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            **batch_tensors(self.eyes, pictures),
        }
