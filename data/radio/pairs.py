"""Preference pairs from groups: an extension of ours, on the generator's side and as plain pairs of documents.

A generator that answers from the aligned context is preferred to the same generator answering from an unaligned one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from data.errors import DataError
from data.radio.answers import exact_match, f1, normalise_answer
from data.radio.groups import provenance
from data.radio.rationales import Generate, Message

Against = Literal["hardest", "easiest", "each"]
Shown = Literal["aligned", "unaligned", "none"]

READER = (
    "Answer the question from the documents below. Reply with the answer alone, in as few words as it takes."
)
CLOSED_BOOK = "Answer the question. Reply with the answer alone, in as few words as it takes."


def reader_chat(question: str, documents: Sequence[str]) -> list[Message]:
    """The chat that a generator answers: instruction and numbered documents as the system turn, then the question."""
    if not documents:
        return [{"role": "system", "content": CLOSED_BOOK}, {"role": "user", "content": question}]
    numbered = "\n".join(f"[{place}] {text}" for place, text in enumerate(documents, start=1))
    return [
        {"role": "system", "content": f"{READER}\n\n{numbered}"},
        {"role": "user", "content": question},
    ]


def answer_pairs(
    groups: Iterable[Mapping[str, Any]],
    generate: Generate,
    counts: Counter[str],
    *,
    against: Against = "easiest",
    shown: Shown = "aligned",
    require_better: bool = False,
    chunk: int = 64,
) -> Iterator[dict[str, Any]]:
    """Rows `{prompt, chosen, rejected}`: the answer given the positive over the answer given a negative.

    `against`: the negative of highest rank, of lowest rank, or each of them. `shown`: the context in the pair's prompt.
    Answers that are equal in normal form, or empty, make no pair. With `require_better` the chosen answer must also
    have the higher F1 to the gold answers, which the group must then carry. All of it is counted.
    """
    waiting = iter(groups)
    while batch := list(islice(waiting, chunk)):
        counts["groups"] += len(batch)
        contexts = [[list(row["pos"]), *([text] for text in _rivals(row, against))] for row in batch]
        chats = [
            reader_chat(str(row["query"]), context)
            for row, found in zip(batch, contexts, strict=True)
            for context in found
        ]
        replies = [reply.strip() for reply in generate(chats)]
        if len(replies) != len(chats):
            raise DataError(f"{len(chats)} answers were asked for, {len(replies)} came back")
        said = iter(replies)
        for row, found in zip(batch, contexts, strict=True):
            chosen, *others = islice(said, len(found))
            for place, rejected in enumerate(others):
                pair = _pair(row, found[0], found[place + 1], chosen, rejected, shown, require_better, counts)
                if pair is not None:
                    counts["pairs"] += 1
                    yield pair


def document_pairs(groups: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The positive over each negative, with the question as the prompt: for losses that take pairs."""
    for row in groups:
        for place, negative in enumerate(row["neg"]):
            yield {
                "prompt": row["query"],
                "chosen": row["pos"][0],
                "rejected": negative,
                "negative": place,
                **provenance(row),
            }


def _rivals(row: Mapping[str, Any], against: Against) -> list[str]:
    negatives = [str(text) for text in row["neg"]]
    if against == "each":
        return negatives
    return negatives[:1] if against == "hardest" else negatives[-1:]


def _pair(
    row: Mapping[str, Any],
    aligned: Sequence[str],
    unaligned: Sequence[str],
    chosen: str,
    rejected: str,
    shown: Shown,
    require_better: bool,
    counts: Counter[str],
) -> dict[str, Any] | None:
    if not chosen or not rejected:
        counts["empty_answers"] += 1
        return None
    if normalise_answer(chosen) == normalise_answer(rejected):
        counts["equal_answers"] += 1
        return None
    golds: Sequence[str] = row.get("golden_answers") or ()
    scores: dict[str, float] = {}
    if golds:
        scores = {"f1_chosen": f1(chosen, golds), "f1_rejected": f1(rejected, golds)}
        counts["chosen_exact"] += int(exact_match(chosen, golds))
        counts["rejected_exact"] += int(exact_match(rejected, golds))
        counts["chosen_worse"] += scores["f1_chosen"] < scores["f1_rejected"]
    if require_better:
        if not golds:
            raise DataError(
                "require_better compares answers with gold ones, and a group has none",
                where=str(row.get("id", "")),
                way_out="groups made here carry `golden_answers`; or leave require_better off",
            )
        if scores["f1_chosen"] <= scores["f1_rejected"]:
            counts["not_better"] += 1
            return None
    context = {"aligned": aligned, "unaligned": unaligned, "none": ()}[shown]
    return {
        "prompt": reader_chat(str(row["query"]), context),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **scores,
        "aligned_context": list(aligned),
        "unaligned_context": list(unaligned),
        **provenance(row),
    }
