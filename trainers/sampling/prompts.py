"""Rows with a prompt, as the token ids that a model answers; every row that is left out is counted and told.

An empty prompt is dropped. So is one that leaves no room for `max_new_tokens` in the model's context, since an answer
to a part of a prompt is an answer to another prompt. Every other fault of a row is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.encoding import Encoder, TokeniseOptions, render_prompt
from data.errors import DataError
from data.jsonl import replacing
from data.ledger import Ledger
from data.pictures import COLUMN, picture_of
from data.records import check_row
from data.sources import Mixture, read
from trainers.models import Loaded
from trainers.vision.eyes import Eyes, Pictured
from trainers.work import LEDGER, Work

ANSWERS = ("completion", "chosen", "rejected", "label")
"""Columns of training rows that say how a prompt was answered before."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and the row it came in."""

    key: str
    """The row's `id`, or one made from the prompt's text: it stays the same when rows come and go."""
    ids: list[int]
    """Its tokens; none where a server tokenises it."""
    row: dict[str, Any]
    """The row without its id."""


def read_prompts(
    mixture: Mixture,
    base: Path,
    tokenizer: Any,
    context: int | None,
    work: Work,
    *,
    room: int,
    reserved: Sequence[str] = (),
    eyes: Eyes | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> tuple[list[Prompt], Ledger]:
    """All prompts that can be answered with `room` new tokens; `reserved` are columns the caller writes itself.

    Without a tokenizer the prompts are for a server, which has its own. A row's `image` is shown to a model that has
    `eyes`; `pictures` says by the rows' ids where they are, when they do not lie beside the rows.
    """
    if pictures and eyes is None:
        raise DataError(
            f"{len(pictures)} of the prompts have a picture, and the model sees none",
            where=", ".join(source.path for source in mixture.sources),
            way_out="take a model that sees, such as the alias `tiny-llava`, or leave the column out",
        )
    ledger = Ledger(name="prompts")
    encoder = None if tokenizer is None else Encoder(tokenizer, TokeniseOptions(), ledger)
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    ignored: dict[str, int] = {}
    unseen = 0
    for where, row in read(mixture, base, ledger):
        prompt = row.get("prompt")
        if prompt == [] or (isinstance(prompt, str) and not prompt.strip()):
            ledger.drop("the prompt is empty", where)
            continue
        row = check_row(row, "prompt", where)
        taken = [column for column in reserved if column in row]
        if taken:
            raise DataError(
                f"the column '{taken[0]}' is one that this stage writes",
                where=where,
                way_out="rename it with columns: {our name: their name}",
            )
        unseen += eyes is None and row.get(COLUMN) is not None
        picture: Path | None = None
        if eyes is not None:
            picture = picture_of(row, where) if pictures is None else pictures.get(str(row.get("id")))
        ids = _for_server(row, where) if encoder is None else _tokens(encoder, row, where, eyes, picture)
        if not ids and encoder is not None:
            ledger.drop("the prompt has no tokens", where)
            continue
        if context is not None and len(ids) + room > context:
            ledger.drop(
                f"with {room} new tokens the prompt is longer than the model's context ({context})", where
            )
            continue
        key = _key(row, places, where)
        places[key] = where
        for column in ANSWERS:
            if column in row:
                ignored[column] = ignored.get(column, 0) + 1
        rest = {column: value for column, value in row.items() if column != "id"}
        prompts.append(Prompt(key, ids, rest))
        if encoder is None:
            ledger.kept += 1  # how long it is, only the server knows
        else:
            ledger.keep(length=len(ids), tokens=len(ids), loss_tokens=0)
    for line in ledger.lines():
        work.say(line)
    with replacing(work.out / LEDGER) as file:
        file.write(json.dumps({"prompts": ledger.to_json()}, indent=2, ensure_ascii=False).encode() + b"\n")
    for column, rows in ignored.items():
        work.say(f"prompts: {rows:,} rows have a '{column}' already; the model answers without it")
    if unseen:
        work.say(f"prompts: {unseen:,} rows have a picture, and who answers does not see it")
    if not prompts:
        reasons = "; ".join(f"{reason}: {entry.count}" for reason, entry in ledger.dropped.items())
        raise DataError(
            f"no prompt is left to answer ({reasons})",
            where=", ".join(source.path for source in mixture.sources),
            way_out="lower max_new_tokens, shorten the prompts, or take a model with a longer context",
        )
    return prompts, ledger


def _tokens(
    encoder: Encoder, row: dict[str, Any], where: str, eyes: Eyes | None, picture: Path | None
) -> list[int]:
    if eyes is not None:
        if picture is not None:
            shown = {**row, "prompt": eyes.show(row["prompt"], picture)}
            return Pictured(_tokens(encoder, shown, where, None, None), picture, eyes)
        row = {**row, "prompt": eyes.spoken(row["prompt"])}
    if isinstance(row["prompt"], str):
        return render_prompt(encoder.tokenizer, row["prompt"])
    return list(encoder.encode(row["prompt"], row, where, add_generation_prompt=True)["input_ids"])


def tokens_of(loaded: Loaded, prompt: Any, picture: Path | None) -> list[int]:
    """A prompt as this model reads it, with its picture where it has one."""
    eyes = loaded.eyes
    tokenizer: Any = loaded.tokenizer
    if eyes is None:
        return render_prompt(tokenizer, prompt)
    if picture is None:
        return render_prompt(tokenizer, eyes.spoken(prompt))
    return Pictured(render_prompt(tokenizer, eyes.show(prompt, picture)), picture, eyes)


def _for_server(row: dict[str, Any], where: str) -> list[int]:
    if row.get("tools"):
        raise DataError(
            "the row has `tools`, and a server would answer with calls of them instead of text",
            where=where,
            way_out="leave the column out, or let a `model` answer",
        )
    return []


def context_of(model: Any) -> int | None:
    """How many tokens the model was made for; None where its config does not say."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def _key(row: dict[str, Any], places: dict[str, str], where: str) -> str:
    own = row.get("id")
    if own is not None:
        if isinstance(own, bool) or not isinstance(own, (str, int)) or own == "":
            raise DataError(f"`id` is {own!r}", where=where, way_out="make it text or a whole number")
        if str(own) in places:
            raise DataError(
                f"`id` {own!r} stands twice, first at {places[str(own)]}",
                where=where,
                way_out="give every row its own, or leave the column out",
            )
        return str(own)
    text = json.dumps(row["prompt"], sort_keys=True, ensure_ascii=False)
    made = hashlib.sha256(text.encode()).hexdigest()[:12]
    again = 1
    while (key := made if again == 1 else f"{made}-{again}") in places:
        again += 1
    return key
