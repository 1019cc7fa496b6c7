"""The label store: opens SQLite or PostgreSQL, and hands out short transactions.

A vote that was confirmed is on the disk, whatever happens to the process or the power. On SQLite the write-ahead
log is synced after the commit and outside the write lock, so that one sync of the disk serves everybody who waits
for one; SQLite's own `synchronous=FULL` would sync once for each vote, one after the other. A transaction that
writes takes SQLite's write lock at its start, so that it never fails half-way because somebody else wrote in between;
on PostgreSQL `lock_stage` gives the same order of events for each stage.
"""

from __future__ import annotations

import contextlib
import os
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
_WRITING = {_WRITES: True}
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
        self._syncing = threading.Lock()
        self._commits = 0
        self._synced = 0
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
                # Without a ping before each use: a lost connection is one 503, after which the page asks again.
                self.engine = sa.create_engine(self.url, pool_size=8, max_overflow=24)
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
    def glance(self) -> Generator[sa.Connection]:
        """For one statement that reads: without the words around a transaction, which a server is asked for too."""
        if self.dialect == "sqlite":
            with self.read() as connection:
                yield connection
            return
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Generator[sa.Connection]:
        """A transaction that changes something; it is on the disk when the block has ended.

        With `durable=False` it survives the end of the process, but a power cut may undo it: right for a lease,
        which costs nobody's work.
        """
        # Threads of this process queue here: SQLite's own waiting polls, and is not fair; PostgreSQL's is fair, and
        # costs a wake-up of its process for each.
        if self.dialect != "sqlite":
            with self._writing, self.engine.begin() as connection:
                if not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
                yield connection
            return
        with self._writing:
            with self.engine.connect().execution_options(**_WRITING) as connection, connection.begin():
                yield connection
            self._commits += 1
            ours = self._commits
        if durable:
            self._sync(ours)

    def _sync(self, commit: int) -> None:
        """Return when the commit of this number is on the disk. A checkpoint in between syncs the log by itself."""
        with self._syncing:
            if self._synced >= commit:
                return
            reached = self._commits
            log = os.open(f"{self.url.database}-wal", os.O_RDWR)
            try:
                os.fsync(log)
            finally:
                os.close(log)
            self._synced = reached

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


# Built once: making a statement anew costs more than running it.
_LOCKED_STAGE = (
    sa.select(tables.stages)
    .where(tables.stages.c.id == sa.bindparam("stage"))
    .with_for_update(key_share=True)
)


def lock_stage(connection: sa.Connection, stage_id: int) -> sa.RowMapping:
    """The stage's row; until the transaction ends no other one can give out or count its items."""
    found = connection.execute(_LOCKED_STAGE, {"stage": stage_id}).mappings().one_or_none()
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
        # Syncs at checkpoints; `Store.write` syncs the log itself.
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_SECONDS}000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = _WRITES in connection.get_execution_options()
    # Past SQLAlchemy's execution, which costs more than the statement.
    driver: Any = connection.connection.dbapi_connection
    driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
