"""People and their tokens, which are stored only as hashes.

A token is 256 random bits. A plain SHA-256 of it is enough at rest: slow, salted hashes protect what can be guessed,
and nobody guesses 256 bits; a lookup by hash stays one step in an index.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from data.errors import DataError
from data.feedback.store import Store
from data.feedback.tables import people

Role = Literal["annotator", "lead"]


class NotAllowedError(DataError):
    """This person may not do this."""


@dataclass(frozen=True)
class Person:
    id: int
    name: str
    role: Role
    active: bool
    created_at: float


def add_person(
    store: Store, name: str, role: Role = "annotator", *, now: float | None = None
) -> tuple[Person, str]:
    """The person, and the token: it is shown this once, and only its hash is kept."""
    check_name(name)
    token = secrets.token_urlsafe(32)
    values = {
        "name": name,
        "role": role,
        "token_hash": _hash(token),
        "active": True,
        "created_at": time.time() if now is None else now,
    }
    try:
        with store.write() as connection:
            connection.execute(sa.insert(people).values(values))
    except IntegrityError as fault:
        raise DataError(
            f"there is a person {name!r} already", where=store.shown, way_out="give another name"
        ) from fault
    return get_person(store, name), token


def check_name(name: object, where: str | None = None) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or not name.isprintable():
        raise DataError(
            f"{name!r} is no name of a person", where=where, way_out="use 1 to 200 printable characters"
        )
    return name


# Built once: making a statement anew costs more than running it.
_BY_TOKEN = sa.select(people).where(people.c.token_hash == sa.bindparam("hashed"), people.c.active)


def person_by_token(store: Store, token: str) -> Person | None:
    """The active person who holds the token, or None."""
    if not token or len(token) > 200:
        return None
    with store.glance() as connection:
        row = connection.execute(_BY_TOKEN, {"hashed": _hash(token)}).one_or_none()
    return None if row is None else _person(row)


def get_person(store: Store, which: str | int) -> Person:
    """By name or by id."""
    column = people.c.name if isinstance(which, str) else people.c.id
    with store.read() as connection:
        row = connection.execute(sa.select(people).where(column == which)).one_or_none()
    if row is None:
        raise DataError(f"there is no person {which!r}", where=store.shown, way_out="add the person first")
    return _person(row)


def list_people(store: Store) -> list[Person]:
    with store.read() as connection:
        return [_person(row) for row in connection.execute(sa.select(people).order_by(people.c.id))]


def renew_token(store: Store, person_id: int) -> str:
    """A token in place of the old one, which opens nothing any more."""
    token = secrets.token_urlsafe(32)
    _change(store, person_id, token_hash=_hash(token))
    return token


def set_active(store: Store, person_id: int, active: bool) -> None:
    """An inactive person's token opens nothing; the votes stay. Leases end by themselves, or by `release`."""
    _change(store, person_id, active=active)


def set_role(store: Store, person_id: int, role: Role) -> None:
    _change(store, person_id, role=role)


def require_lead(person: Person) -> None:
    if person.role != "lead":
        raise NotAllowedError(f"{person.name} is no lead", way_out="ask a lead of the stage")


def _change(store: Store, person_id: int, **values: Any) -> None:
    with store.write() as connection:
        found = connection.execute(sa.update(people).where(people.c.id == person_id).values(values)).rowcount
    if not found:
        raise DataError(f"there is no person {person_id}", where=store.shown, way_out="add the person first")


def _person(row: Any) -> Person:
    return Person(row.id, row.name, cast("Role", row.role), row.active, row.created_at)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
