"""Label Studio's tasks, in and out: `pairwise`, `ranker` and `choices` annotations.

A stage becomes tasks with the data `prompt`, and `text1`, `text2` for two candidates or `items` (a list of {"id",
"title", "body"}) for any number; LABELLING_CONFIGS has the configuration that shows each kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from data.errors import DataError
from data.feedback.exchange import Imported, import_rows
from data.feedback.foreign import a_list, an_object, objects
from data.feedback.history import Vote
from data.feedback.items import Item
from data.feedback.results import Judgements
from data.feedback.store import Store
from data.records import Placed

LABELLING_CONFIGS = {
    "best": """<View><Text name="prompt" value="$prompt"/><Pairwise name="pw" toName="text1,text2"/>
<Text name="text1" value="$text1"/><Text name="text2" value="$text2"/>
<Choices name="tie" toName="prompt"><Choice value="tie"/></Choices>
<Rating name="strength" toName="prompt" maxRating="3"/><TextArea name="comment" toName="prompt"/></View>""",
    "rank": """<View><Text name="prompt" value="$prompt"/><List name="items" value="$items"/>
<Ranker name="rank" toName="items"/><TextArea name="comment" toName="prompt"/></View>""",
    "choose": """<View><Text name="prompt" value="$prompt"/><List name="items" value="$items"/>
<Choices name="accepted" toName="prompt" choice="multiple" value="$items"/>
<TextArea name="comment" toName="prompt"/></View>""",
}
_TEXTS = re.compile(r"(?:text|response|answer|candidate)[-_ ]?(\d+)")


# Kinds of vote that its tasks have no place for; an edit beside another vote has none either.
NO_PLACE = ("flag", "edit")


def to_label_studio(of: Judgements) -> Iterator[dict[str, Any]]:
    """Tasks with their annotations. Flags and edits have no place in them; a skip is a cancelled annotation."""
    for number, item in enumerate(of.items, start=1):
        annotations = [
            _annotation(vote, item, of.names[vote.person_id], number)
            for vote in of.of(item)
            if vote.kind in ("best", "tie", "rank", "choose", "skip")
        ]
        yield {"id": number, "data": _data(item), "annotations": annotations, "predictions": []}


def import_label_studio(store: Store, stage_id: int, tasks: object, source: str) -> Imported:
    """Tasks of a JSON export; all or none."""
    if not isinstance(tasks, list):
        raise DataError("not a list of tasks", where=source, way_out="export as JSON (not JSON_MIN)")
    placed: list[Placed] = []
    for number, task in enumerate(cast("list[object]", tasks), start=1):
        where = f"{source}:task {number}"
        fields = cast("dict[str, Any]", task) if isinstance(task, dict) else {}
        if not isinstance(fields.get("data"), dict):
            raise DataError("a task without data", where=where, way_out="export as JSON (not JSON_MIN)")
        placed.append(Placed(where, _row(fields, where)))
    return import_rows(store, stage_id, placed)


def _data(item: Item) -> dict[str, Any]:
    data: dict[str, Any] = {"id": item.key, "prompt": item.prompt}
    if item.image is not None:
        data["image"] = item.image
    if len(item.candidates) == 2:
        data |= {"text1": item.texts[0], "text2": item.texts[1]}
    data["items"] = [
        {"id": str(index), "title": f"Answer {index + 1}", "body": text}
        for index, text in enumerate(item.texts)
    ]
    return data


def _annotation(vote: Vote, item: Item, name: str, task: int) -> dict[str, Any]:
    result: list[dict[str, Any]] = []

    def say(control: str, about: str, kind: str, value: dict[str, Any]) -> None:
        mark = f"{vote.id}-{len(result)}"
        result.append({"id": mark, "from_name": control, "to_name": about, "type": kind, "value": value})

    if vote.kind == "best" and len(item.candidates) == 2:
        say("pw", "text1,text2", "pairwise", {"selected": ("left", "right")[vote.choice]})
        say("strength", "prompt", "rating", {"rating": vote.strength})
    elif vote.kind == "best":
        say("best", "prompt", "choices", {"choices": [str(vote.choice)]})
    elif vote.kind == "tie":
        say("tie", "prompt", "choices", {"choices": ["tie"]})
    elif vote.kind == "choose":
        say("accepted", "prompt", "choices", {"choices": [str(index) for index in vote.choice]})
    elif vote.kind == "rank":
        known = sorted({rank for rank in vote.choice if rank is not None})
        levels = [[str(i) for i, other in enumerate(vote.choice) if other == rank] for rank in known]
        if all(len(level) == 1 for level in levels):
            ranker = {"rank": [level[0] for level in levels]}
        else:
            ranker = {f"rank-{place}": level for place, level in enumerate(levels, start=1)}
        say("rank", "items", "ranker", {"ranker": ranker})
    if vote.comment:
        say("comment", "prompt", "textarea", {"text": [vote.comment]})
    return {
        "id": vote.id,
        "task": task,
        "completed_by": {"id": vote.person_id, "email": name},
        "result": result,
        "was_cancelled": vote.kind == "skip",
        "ground_truth": False,
        "created_at": datetime.fromtimestamp(vote.at, UTC).isoformat().replace("+00:00", "Z"),
        "lead_time": vote.seconds,
    }


def _row(task: dict[str, Any], where: str) -> dict[str, Any]:
    data = cast("dict[str, Any]", task["data"])
    ids, texts = _candidates(data, where)
    votes = [
        vote
        for one in objects(task.get("annotations"), "the annotations", where)
        if (vote := _vote(one, ids, where)) is not None
    ]
    row: dict[str, Any] = {
        "id": data.get("id", task.get("id")),
        "prompt": data.get("prompt", data.get("question")),
        "candidates": texts,
        "votes": votes,
    }
    return {**row, "image": data["image"]} if data.get("image") else row


def _candidates(data: dict[str, Any], where: str) -> tuple[list[str], list[str]]:
    listed = objects(data.get("items"), "`items`", where)
    if listed:
        texts = [str(one.get("body") or one.get("html") or one.get("title") or "") for one in listed]
        return [str(one.get("id")) for one in listed], texts
    named = sorted((int(found.group(1)), name) for name in data if (found := _TEXTS.fullmatch(name)))
    if not named:
        raise DataError(
            f"no candidates among {', '.join(data)}",
            where=where,
            way_out="name them text1, text2, …, or items",
        )
    return [str(index) for index in range(len(named))], [data[name] for _, name in named]


def _vote(annotation: dict[str, Any], ids: list[str], where: str) -> dict[str, Any] | None:
    found: dict[str, Any] = {"person": _person(annotation.get("completed_by"))}
    if annotation.get("lead_time") is not None:
        found["seconds"] = annotation["lead_time"]
    if annotation.get("created_at"):
        found["at"] = _time(annotation["created_at"], where)
    if annotation.get("was_cancelled"):
        return {**found, "kind": "skip"}
    strength: object = None
    for one in objects(annotation.get("result"), "the result", where):
        value = an_object(one.get("value"), "the value", where)
        kind = one.get("type")
        if kind == "pairwise":
            found |= {"kind": "best", "choice": _side(value.get("selected"), where)}
        elif kind == "ranker":
            found |= {"kind": "rank", "choice": _ranks(value.get("ranker"), ids, where)}
        elif kind == "choices":
            found |= _choices(
                one.get("from_name"), a_list(value.get("choices"), "the choices", where), ids, where
            )
        elif kind == "rating" and one.get("from_name") == "strength":
            strength = value.get("rating")
        elif kind == "textarea":
            found["comment"] = "\n".join(map(str, a_list(value.get("text"), "the text", where)))
    if "kind" not in found:
        return None
    return {**found, "strength": strength} if found["kind"] == "best" and strength else found


def _person(value: object) -> str:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return str(fields.get("email") or fields.get("id"))
    return str(value)


def _side(value: object, where: str) -> int:
    if value not in ("left", "right"):
        raise DataError(f"the pairwise choice is {value!r}", where=where, way_out="left or right")
    return int(value == "right")


def _ranks(value: object, ids: Sequence[str], where: str) -> list[int | None]:
    """A ranker saves a list of ids, {its name: ids in order}, or {bucket: ids}; "_" holds what is not ranked."""
    levels: list[list[object]]
    if isinstance(value, list):
        levels = [[one] for one in cast("list[object]", value)]
    elif isinstance(value, dict):
        named = an_object(cast("object", value), "the ranker", where)
        buckets = {name: a_list(line, name, where) for name, line in named.items() if name != "_"}
        lines = list(buckets.values())
        levels = [[one] for one in lines[0]] if len(lines) == 1 else lines
    else:
        levels = []
    ranks: list[int | None] = [None] * len(ids)
    for place, level in enumerate((level for level in levels if level), start=1):
        for one in level:
            ranks[_index(one, ids, where)] = place
    return ranks


def _choices(control: object, chosen: list[Any], ids: Sequence[str], where: str) -> dict[str, Any]:
    if [str(one).lower() for one in chosen] == ["tie"]:
        return {"kind": "tie"}
    indices = [_index(one, ids, where) for one in chosen]
    if control == "best" and len(indices) == 1:
        return {"kind": "best", "choice": indices[0]}
    return {"kind": "choose", "choice": indices}


def _index(value: object, ids: Sequence[str], where: str) -> int:
    if str(value) not in ids:
        raise DataError(
            f"{value!r} is none of the candidates {', '.join(ids)}",
            where=where,
            way_out="choose by the items' ids",
        )
    return list(ids).index(str(value))


def _time(value: object, where: str) -> float:
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    except ValueError as fault:
        raise DataError(f"{value!r} is no time", where=where, way_out="write it as ISO 8601") from fault
