"""Rationales: how a model is asked why an answer is right, how the replies are kept, and the text scored with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from data.errors import DataError
from data.jsonl import Torn, append_jsonl, iterate_jsonl

Message = dict[str, str]
Generate = Callable[[Sequence[list[Message]]], Sequence[str]]
"""Replies to chats, one each, in their order."""
Template = Literal["question_answers_rationale", "rationale", "answers"]

SYSTEM = (
    "You know how questions of fact are settled. You are given a question and the answers that count as correct. "
    "Explain briefly, from knowledge that could stand in an encyclopaedia, what makes them correct. "
    "Do not doubt the answers, and do not offer others."
)
WITH_DOCUMENTS = (
    " Passages that were found for the question are given too; use those that help, pass over the rest."
)


def request(question: str, answers: Sequence[str], documents: Sequence[str] = ()) -> list[Message]:
    """The chat that asks for a rationale: a system turn, then question, answers and the cue as three user turns.

    `documents` are shown only on request: rationales made from retrieved text lean towards that text.
    """
    system = SYSTEM
    first = f"Question: {question}"
    if documents:
        system += WITH_DOCUMENTS
        passages = "\n".join(f"[{place}] {text}" for place, text in enumerate(documents, start=1))
        first = f"Passages:\n{passages}\n\n{first}"
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": first},
        {"role": "user", "content": f"Correct answers: {json.dumps(list(answers), ensure_ascii=False)}"},
        {"role": "user", "content": "Rationale:"},
    ]


def scored_text(
    question: str, answers: Sequence[str], rationale: str, template: Template = "question_answers_rationale"
) -> str:
    """What the documents are compared with.

    The default is the official code's text, where the answers are written as a Python list. The two others are
    ablations.
    """
    if template == "rationale":
        return rationale
    if template == "answers":
        return str(list(answers))
    return f"{question}. {list(answers)}. {rationale}"


def collect_rationales(
    questions: Iterable[Mapping[str, Any]],
    generate: Generate,
    out: Path,
    *,
    documents: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 64,
) -> dict[str, int]:
    """Append a row `{id, question, golden_answers, reason, request}` for every question that has none in `out`.

    A reply is kept under the hash of what was asked, so that a changed question, answer or prompt is asked anew and an
    interrupted call goes on. Empty replies are kept too, and counted: asking again is the caller's decision.
    """
    known = kept_rationales(out)
    figures = {"questions": 0, "found": 0, "asked": 0, "empty": 0}
    open_rows: list[tuple[dict[str, Any], list[Message]]] = []

    def ask() -> None:
        replies = list(generate([chat for _, chat in open_rows]))
        if len(replies) != len(open_rows):
            raise DataError(f"{len(open_rows)} rationales were asked for, {len(replies)} came back")
        rows = [row | {"reason": reply.strip()} for (row, _), reply in zip(open_rows, replies, strict=True)]
        append_jsonl(out, rows)
        figures["asked"] += len(rows)
        figures["empty"] += sum(not row["reason"] for row in rows)
        open_rows.clear()

    for question in questions:
        figures["questions"] += 1
        key, text, answers = question_fields(question, "a question")
        chat = request(text, answers, (documents or {}).get(key, ()))
        mark = request_mark(key, chat)
        if mark in known:
            figures["found"] += 1
            figures["empty"] += not known[mark]
            continue
        row = {"id": key, "question": text, "golden_answers": list(answers), "request": mark}
        open_rows.append((row, chat))
        if len(open_rows) >= batch_size:
            ask()
    if open_rows:
        ask()
    return figures


def kept_rationales(path: Path) -> dict[str, str]:
    """Rationale by `request_mark`, as `collect_rationales` keeps them."""
    earlier = _rows(path, torn="skip") if path.is_file() else ()
    # Rows without the hash came from elsewhere: what they were asked is not known.
    return {str(row["request"]): str(row["reason"]) for row in earlier if "request" in row}


def read_rationales(path: Path) -> dict[str, str]:
    """Rationale by question id; of several for one id the last counts. Rows from elsewhere need `id` and `reason`."""
    return {str(row["id"]): str(row["reason"]) for row in _rows(path, torn="error")}


def question_fields(row: Mapping[str, Any], where: str) -> tuple[str, str, tuple[str, ...]]:
    """`id`, `question` and `golden_answers` of a row, checked."""
    key, text, answers = row.get("id"), row.get("question"), row.get("golden_answers")
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not key:
        raise DataError(
            "a question has no id", where=where, way_out="rationales and documents are joined by it: add `id`"
        )
    if not isinstance(text, str) or not text.strip():
        raise DataError("a question has no text", where=where, way_out="add `question`")
    golds = cast("Sequence[object]", answers) if isinstance(answers, list | tuple) else ()
    if not golds or not all(isinstance(gold, str) and gold.strip() for gold in golds):
        raise DataError(
            "`golden_answers` must be a list of texts with at least one", where=where, way_out='write ["…"]'
        )
    return key, text, tuple(str(gold) for gold in golds)


def request_mark(key: str, chat: list[Message]) -> str:
    """What a reply depends on, beside who gives it; a rationale is kept under it."""
    return hashlib.sha256(json.dumps([key, chat], ensure_ascii=False).encode()).hexdigest()[:24]


def _rows(path: Path, torn: Torn) -> Iterable[dict[str, Any]]:
    for number, row in iterate_jsonl(path, torn):
        if "id" not in row or not isinstance(row.get("reason"), str):
            raise DataError(
                "a rationale needs `id` and `reason`",
                where=f"{path}:{number}",
                way_out="rationales are joined to questions by id, never by their order",
            )
        yield row
