"""Items: what people are asked about, checked on the way in, stored all or none, and set in the order of asking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.ballots import Ballot, check_ballot, storable
from data.feedback.stages import StageSettings, search_again
from data.feedback.store import Store, lock_stage
from data.feedback.tables import items, votes
from data.feedback.usefulness import Askable, draw, usefulness

LONGEST_KEY = 500
LONGEST_TEXT = 2_000_000
MOST_CANDIDATES = 64
DEEPEST = 32
CHUNK = 2000
GOLD_KINDS = ("choose", "best", "rank", "tie")


class ItemExistsError(DataError):
    """The stage has an item of this key."""

    def __init__(
        self, what: str, *, where: str | None = None, way_out: str | None = None, key: str = ""
    ) -> None:
        super().__init__(what, where=where, way_out=way_out)
        self.key = key


@dataclass(frozen=True)
class NewItem:
    key: str
    prompt: str | list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    """Each has `text`; anything else is kept as it is."""
    image: str | None = None
    gold: dict[str, Any] | None = None
    """The known answer: {"kind", "choice"}."""
    scores: Mapping[str, Sequence[float | None]] = field(default_factory=dict[str, Sequence[float | None]])
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Item:
    """An item as it is stored."""

    id: int
    key: str
    prompt: str | list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    image: str | None
    gold: dict[str, Any] | None
    scores: dict[str, list[float | None]]
    extra: dict[str, Any]
    needed: int
    judged: int
    flags: int

    @property
    def texts(self) -> list[str]:
        return [candidate["text"] for candidate in self.candidates]


def read_items(connection: sa.Connection, stage_id: int, *, voted: bool = False) -> list[Item]:
    """All items of a stage, or those that somebody voted on, in the order in which they came."""
    query = sa.select(items).where(items.c.stage_id == stage_id)
    if voted:
        query = query.where(sa.exists().where(votes.c.item_id == items.c.id))
    return [item_of(row) for row in connection.execute(query.order_by(items.c.id))]


def item_of(row: Any) -> Item:
    return Item(
        row.id,
        row.key,
        row.prompt,
        row.candidates,
        row.image,
        row.gold,
        row.scores,
        row.extra,
        row.needed,
        row.judged,
        row.flags,
    )


def check_item(row: Mapping[str, Any], where: str) -> NewItem:
    """A row of JSON as an item; raises DataError naming the place."""
    check_plain(row, where)
    rest = dict(row)
    key = rest.pop("id", None)
    if isinstance(key, bool) or not isinstance(key, (str, int)) or not str(key).strip():
        raise DataError("an item needs an `id`", where=where, way_out='write {"id": "…", "prompt": …}')
    key = storable(str(key), "the id", LONGEST_KEY, where)
    if "prompt" not in rest:
        raise DataError("an item needs a `prompt`", where=where, way_out="text, or a list of messages")
    prompt = _prompt(rest.pop("prompt"), where)
    candidates = [
        _candidate(one, index, where)
        for index, one in enumerate(_candidates(rest.pop("candidates", None), where))
    ]
    image = rest.pop("image", None)
    if image is not None:
        image = storable(image, "the image's path", 4000, where)
    scores = _scores(rest.pop("scores", None), len(candidates), where)
    gold = _gold(rest.pop("gold", None), len(candidates), where)
    return NewItem(key, prompt, candidates, image, gold, scores, rest)


def check_plain(value: object, where: str) -> None:
    """Refuse what some database, file or parser cannot hold: depth, NUL, half surrogates, NaN."""
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if depth > DEEPEST:
            raise DataError("nested too deeply", where=where, way_out=f"use at most {DEEPEST} levels")
        if isinstance(one, str):
            storable(one, "a text", LONGEST_TEXT, where)
        elif isinstance(one, dict):
            pairs = cast("dict[object, object]", one)
            waiting += [(part, depth + 1) for pair in pairs.items() for part in pair]
        elif isinstance(one, (list, tuple)):
            waiting += [(part, depth + 1) for part in cast("Sequence[object]", one)]
        elif isinstance(one, float) and not math.isfinite(one):
            raise DataError(f"{one} is no number that JSON knows", where=where, way_out="write null")
        elif isinstance(one, int) and one.bit_length() > 63:
            raise DataError(
                "a whole number of more than 64 bits", where=where, way_out="write it as text, or rounded"
            )
        elif one is not None and not isinstance(one, (bool, int, float)):
            raise DataError(
                f"a {type(one).__name__} cannot be kept",
                where=where,
                way_out="use text, numbers, lists, objects",
            )


def _prompt(value: object, where: str) -> str | list[dict[str, Any]]:
    if isinstance(value, str) and value.strip():
        return value
    messages = cast("list[object]", value) if isinstance(value, list) else []
    for message in messages:
        fields = cast("dict[str, object]", message) if isinstance(message, dict) else {}
        if not isinstance(fields.get("role"), str) or not isinstance(fields.get("content"), (str, list)):
            messages = []
            break
    if not messages:
        raise DataError(
            "`prompt` is neither text nor a list of messages",
            where=where,
            way_out='a message is {"role": "user", "content": "…"}',
        )
    return cast("list[dict[str, Any]]", messages)


def _candidates(value: object, where: str) -> list[object]:
    listed = cast("list[object]", value) if isinstance(value, list) else []
    if not 1 <= len(listed) <= MOST_CANDIDATES:
        raise DataError(
            f"`candidates` has {len(listed)} texts" if isinstance(value, list) else "`candidates` is no list",
            where=where,
            way_out=f"give 1 to {MOST_CANDIDATES}, each as text or {{'text': …}}",
        )
    return listed


def _candidate(value: object, index: int, where: str) -> dict[str, Any]:
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {"text": value}
    if not isinstance(fields.get("text"), str):
        raise DataError(
            f"candidate {index} has no text", where=where, way_out='write it as text, or as {"text": "…"}'
        )
    return fields


def _scores(value: object, candidates: int, where: str) -> dict[str, list[float | None]]:
    if value is None:
        return {}
    # One list is one critic's; an object names the critics.
    named = cast("dict[str, object]", value if isinstance(value, dict) else {"critic": value})
    found: dict[str, list[float | None]] = {}
    for critic, line in named.items():
        numbers = cast("list[object]", line) if isinstance(line, list) else []
        fit = all(
            one is None or (isinstance(one, (int, float)) and not isinstance(one, bool)) for one in numbers
        )
        if len(numbers) != candidates or not fit:
            raise DataError(
                f"`scores` of {critic!r} are not {candidates} numbers",
                where=where,
                way_out='write {"critic": [0.5, null, …]} with a number or null for each candidate',
            )
        found[critic] = [None if one is None else float(cast("float", one)) for one in numbers]
    return found


def _gold(value: object, candidates: int, where: str) -> dict[str, Any] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
    else:
        fields = cast(
            "dict[str, Any]", {"kind": "choose" if isinstance(value, list) else "best", "choice": value}
        )
    ballot = Ballot(cast("Any", fields.get("kind")), fields.get("choice"))
    fit = check_ballot(ballot, candidates, GOLD_KINDS, 1, f"{where}: gold")
    return {"kind": fit.kind, "choice": fit.choice}


def add_items(store: Store, stage_id: int, new: Sequence[NewItem], *, analyze: bool = True) -> int:
    """Add all or none; returns how many."""
    with store.write() as connection:
        insert_items(connection, stage_id, new)
    if analyze and len(new) >= CHUNK:
        store.analyze()
    return len(new)


def insert_items(connection: sa.Connection, stage_id: int, new: Sequence[NewItem]) -> None:
    """Add items inside a transaction of the caller's, and set the whole stage in order."""
    settings = StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])
    _refuse_twice(connection, stage_id, new)
    had = connection.scalar(sa.select(sa.func.count()).where(items.c.stage_id == stage_id))
    positions = _positions([(one.key, one.prompt, one.scores) for one in new], settings)
    for start in range(0, len(new), CHUNK):
        connection.execute(
            sa.insert(items),
            [
                {
                    "stage_id": stage_id,
                    "key": one.key,
                    "prompt": one.prompt,
                    "image": one.image,
                    "candidates": one.candidates,
                    "gold": one.gold,
                    "scores": {name: list(line) for name, line in one.scores.items()},
                    "extra": dict(one.extra),
                    "is_gold": int(one.gold is not None),
                    "position": position,
                    "needed": settings.overlap,
                }
                for one, position in zip(
                    new[start : start + CHUNK], positions[start : start + CHUNK], strict=True
                )
            ],
        )
    if had:
        _set_in_order(connection, stage_id, settings)


def reorder(store: Store, stage_id: int) -> None:
    """Work the order out anew, as after a change of `order` or `seed`."""
    with store.write() as connection:
        settings = StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])
        _set_in_order(connection, stage_id, settings)


def set_scores(store: Store, stage_id: int, critic: str, scores: Mapping[str, Sequence[float | None]]) -> int:
    """Give a critic's scores, by the items' keys, and set the stage in order; returns how many items got them."""
    with store.write() as connection:
        settings = StageSettings.model_validate(lock_stage(connection, stage_id)["settings"])
        changed = 0
        for item in read_items(connection, stage_id):
            if item.key not in scores:
                continue
            line = _scores({critic: list(scores[item.key])}, len(item.candidates), f"item {item.key}")
            connection.execute(
                sa.update(items).where(items.c.id == item.id).values(scores={**item.scores, **line})
            )
            changed += 1
        if changed < len(scores):
            raise DataError(
                f"{len(scores) - changed} of {len(scores)} scores are for items that the stage does not have",
                way_out="take the ids from the stage's items",
            )
        _set_in_order(connection, stage_id, settings)
    return changed


def _set_in_order(connection: sa.Connection, stage_id: int, settings: StageSettings) -> None:
    rows = connection.execute(
        sa.select(items.c.id, items.c.key, items.c.prompt, items.c.scores).where(items.c.stage_id == stage_id)
    ).all()
    positions = _positions([(row.key, row.prompt, row.scores) for row in rows], settings)
    if rows:
        connection.execute(
            sa.update(items)
            .where(items.c.id == sa.bindparam("this"))
            .values(position=sa.bindparam("place"), returned=0),
            [{"this": row.id, "place": place} for row, place in zip(rows, positions, strict=True)],
        )
    search_again(connection, stage_id)


def _positions(
    rows: Sequence[tuple[str, object, Mapping[str, Sequence[float | None]]]], settings: StageSettings
) -> list[float]:
    """Lower comes earlier. Equal usefulness is settled by lot: the file's order must not decide."""
    lots = [draw("lot", settings.seed, key) for key, _, _ in rows]
    if settings.order == "random":
        return lots
    found = usefulness([Askable(*row) for row in rows])
    return [-value + lot * 1e-9 for value, lot in zip(found, lots, strict=True)]


def _refuse_twice(connection: sa.Connection, stage_id: int, new: Iterable[NewItem]) -> None:
    seen: set[str] = set()
    keys = [one.key for one in new]
    for key in keys:
        if key in seen:
            raise DataError(f"the id {key!r} comes twice", way_out="give every item its own id")
        seen.add(key)
    for start in range(0, len(keys), 500):
        there = connection.scalar(
            sa.select(items.c.key)
            .where(items.c.stage_id == stage_id, items.c.key.in_(keys[start : start + 500]))
            .limit(1)
        )
        if there is not None:
            raise ItemExistsError(
                f"the stage has an item {there!r} already",
                way_out="leave it out, or import into a stage of its own",
                key=there,
            )
