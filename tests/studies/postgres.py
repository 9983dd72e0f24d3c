"""A real PostgreSQL server on loopback, for tests of searches that share one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

USER = "karui"


def find_program(name: str) -> str | None:
    """Where one of the server's programs lies: Debian keeps them off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or (str(debian[0]) if debian else None)


def server_user() -> dict[str, Any]:
    """As whom the server runs, for subprocess: it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[int]:
    """Start a server in a new folder, and yield its port on 127.0.0.1; it is gone afterwards.

    It takes everybody without a password, but for a user ``locked``.
    """
    initdb, pg_ctl = find_program("initdb"), find_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL server here: initdb and pg_ctl are neither on the PATH nor in /usr/lib/postgresql")
    user = server_user()
    # Not pytest's own folder: that is closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="karui-postgres-") as name:
        folder = Path(name)
        if user:
            os.chown(folder, user["user"], user["group"])
        run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
        data, port = folder / "data", free_port()
        subprocess.run([initdb, "-D", data, "-U", USER, "-A", "trust", "-N", "--no-locale", "-E", "UTF8"], **run)
        rules = data / "pg_hba.conf"
        rules.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=60"
        subprocess.run([pg_ctl, "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **run)
        try:
            yield port
        finally:
            subprocess.run([pg_ctl, "-D", data, "-m", "immediate", "stop"], **run)


def new_database(port: int) -> str:
    """Make an empty database, and return its SQLAlchemy URL."""
    import psycopg

    name = f"study_{uuid4().hex}"
    with psycopg.connect(f"postgresql://{USER}@127.0.0.1:{port}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{name}"
