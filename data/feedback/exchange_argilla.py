"""Argilla's records, in and out: the nested ones of `Dataset.to_dict`, and the flat ones of its hub exports.

A stage becomes the fields `prompt` and `response-1` … `response-n` with the questions `preference` (label: a field,
or "tie"), `strength` (rating), `accepted` (multi-label), `ranking`, `comment` (text).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from data.errors import DataError
from data.feedback.exchange import Imported, import_rows
from data.feedback.foreign import WAY_OUT, a_list, an_object, objects
from data.feedback.history import Vote
from data.feedback.items import Item
from data.feedback.results import Judgements
from data.feedback.store import Store
from data.records import Placed

# Argilla names people by UUID; a fixed namespace makes the same one of the same name in every export.
_PEOPLE = uuid.UUID("6d1f1c2e-6a57-5b0c-9d0e-3f1f5a3b7c11")
_PROMPTS = ("prompt", "instruction", "question", "input", "query", "context")
_CANDIDATE = re.compile(
    r"(response|reply|completion|answer|generation|candidate|output|chosen|rejected)s?[-_ ]?\w*"
)
_TIES = {"tie", "equal", "same", "both", "none", "neither"}
_OWN = {"id", "status", "_server_id", "inserted_at", "updated_at", "external_id", "metadata", "vectors"}


# Kinds of vote that its records have no place for; an edit beside another vote has none either.
NO_PLACE = ("skip", "flag", "edit")


def person_uuid(name: str) -> str:
    """The `user_id` that an export gives a person."""
    return str(uuid.uuid5(_PEOPLE, name))


def to_argilla(of: Judgements) -> Iterator[dict[str, Any]]:
    """Nested records, as `Dataset.records.to_list()` has them. Skips, flags and edits have no place in them."""
    for item in of.items:
        responses: dict[str, list[dict[str, Any]]] = {}
        for vote in of.of(item):
            for question, value in _answers(vote, len(item.candidates)).items():
                user = person_uuid(of.names[vote.person_id])
                responses.setdefault(question, []).append({"value": value, "user_id": user})
        yield {
            "id": item.key,
            "fields": _fields(item),
            "metadata": {} if item.image is None else {"image": item.image},
            "suggestions": {},
            "vectors": {},
            "responses": responses,
            "status": "completed" if item.judged >= item.needed else "pending",
            "_server_id": None,
        }


def to_argilla_flat(of: Judgements) -> Iterator[dict[str, Any]]:
    """The same records flat, as Argilla's exports to the hub and to parquet have them."""
    for record in to_argilla(of):
        flat = {name: record[name] for name in ("id", "status", "_server_id")}
        flat |= record["fields"] | record["metadata"]
        for question in ("preference", "strength", "accepted", "ranking", "comment"):
            given: list[dict[str, Any]] = record["responses"].get(question, [])
            flat[f"{question}.responses"] = [one["value"] for one in given] or None
            flat[f"{question}.responses.users"] = [one["user_id"] for one in given] or None
            flat[f"{question}.responses.status"] = ["submitted" for _ in given] or None
        yield flat


def import_argilla(
    store: Store,
    stage_id: int,
    records: object,
    source: str,
    *,
    prompt: str | None = None,
    candidates: Sequence[str] | None = None,
    people: Mapping[str, str] | None = None,
) -> Imported:
    """Records as a list, or as either form of `to_dict`, nested or flat; all or none.

    `prompt` and `candidates` name the fields, where their names do not tell; `people` gives names to user ids.
    """
    placed = [
        Placed(where, _row(record, where, prompt, candidates, people or {}))
        for where, record in _records(records, source)
    ]
    return import_rows(store, stage_id, placed)


def _fields(item: Item) -> dict[str, Any]:
    return {"prompt": item.prompt} | {_name(index): text for index, text in enumerate(item.texts)}


def _name(index: int) -> str:
    return f"response-{index + 1}"


def _answers(vote: Vote, candidates: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if vote.kind == "best":
        found = {"preference": _name(vote.choice), "strength": vote.strength}
    elif vote.kind == "tie":
        found = {"preference": "tie"}
    elif vote.kind == "choose":
        found = {"accepted": [_name(index) for index in vote.choice]}
    elif vote.kind == "rank":
        ranked = [(rank, _name(index)) for index, rank in enumerate(vote.choice) if rank is not None]
        found = {"ranking": [{"rank": rank, "value": name} for rank, name in sorted(ranked)]}
    if found and vote.comment:
        found["comment"] = vote.comment
    return found


def _records(value: object, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a list, of {id: record}, or of {column: [values]}."""
    listed: list[object]
    if isinstance(value, list):
        listed = cast("list[object]", value)
    elif isinstance(value, dict):
        columns = cast("dict[str, Any]", value)
        if all(isinstance(column, list) for column in columns.values()):
            lengths = {len(column) for column in columns.values()}
            if len(lengths) > 1:
                raise DataError(
                    "the columns have different lengths", where=source, way_out="export the records again"
                )
            listed = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
        else:
            listed = list(columns.values())
    else:
        listed = [value]
    for number, one in enumerate(listed, start=1):
        where = f"{source}:record {number}"
        if not isinstance(one, dict):
            raise DataError(
                "not a record", where=where, way_out="write the records as Dataset.to_dict gives them"
            )
        yield where, an_object(cast("object", one), "a record", where)


def _row(
    record: dict[str, Any],
    where: str,
    prompt: str | None,
    candidates: Sequence[str] | None,
    people: Mapping[str, str],
) -> dict[str, Any]:
    fields, answers = _parts(record, where)
    prompt = prompt or next((name for name in _PROMPTS if isinstance(fields.get(name), (str, list))), None)
    names = list(
        candidates or [name for name in fields if name != prompt and _CANDIDATE.fullmatch(name.lower())]
    )
    if prompt is None or prompt not in fields or not names or any(name not in fields for name in names):
        raise DataError(
            f"which fields are the prompt and the candidates? There are {', '.join(fields) or 'none'}",
            where=where,
            way_out="name them: prompt and candidates",
        )
    votes: list[dict[str, Any]] = []
    for user, said in answers.items():
        vote = _vote(said, names, where)
        if vote is not None:
            votes.append({"person": people.get(user, user), **vote})
    row: dict[str, Any] = {
        "id": record.get("id") or record.get("external_id"),
        "prompt": fields[prompt],
        "candidates": [fields[name] for name in names],
        "votes": votes,
    }
    metadata = an_object(record.get("metadata"), "the metadata", where)
    image = metadata.get("image", fields.get("image"))
    return row if image is None else {**row, "image": image}


def _parts(record: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Fields, and for each user the value of each question; responses that were not submitted are left out."""
    answers: dict[str, dict[str, Any]] = {}
    if "fields" in record:
        fields = an_object(record["fields"], "the fields", where)
        lists = {
            question: objects(line, f"the responses to {question!r}", where)
            for question, line in an_object(record.get("responses"), "the responses", where).items()
        }
    else:
        fields = {name: value for name, value in record.items() if name not in _OWN and "." not in name}
        names = [name for name in record if name.endswith(".responses")]
        lists = {name.removesuffix(".responses"): _columns(record, name, where) for name in names}
    for question, line in lists.items():
        for one in line:
            if one.get("status") in (None, "submitted") and one.get("value") is not None:
                answers.setdefault(str(one.get("user_id")), {})[question] = one["value"]
    return fields, answers


def _columns(record: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """The responses of one question that stand in three columns side by side."""
    values = a_list(record[name], name, where)
    users = a_list(record.get(f"{name}.users"), f"{name}.users", where)
    status = a_list(record.get(f"{name}.status"), f"{name}.status", where) or [None] * len(values)
    if not len(values) == len(users) == len(status):
        raise DataError(
            f"{name}, its users and its status have different lengths", where=where, way_out=WAY_OUT
        )
    return [
        {"value": value, "user_id": user, "status": state}
        for value, user, state in zip(values, users, status, strict=True)
    ]


def _vote(said: Mapping[str, Any], names: list[str], where: str) -> dict[str, Any] | None:
    """One vote of one user's answers; None if no question was about the candidates."""
    vote: dict[str, Any] | None = None
    for question, value in said.items():
        if isinstance(value, str) and question != "comment":
            tie = _plain(value) in _TIES and _plain(value) not in map(_plain, names)
            vote = {"kind": "tie"} if tie else {"kind": "best", "choice": _index(value, names, where)}
        elif isinstance(value, list):
            vote = _of_list(question, cast("list[object]", value), names, where)
    if vote is None:
        return None
    strength = said.get("strength")
    if vote["kind"] == "best" and isinstance(strength, int):
        vote["strength"] = strength
    comment = said.get("comment")
    return {**vote, "comment": comment} if isinstance(comment, str) else vote


def _of_list(question: str, value: list[object], names: list[str], where: str) -> dict[str, Any]:
    ranked = [cast("dict[str, Any]", one) for one in value if isinstance(one, dict)]
    if ranked and len(ranked) == len(value):
        ranks: list[int | None] = [None] * len(names)
        for one in ranked:
            ranks[_index(one.get("value"), names, where)] = one.get("rank")
        return {"kind": "rank", "choice": ranks}
    indices = [_index(one, names, where) for one in value]
    if "rank" in question.lower():
        return {
            "kind": "rank",
            "choice": [indices.index(i) + 1 if i in indices else None for i in range(len(names))],
        }
    return {"kind": "choose", "choice": indices}


def _index(value: object, names: list[str], where: str) -> int:
    plain = [_plain(name) for name in names]
    if isinstance(value, str) and _plain(value) in plain:
        return plain.index(_plain(value))
    raise DataError(
        f"{value!r} is none of the candidates {', '.join(names)}",
        where=where,
        way_out="name the fields of the candidates as the question's values name them",
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
