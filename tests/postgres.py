"""A private PostgreSQL server for the tests: its own folder and socket, nothing listening on the network."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa

# Debian keeps the server's programs off PATH.
DEBIAN = Path("/usr/lib/postgresql")
ACCOUNT = "postgres"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, the newest version's."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else None


def run(*command: str | Path) -> None:
    """As the account `postgres` where we are root: the server refuses to run as root."""
    prefix = ["runuser", "-u", ACCOUNT, "--"] if os.geteuid() == 0 else []
    done = subprocess.run([*prefix, *map(str, command)], capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def server() -> str:
    """A server that lives as long as the tests: its URL, with a place for the name of the database."""
    binaries = programs()
    if binaries is None:
        pytest.skip("PostgreSQL's programs are not installed: apt-get install postgresql")
    if os.geteuid() == 0 and subprocess.run(["id", ACCOUNT], capture_output=True).returncode != 0:
        pytest.skip(f"we are root and there is no account {ACCOUNT} to run PostgreSQL as")
    # A socket's path has at most 107 bytes, which pytest's folders may exceed.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    cluster = folder / "cluster"
    if os.geteuid() == 0:
        shutil.chown(folder, ACCOUNT)
    run(binaries / "initdb", "-D", cluster, "-U", ACCOUNT, "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    # Registered before the start, so that a start that is interrupted leaves no server behind.
    atexit.register(stop, binaries / "pg_ctl", cluster)
    run(binaries / "pg_ctl", "-D", cluster, "-w", "-l", folder / "log", "-o", options, "start")
    return f"postgresql://{ACCOUNT}@/{{}}?host={folder}"


def stop(pg_ctl: Path, cluster: Path) -> None:
    if (cluster / "postmaster.pid").exists():
        run(pg_ctl, "-D", cluster, "-m", "immediate", "-w", "stop")


def fresh_database(name: str) -> str:
    """The URL of an empty database."""
    url = sa.make_url(server().format("postgres")).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    engine.dispose()
    return server().format(name)
