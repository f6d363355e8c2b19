"""Clusters for the tests of the scratch server: stopped ones, and a production with an archive."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgproof.model.control_file import CONTROL_FILE, ControlFile, parse_control_file
from pgproof.model.job import Job
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import Programs, find_programs, run
from pgproof.postgres.scratch import Recovery, ScratchServer, scratch_server
from tests.support import machine

USER = service_user()
SUPERUSER = "the boss"


@dataclass
class Production:
    """A running cluster with an archive, and a base backup taken from it before anything happened."""

    programs: Programs
    base: Path
    data: Path
    archive: Path
    backup: Path

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.base), user=SUPERUSER, dbname="postgres", autocommit=True, port=5432
        )

    def switch_wal(self) -> None:
        """End the current segment and wait until it is in the archive."""
        with self.connect() as connection:
            row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
        machine.wait_until((self.archive / row[0]).exists, "a segment to be archived")

    def recovery(self, **target: str) -> Recovery:
        return Recovery(f"cp {self.archive}/%f %p", 1, target, (self.archive,))


@contextlib.contextmanager
def running_production(major: int) -> Iterator[Production]:
    """Its table `rows` of 1,000 rows and its database `other` came after the base backup."""
    programs, template = cold_cluster(major)
    base = machine.new_dir("prod", owned_by_service=True)
    data, archive, backup = copy(template, base / "data"), make_dir(base / "archive"), base / "backup"
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{base}'\nlisten_addresses = ''\nautovacuum = off\n")
        conf.write(f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\nfsync = off\n")
        conf.write("max_connections = 33\n")
    control = [str(programs.path("pg_ctl")), "-D", str(data), "-w", "-l", str(base / "log")]
    run([*control, "start"], user=USER, timeout=120, what="pg_ctl start")
    try:
        command = [
            str(programs.path("pg_basebackup")),
            "-D",
            str(backup),
            "-X",
            "none",
            "-c",
            "fast",
            "--no-sync",
        ]
        env = {"PGHOST": str(base), "PGUSER": SUPERUSER, "PGPORT": "5432"}
        run(command, user=USER, env=env, timeout=120, what="pg_basebackup")
        production = Production(programs, base, data, archive, backup)
        with production.connect() as connection:
            connection.execute("CREATE TABLE rows AS SELECT generate_series(1, 1000) AS n")
            connection.execute("CREATE DATABASE other")
        production.switch_wal()
        yield production
    finally:
        run([*control, "stop", "-m", "immediate"], user=USER, timeout=120, what="pg_ctl stop")
        shutil.rmtree(base)


@functools.cache
def cold_cluster(major: int) -> tuple[Programs, Path]:
    """A cluster that was never started; to be copied, not changed."""
    programs = find_programs(major)
    data = machine.new_dir("cold", owned_by_service=True) / "data"
    initdb = [str(programs.path("initdb")), "-D", str(data), "-U", SUPERUSER, "--no-sync", "-A", "trust"]
    run([*initdb, "--wal-segsize=1"], user=USER, timeout=120, what="initdb")
    return programs, data


def copy(source: Path, target: Path) -> Path:
    run(["/bin/cp", "-a", source, target], user=USER, timeout=120, what="copying")
    return target


def make_dir(path: Path) -> Path:
    path.mkdir(mode=0o700)
    machine.give_to_service(path)
    return path


def sql(text: str) -> bytes:
    """A query that is put together here; psycopg wants literal text otherwise."""
    return text.encode()


def control_of(data: Path) -> ControlFile:
    return parse_control_file((data / CONTROL_FILE).read_bytes())


@contextlib.contextmanager
def scratch(programs: Programs, data: Path, **more: object) -> Iterator[ScratchServer]:
    arguments: dict[str, object] = {"user": USER, "control": control_of(data), "job": Job(), "timeout": 60}
    with scratch_server(programs, data, **{**arguments, **more}) as server:  # type: ignore[arg-type]
        yield server


def one(server: ScratchServer, query: str) -> object:
    with server.connect() as connection:
        row = connection.execute(sql(query)).fetchone()
    assert row is not None
    return row[0]


def contents(root: Path) -> dict[str, str]:
    """Every path under `root` with what is in it."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def processes_in(data: Path) -> set[int]:
    """The processes whose working directory is that data directory, as a server's always is."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            if (entry / "cwd").readlink() == data:
                found.add(int(entry.name))
    return found


def processes_of(data: Path) -> set[int]:
    """The server's processes on that data directory, and the programs of ours that hold it."""
    found = processes_in(data)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            if os.fsencode(data) in (entry / "cmdline").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found
