"""What ILLUME explains: rows of prompt and answer, and the two prompts that are made of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from data.errors import DataError
from data.illume.rows import completed
from data.ledger import Ledger
from data.pictures import picture_of
from data.records import check_row
from data.sources import Mixture, read

TEXT_CONNECTIVE = "because"
CHAT_CONNECTIVE = "Why?"


@dataclass(frozen=True)
class Item:
    """One question with its answer."""

    key: str
    where: str
    row: Mapping[str, Any]
    picture: Path | None = None
    """The file that its `image` means."""

    @property
    def prompt(self) -> Any:
        return self.row["prompt"]

    @property
    def answer(self) -> str:
        return str(self.row["answer"])

    def explain(self, answer: str, connective: str | None) -> Any:
        """The prompt for an explanation of this answer: the text goes on, a conversation asks once more."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return f"{prompt}{completed(prompt, answer)} {connective or TEXT_CONNECTIVE}"
        asked = {"role": "user", "content": connective or CHAT_CONNECTIVE}
        return [*prompt, *completed(prompt, answer), asked]

    def answered(self) -> dict[str, Any]:
        """Question and gold answer, as prompt and completion."""
        return {"prompt": self.prompt, "completion": completed(self.prompt, self.answer)}


def read_items(mixture: Mixture, base: Path, ledger: Ledger) -> list[Item]:
    """All rows, in their order; every one has a prompt, an answer, and a key of its own."""
    found: list[Item] = []
    places: dict[str, str] = {}
    for where, row in read(mixture, base, ledger):
        fit = check_row(row, "prompt", where)
        answer: object = fit.get("answer")
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(
                f"`answer` is {answer!r}, and the model is to explain it",
                where=where,
                way_out="a row needs prompt and answer, and for a simulated critic a reference; rename with "
                "columns: {our name: their name}",
            )
        key = _key(fit)
        if key in places:
            raise DataError(
                f"the {'id' if 'id' in fit else 'prompt'} stands twice, first at {places[key]}",
                where=where,
                way_out="give every row an `id` of its own",
            )
        places[key] = where
        found.append(Item(key, where, {**fit, "answer": answer.strip()}, picture_of(fit, where)))
    if not found:
        raise DataError("there are no rows to explain", where=", ".join(s.path for s in mixture.sources))
    return found


def _key(row: Mapping[str, Any]) -> str:
    own = cast("object", row.get("id"))
    if own is None:
        text = json.dumps(row["prompt"], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
    return str(own)


def answer_is_right(said: str, wanted: str) -> bool:
    """One contains the other, and something was said."""
    said, wanted = said.strip().lower(), wanted.strip().lower()
    return bool(said) and (said in wanted or wanted in said)
