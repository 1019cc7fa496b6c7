"""The label store: what the databases refuse, tokens at rest, and a confirmed vote after kill -9."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from data.errors import DataError
from data.feedback import tables
from data.feedback.history import history
from data.feedback.people import (
    NotAllowedError,
    add_person,
    get_person,
    list_people,
    person_by_token,
    renew_token,
    require_lead,
    set_active,
)
from data.feedback.stages import (
    StageSettings,
    change_settings,
    create_stage,
    get_stage,
    list_stages,
    set_state,
)
from data.feedback.store import Store
from data.feedback.votes import submit
from tests import labelling
from tests.labelling import BEST, a_stage, annotators, given, rows

location, sqlite, store = labelling.location, labelling.sqlite, labelling.store
ROOT = Path(__file__).parent.parent


def test_the_database_refuses_to_change_or_delete_a_vote(store: Store) -> None:
    stage = a_stage(store)
    person = annotators(store, 1)[0]
    submit(store, stage.id, person, given(store, stage, person).item_id, BEST, "k")
    for change in (
        sa.update(tables.votes).values(kind="tie"),
        sa.delete(tables.votes),
    ):
        with pytest.raises(DatabaseError, match="votes is append-only"), store.write() as connection:
            connection.execute(change)
    assert [vote.kind for vote in history(store, stage.id)] == ["best"]


def test_the_database_refuses_more_votes_than_needed_and_strangers(store: Store) -> None:
    stage = a_stage(store, overlap=1)
    with pytest.raises(DatabaseError, match="never_more_than_needed"), store.write() as connection:
        connection.execute(sa.update(tables.items).values(taken=2))
    with pytest.raises(DatabaseError, match=r"(?i)foreign key"), store.write() as connection:
        connection.execute(sa.insert(tables.roster).values(stage_id=stage.id, person_id=99))


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    def half_way() -> None:
        with store.write() as connection:
            connection.execute(sa.insert(tables.versions).values(version=7))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_way()
    with store.read() as connection:
        assert list(connection.scalars(sa.select(tables.versions.c.version))) == [tables.VERSION]


def test_sqlite_syncs_the_log_after_the_commit_and_before_it_returns(
    sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = os.stat(tmp_path / "labels.sqlite-wal")
    synced: list[tuple[int, int]] = []

    def fsync(file: int) -> None:
        with sqlite.read() as connection:
            there = connection.scalar(sa.select(sa.func.count()).select_from(tables.people))
        synced.append((os.fstat(file).st_ino, int(there or 0)))

    monkeypatch.setattr(os, "fsync", fsync)
    with sqlite.write() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
        assert found == ["wal", 1, 1]  # synchronous 1: the log is ours to sync
    add_person(sqlite, "Ada")
    with sqlite.write(durable=False):
        pass
    assert synced == [(log.st_ino, 0), (log.st_ino, 1)]


def test_one_sync_serves_everybody_who_waits_for_one(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    syncs: list[int] = []

    def fsync(file: int) -> None:
        syncs.append(file)
        begun.set()
        assert go_on.wait(20)

    monkeypatch.setattr(os, "fsync", fsync)
    threads = [threading.Thread(target=add_person, args=(sqlite, f"p{n}")) for n in range(9)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 20
    while len(list_people(sqlite)) < 9:  # all are committed, and none has returned
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert all(thread.is_alive() for thread in threads)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(syncs) == 2


def test_two_open_one_store_at_once(location: str) -> None:
    """Tables are created once, whoever is first."""
    found: list[Store] = []
    threads = [threading.Thread(target=lambda: found.append(Store(location))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    create_stage(found[0], "stage")
    assert [stage.name for stage in list_stages(found[5])] == ["stage"]
    for one in found:
        one.close()


def test_places_that_are_no_store_are_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(
        "this is no database, but long enough to be taken for one by its length\n" * 9
    )
    for where, what in [
        (tmp_path / "text", "file is not a database"),
        (":memory:", "in memory"),
        ("mysql://host/name", "no label store in mysql"),
        ("://", "not the URL"),
    ]:
        with pytest.raises(DataError, match=what):
            Store(where)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE label_store SET version = 99")
    connection.close()
    with pytest.raises(DataError, match="has version 99; this Heliograph reads version 1"):
        Store(path)


def test_tokens_are_kept_as_hashes_only(store: Store) -> None:
    person, token = add_person(store, "Ada", "lead")
    assert len(token) == 43  # 256 bits in base 64
    (row,) = rows(store, tables.people)
    assert row.token_hash == hashlib.sha256(token.encode()).hexdigest()
    assert token not in repr(row)
    assert person_by_token(store, token) == person
    assert person_by_token(store, token[:-1] + "!") is None
    assert person_by_token(store, "") is None
    fresh = renew_token(store, person.id)
    assert person_by_token(store, token) is None
    assert person_by_token(store, fresh) == person
    set_active(store, person.id, False)
    assert person_by_token(store, fresh) is None
    assert [one.active for one in list_people(store)] == [False]


def test_people_and_leads(store: Store) -> None:
    add_person(store, "Ada")
    with pytest.raises(DataError, match="a person 'Ada' already"):
        add_person(store, "Ada")
    with pytest.raises(NotAllowedError, match="Ada is no lead"):
        require_lead(get_person(store, "Ada"))
    for name in ("", "a\nb", "x" * 201):
        with pytest.raises(DataError, match="no name of a person"):
            add_person(store, name)


def test_stages_have_names_and_settings(store: Store) -> None:
    made = create_stage(store, "first", StageSettings(overlap=3, kinds=("choose", "skip")))
    assert get_stage(store, "first") == get_stage(store, made.id) == made
    assert made.settings.overlap == 3
    with pytest.raises(DataError, match="a stage 'first' already"):
        create_stage(store, "first")
    with pytest.raises(DataError, match=r"no stage 'second'\n  there are first"):
        get_stage(store, "second")
    assert set_state(store, made.id, "paused").state == "paused"
    assert change_settings(store, made.id, StageSettings(overlap=1)).settings.overlap == 1


def test_settings_that_cannot_work_are_refused() -> None:
    for settings, what in [
        ({"kinds": ["skip", "flag"]}, "needs at least one"),
        ({"overlap": 3, "max_overlap": 2}, "max_overlap is below"),
        ({"quota": 5}, "go together"),
        ({"quota": 5, "agreement": 0.5, "overlap": 1}, "one person cannot disagree"),
        ({"overlapp": 3}, "Extra inputs"),
    ]:
        with pytest.raises(ValueError, match=what):
            StageSettings.model_validate(settings)


def test_a_confirmed_vote_survives_kill_9(tmp_path: Path) -> None:
    """A process votes and prints each receipt; it is killed in full flight, and every printed vote is there."""
    path = tmp_path / "labels.sqlite"
    with Store(path) as store:
        stage = a_stage(store, items=3000, overlap=1)
        person = annotators(store, 1)[0]
    code = f"""
        from data.feedback.assignment import next_item
        from data.feedback.ballots import Ballot
        from data.feedback.store import Store
        from data.feedback.votes import submit
        store = Store({str(path)!r})
        for n in range(3000):
            item = next_item(store, {stage.id}, {person}).item_id
            receipt = submit(store, {stage.id}, {person}, item, Ballot("best", 0), str(n))
            print(receipt.vote_id, item, flush=True)
    """
    voter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert voter.stdout is not None
    confirmed = [voter.stdout.readline() for _ in range(40)]
    voter.send_signal(signal.SIGKILL)
    confirmed += [line for line in voter.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert voter.wait() == -signal.SIGKILL
    voter.stdout.close()
    with Store(path) as store:
        stored = {(vote.id, vote.item_id) for vote in history(store, stage.id, limit=5000)}
        with store.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        # The item it held comes back to it, and work goes on.
        held = given(store, stage, person)
        assert held.item_id not in {item for _, item in stored}
    told = {tuple(map(int, line.split())) for line in confirmed}
    assert len(told) >= 40
    assert told <= stored
    assert len(stored) <= len(told) + 1
