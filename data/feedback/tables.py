"""The tables of the label store, the same for SQLite and PostgreSQL.

Votes are append-only, and the database itself refuses to change or delete one: a correction is a further row that
`supersedes` an earlier one. Counters on items and stages repeat what the rows say, so that the next item is found
without counting; every transaction that adds a row keeps them right.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

VERSION = 1
metadata = sa.MetaData()


class Json(sa.TypeDecorator[Any]):
    """JSON as plain ASCII text, so that both databases hold the same characters."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


# Seconds since 1970, in UTC. FLOAT is only 4 bytes wide in some databases.
Time = sa.Double
# SQLite counts up a primary key only when it is INTEGER.
Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _key(target: str) -> sa.ForeignKey:
    return sa.ForeignKey(target, ondelete="RESTRICT")


versions = sa.Table("label_store", metadata, sa.Column("version", sa.Integer, primary_key=True))

stages = sa.Table(
    "stages",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("settings", Json, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("stopped", sa.Text),  # why no more items are given out, where the stop rule said so
    sa.Column("done", sa.Integer, nullable=False, default=0),  # items that have all the votes they need
    sa.Column("judged", sa.Integer, nullable=False, default=0),  # votes that count, gold items aside
    sa.Column("created_at", Time, nullable=False),
    sa.CheckConstraint("state IN ('open', 'paused', 'closed')"),
)

people = sa.Table(
    "people",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("token_hash", sa.Text, unique=True),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.CheckConstraint("role IN ('annotator', 'lead')"),
)

items = sa.Table(
    "items",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("stage_id", Id, _key("stages.id"), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("prompt", Json, nullable=False),
    sa.Column("image", sa.Text),
    sa.Column("candidates", Json, nullable=False),
    sa.Column("gold", Json),
    sa.Column("scores", Json, nullable=False),  # {critic: [a score or null for each candidate]}
    sa.Column("extra", Json, nullable=False),
    sa.Column("is_gold", sa.Integer, nullable=False),
    sa.Column("position", sa.Double, nullable=False),  # lower is given out earlier
    sa.Column("needed", sa.Integer, nullable=False),  # how many votes it is to have
    sa.Column("taken", sa.Integer, nullable=False, default=0),  # running leases and votes that count
    sa.Column("judged", sa.Integer, nullable=False, default=0),  # votes that count
    sa.Column("flags", sa.Integer, nullable=False, default=0),
    sa.Column("open", sa.Integer, nullable=False, default=1),  # 1: somebody may be given it
    # 1: it was given back, so it may lie before the place that a person's search has reached
    sa.Column("returned", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("stage_id", "key"),
    sa.CheckConstraint("is_gold = 1 OR taken <= needed", name="never_more_than_needed"),
    sa.CheckConstraint("0 <= judged AND judged <= taken", name="votes_are_taken_places"),
    sa.Index("items_to_give", "stage_id", "is_gold", "open", "returned", "position", "id"),
)

roster = sa.Table(
    "roster",
    metadata,
    sa.Column("stage_id", Id, _key("stages.id"), primary_key=True),
    sa.Column("person_id", Id, _key("people.id"), primary_key=True),
    # Everything before this place is seen by the person, full, or marked as returned.
    sa.Column("reached_position", sa.Double),
    sa.Column("reached_item", Id),
    sa.Column("handed", sa.Integer, nullable=False, default=0),
    sa.Column("barred", sa.Text),  # why
    sa.Column("votes_count", sa.Boolean, nullable=False, default=True),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("stage_id", Id, _key("stages.id"), nullable=False),
    sa.Column("item_id", Id, _key("items.id"), nullable=False),
    sa.Column("person_id", Id, _key("people.id"), nullable=False),
    sa.Column("shown", Json, nullable=False),  # indices of the candidates, in the order of the page
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("since", Time, nullable=False),
    sa.Column("until", Time, nullable=False),
    sa.UniqueConstraint("item_id", "person_id"),
    sa.CheckConstraint("status IN ('running', 'answered', 'expired', 'released')"),
    sa.Index("leases_by_end", "stage_id", "status", "until"),
    sa.Index("leases_of_person", "person_id", "status", "stage_id"),
)

votes = sa.Table(
    "votes",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("stage_id", Id, _key("stages.id"), nullable=False),
    sa.Column("item_id", Id, _key("items.id"), nullable=False),
    sa.Column("person_id", Id, _key("people.id"), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("choice", Json),
    sa.Column("strength", sa.Integer),
    sa.Column("comment", sa.Text),
    sa.Column("shown", Json, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("at", Time, nullable=False),
    sa.Column("supersedes", Id, _key("votes.id"), unique=True),
    sa.UniqueConstraint("person_id", "key"),
    sa.Index("votes_of_person", "person_id", "stage_id", "id"),
    sa.Index("votes_of_item", "item_id", "person_id"),
    sa.Index("votes_of_stage", "stage_id", "id"),
)

edits = sa.Table(
    "edits",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("vote_id", Id, _key("votes.id"), nullable=False, unique=True),
    sa.Column("candidate", sa.Integer),  # the one it betters; null: written afresh
    sa.Column("text", Json, nullable=False),
)

_SQLITE_GUARD = """
CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRES_REFUSAL = """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN RAISE EXCEPTION ''% is append-only'', TG_TABLE_NAME; END'
"""
_POSTGRES_GUARD = """
CREATE TRIGGER {table}_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""


def guards(dialect: str) -> list[str]:
    """Statements that make the database itself refuse changes to votes and edits."""
    append_only = ("votes", "edits")
    if dialect == "sqlite":
        return [
            _SQLITE_GUARD.format(table=table, verb=verb)
            for table in append_only
            for verb in ("UPDATE", "DELETE")
        ]
    return [_POSTGRES_REFUSAL, *(_POSTGRES_GUARD.format(table=table) for table in append_only)]
