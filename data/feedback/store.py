"""The label store: opens SQLite or PostgreSQL, and hands out short transactions.

SQLite runs in write-ahead mode with `synchronous=FULL`: a vote that was confirmed is on the disk, whatever happens
to the process or the power; `NORMAL` would survive a killed process but not a power cut, and the sync costs less
than people notice. A transaction that writes takes SQLite's write lock at its start, so that it never fails half-way
because somebody else wrote in between; on PostgreSQL `lock_stage` gives the same order of events for each stage.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DatabaseError

from data.errors import DataError
from data.feedback import tables

BUSY_SECONDS = 30
_WRITES = "heliograph_writes"
# Any number will do, as long as every process that creates the tables takes the same lock.
_CREATION_LOCK = 0x48454C494F


class Store:
    """One database of stages, people, items and votes. Threads may share it; processes open their own."""

    def __init__(self, location: str | Path) -> None:
        """`location` is a file (SQLite) or a URL (`postgresql://user@host/name`, `sqlite:///file`)."""
        self.url = _url(location)
        self.shown = self.url.render_as_string(hide_password=True)
        self.dialect = self.url.get_backend_name()
        self._writing = threading.Lock()
        if self.dialect == "sqlite":
            if self.url.database in (None, "", ":memory:"):
                raise DataError(
                    "votes need a file: a database in memory is gone with its process",
                    where=self.shown,
                    way_out="give a path such as runs/labels.sqlite",
                )
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(
                self.url, connect_args={"timeout": BUSY_SECONDS}, pool_size=8, max_overflow=56
            )
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            try:
                self.engine = sa.create_engine(self.url, pool_size=8, max_overflow=24, pool_pre_ping=True)
            except ImportError as fault:
                raise DataError(
                    f"PostgreSQL needs its driver: {fault}",
                    where=self.shown,
                    way_out="pip install 'psycopg[binary]'",
                ) from fault
        try:
            self._create()
        except DatabaseError as fault:
            self.engine.dispose()
            raise DataError(
                f"the label store cannot be opened: {str(fault.orig).strip() or type(fault.orig).__name__}",
                where=self.shown,
                way_out="check that the file is a label store and its folder writable, or that the server runs",
            ) from fault

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A transaction that sees one state of the data throughout."""
        options: dict[str, Any] = {} if self.dialect == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Generator[sa.Connection]:
        """A transaction that changes something; it is on the disk when the block has ended.

        With `durable=False` it survives the end of the process, but a power cut may undo it: right for a lease,
        which costs nobody's work.
        """
        if self.dialect != "sqlite":
            with self.engine.begin() as connection:
                if not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
                yield connection
            return
        mode = "FULL" if durable else "NORMAL"
        # Threads of this process queue here: SQLite's own waiting polls, and is not fair.
        with (
            self._writing,
            self.engine.connect().execution_options(**{_WRITES: mode}) as connection,
            connection.begin(),
        ):
            yield connection

    def analyze(self) -> None:
        """Tell the planner how the data are spread; worth its time after an import."""
        with self.write() as connection:
            connection.exec_driver_sql("ANALYZE")

    def _create(self) -> None:
        with self.write() as connection:
            if self.dialect != "sqlite":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION_LOCK)))
            if not sa.inspect(connection).has_table(tables.versions.name):
                tables.metadata.create_all(connection)
                for statement in tables.guards(self.dialect):
                    connection.exec_driver_sql(
                        statement.replace("%", "%%") if "%" in statement else statement
                    )
                connection.execute(sa.insert(tables.versions).values(version=tables.VERSION))
            found = connection.scalar(sa.select(tables.versions.c.version))
        if found != tables.VERSION:
            raise DataError(
                f"the label store has version {found}; this Heliograph reads version {tables.VERSION}",
                where=self.shown,
                way_out="export it with the Heliograph that wrote it, and import the export here",
            )


def lock_stage(connection: sa.Connection, stage_id: int) -> sa.RowMapping:
    """The stage's row; until the transaction ends no other one can give out or count its items."""
    found = (
        connection.execute(
            sa.select(tables.stages).where(tables.stages.c.id == stage_id).with_for_update(key_share=True)
        )
        .mappings()
        .one_or_none()
    )
    if found is None:
        raise DataError(f"there is no stage {stage_id}", way_out="list the stages and take an id from there")
    return found


def _url(location: str | Path) -> sa.URL:
    text = str(location)
    if "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except ArgumentError as fault:
        raise DataError(
            "not the URL of a database", way_out="write postgresql://user@host/name, or the path of a file"
        ) from fault
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise DataError(
            f"no label store in {url.drivername}",
            way_out="use SQLite (the path of a file) or PostgreSQL (postgresql://user@host/name)",
        )
    return url


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver must not open transactions by itself: it would open them too late, and without the lock.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_SECONDS}000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    mode = connection.get_execution_options().get(_WRITES)
    if mode is None:
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA synchronous={mode}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
