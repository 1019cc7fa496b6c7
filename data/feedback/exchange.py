"""Rows from elsewhere into a stage, with the votes they may bring: everything or nothing.

The neutral row that every format is turned into: {"id", "prompt", "candidates", "image", "gold", "scores", …,
"votes": [{"person", "kind", "choice", "strength", "comment", "seconds", "at", "shown", "edit"}]}.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.ballots import COUNTED, Ballot, Edit, check_ballot
from data.feedback.foreign import an_object
from data.feedback.history import Vote
from data.feedback.items import ItemExistsError, NewItem, check_item, insert_items
from data.feedback.people import check_name
from data.feedback.results import Judgements
from data.feedback.roster import count_again
from data.feedback.stages import StageSettings, get_stage
from data.feedback.store import Store
from data.feedback.tables import edits, items, leases, people, roster, votes
from data.records import Placed

ALL_KINDS = ("choose", "best", "rank", "tie", "skip", "flag", "edit")


@dataclass(frozen=True)
class Imported:
    """What an import stored."""

    items: int
    votes: int
    people: list[str]
    """Names that were not known: these people are inactive, and have no token."""


@dataclass(frozen=True)
class _Given:
    """A vote of a row."""

    person: str
    ballot: Ballot
    at: float
    shown: list[int]


def import_rows(store: Store, stage_id: int, rows: Iterable[Placed], *, now: float | None = None) -> Imported:
    """Store all rows or, if one is wrong, none: the error names its place. Duplicates are errors.

    Several pairs of one prompt, as an export of pairs has them, share an id: from the second on they are called `id/2`…
    """
    now = time.time() if now is None else now
    places: dict[str, str] = {}
    new: list[NewItem] = []
    given: dict[str, list[_Given]] = {}
    of_pairs: dict[str, list[frozenset[str]]] = {}
    settings = get_stage(store, stage_id).settings
    for where, row in rows:
        row = dict(row)
        brought = row.pop("votes", None)
        paired = "candidates" not in row
        item = check_item(_without_pair(row, where), where)
        if paired:
            item = _another_pair(item, of_pairs)
        if item.key in places:
            raise DataError(
                f"the id {item.key!r} is already at {places[item.key]}",
                where=where,
                way_out="give every item its own id",
            )
        places[item.key] = where
        new.append(item)
        given[item.key] = _votes(brought, item, settings, where, now)
    if not new:
        raise DataError("there are no items to import", way_out="check the file")
    with store.write() as connection:
        try:
            insert_items(connection, stage_id, new)
        except ItemExistsError as fault:
            raise DataError(fault.what, where=places[fault.key], way_out=fault.way_out) from fault
        added = _insert_votes(connection, stage_id, settings, given, now)
        if any(given.values()):
            count_again(connection, stage_id)
    store.analyze()
    return Imported(len(new), sum(map(len, given.values())), added)


def left_out(of: Judgements, kinds: Collection[str]) -> dict[str, int]:
    """What an export without a place for these kinds of vote does not hold, counted."""
    found: Counter[str] = Counter()
    for vote in (vote for item in of.items for vote in of.of(item)):
        if vote.kind in kinds and vote.kind != "edit":
            found[vote.kind] += 1
        if vote.edit is not None and "edit" in kinds:
            found["edit"] += 1
    return dict(sorted(found.items()))


def export_rows(of: Judgements) -> Iterator[dict[str, Any]]:
    """The stage's items with their last words, as `import_rows` takes them."""
    for item in of.items:
        row: dict[str, Any] = {
            **item.extra,
            "id": item.key,
            "prompt": item.prompt,
            "candidates": item.candidates,
        }
        optional = {"image": item.image, "gold": item.gold, "scores": item.scores or None}
        row |= {name: value for name, value in optional.items() if value is not None}
        yield {**row, "votes": [_exported(vote, of.names) for vote in of.of(item)]}


def _exported(vote: Vote, names: Mapping[int, str]) -> dict[str, Any]:
    edit = None if vote.edit is None else {"text": vote.edit.text, "candidate": vote.edit.candidate}
    return {
        "person": names[vote.person_id],
        "kind": vote.kind,
        "choice": vote.choice,
        "strength": vote.strength,
        "comment": vote.comment,
        "seconds": vote.seconds,
        "at": vote.at,
        "shown": vote.shown,
        "edit": edit,
    }


def _without_pair(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of prompt, chosen, rejected as an item with two candidates. Who said so is not known: it is no vote."""
    if "candidates" in row or not {"chosen", "rejected"} <= row.keys():
        return row
    texts = [_completion(row.pop(name), name, where) for name in ("chosen", "rejected")]
    known = [row.pop(name, None) for name in ("score_chosen", "score_rejected")]
    if None not in known and "scores" not in row:
        row["scores"] = {"given": known}
    if "id" not in row:
        row["id"] = f"row {where.rsplit(':', 1)[-1].removeprefix('row ')}"
    return {**row, "candidates": texts}


def _another_pair(item: NewItem, known: dict[str, list[frozenset[str]]]) -> NewItem:
    """Under a key of its own, if its id is that of another pair; `known` are the texts of each id's pairs."""
    texts = frozenset(one["text"] for one in item.candidates)
    before = known.setdefault(item.key, [])
    if texts in before:
        return item
    before.append(texts)
    return item if len(before) == 1 else replace(item, key=f"{item.key}/{len(before)}")


def _completion(value: object, name: str, where: str) -> str:
    if isinstance(value, str):
        return value
    messages = cast("list[object]", value) if isinstance(value, list) else []
    last = messages[-1] if messages else None
    content = cast("dict[str, object]", last).get("content") if isinstance(last, dict) else None
    if not isinstance(content, str):
        raise DataError(
            f"`{name}` is neither text nor a list of messages that ends in text",
            where=where,
            way_out='write text, or [{"role": "assistant", "content": "…"}]',
        )
    return content


def _votes(brought: object, item: NewItem, settings: StageSettings, where: str, now: float) -> list[_Given]:
    if brought is None:
        return []
    listed = cast("list[object]", brought) if isinstance(brought, list) else [brought]
    found: list[_Given] = []
    for number, one in enumerate(listed):
        place = f"{where}: vote {number}"
        if not isinstance(one, dict):
            raise DataError("a vote is an object", where=place, way_out='write {"person", "kind", "choice"}')
        found.append(_vote(cast("dict[str, Any]", one), len(item.candidates), settings, place, now))
    names = [one.person for one in found]
    if len(set(names)) < len(names):
        raise DataError(
            "one person has two votes on the item",
            where=where,
            way_out="keep the last word of each person",
        )
    return found


def _vote(row: dict[str, Any], width: int, settings: StageSettings, where: str, now: float) -> _Given:
    unknown = row.keys() - {
        "person",
        "kind",
        "choice",
        "strength",
        "comment",
        "seconds",
        "at",
        "shown",
        "edit",
    }
    if unknown:
        raise DataError(
            f"a vote has no {', '.join(sorted(unknown))}", where=where, way_out="leave it out of the vote"
        )
    name = check_name(row.get("person"), where)
    written = row.get("edit")
    edit = None
    if written is not None:
        fields = cast("dict[str, Any]", written) if isinstance(written, dict) else {"text": written}
        edit = Edit(cast("str", fields.get("text")), fields.get("candidate"))
    ballot = Ballot(
        cast("Any", row.get("kind")),
        row.get("choice"),
        row.get("strength"),
        row.get("comment"),
        row.get("seconds"),
        edit,
    )
    # What was voted elsewhere is a fact, also where this stage asks otherwise; its scale must fit all the same.
    fit = check_ballot(ballot, width, ALL_KINDS, settings.strength_max, where)
    at = row.get("at", now)
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not 0 <= at < 1e11:
        raise DataError(f"`at` is {at!r}", where=where, way_out="give seconds since 1970")
    shown = row.get("shown")
    order = list(range(width)) if shown is None else shown
    if not isinstance(order, list) or sorted(map(repr, cast("list[object]", order))) != sorted(
        map(repr, range(width))
    ):
        raise DataError(
            f"`shown` is {shown!r}", where=where, way_out=f"list the candidates 0 to {width - 1} in an order"
        )
    return _Given(name, fit, float(at), cast("list[int]", order))


def _insert_votes(
    connection: sa.Connection,
    stage_id: int,
    settings: StageSettings,
    given: Mapping[str, list[_Given]],
    now: float,
) -> list[str]:
    """Store the votes of items that were just inserted; returns the names of people that were not known."""
    names = sorted({one.person for line in given.values() for one in line})
    known = {row.name: row.id for row in connection.execute(sa.select(people.c.name, people.c.id))}
    added = [name for name in names if name not in known]
    for name in added:
        known[name] = connection.execute(
            sa.insert(people)
            .values(name=name, role="annotator", token_hash=None, active=False, created_at=now)
            .returning(people.c.id)
        ).scalar_one()
    enrolled = set(connection.scalars(sa.select(roster.c.person_id).where(roster.c.stage_id == stage_id)))
    for name in names:
        if known[name] not in enrolled:
            connection.execute(sa.insert(roster).values(stage_id=stage_id, person_id=known[name]))
    ids = {
        row.key: row
        for row in connection.execute(
            sa.select(items.c.key, items.c.id, items.c.is_gold).where(items.c.stage_id == stage_id)
        )
    }
    for key, line in given.items():
        for one in line:
            person = {"stage_id": stage_id, "item_id": ids[key].id, "person_id": known[one.person]}
            vote_id = connection.execute(
                sa.insert(votes)
                .values(
                    **person,
                    key=f"import of {stage_id}/{key}",
                    kind=one.ballot.kind,
                    choice=one.ballot.choice,
                    strength=one.ballot.strength,
                    comment=one.ballot.comment,
                    shown=one.shown,
                    seconds=one.ballot.seconds,
                    at=one.at,
                )
                .returning(votes.c.id)
            ).scalar_one()
            if one.ballot.edit is not None:
                connection.execute(
                    sa.insert(edits).values(
                        vote_id=vote_id, candidate=one.ballot.edit.candidate, text=one.ballot.edit.text
                    )
                )
            connection.execute(
                sa.insert(leases).values(
                    **person, shown=one.shown, status="answered", since=one.at, until=one.at
                )
            )
        if line:
            _count(connection, ids[key].id, bool(ids[key].is_gold), line, settings)
    return added


def _count(
    connection: sa.Connection, item_id: int, is_gold: bool, line: list[_Given], settings: StageSettings
) -> None:
    counted = sum(one.ballot.kind in COUNTED for one in line)
    flags = sum(one.ballot.kind == "flag" for one in line)
    needed = max(settings.overlap, counted)
    has_room = (is_gold or counted < needed) and flags < settings.flags_to_close
    connection.execute(
        sa.update(items)
        .where(items.c.id == item_id)
        .values(taken=counted, judged=counted, flags=flags, needed=needed, open=int(has_room))
    )


def in_places(rows: Iterable[object], source: str) -> Iterator[Placed]:
    """Rows with their places, numbered from 1."""
    for number, row in enumerate(rows, start=1):
        where = f"{source}:row {number}"
        yield Placed(where, an_object(row, "a row", where))
