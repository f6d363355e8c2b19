"""A database copied from one server into another: pg_dump piped into pg_restore, both in one snapshot of the source.

Rows go straight through a pipe; what is made behind the rows (indexes, constraints) is small as a dump, and goes through a
file, so that several can be made at a time.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgproof.errors import EngineError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.dump_log import dump_failure, dump_warnings, restore_failure
from pgproof.model.job import Job
from pgproof.model.report import Finding
from pgproof.postgres.client_access import client_access
from pgproof.postgres.connection import connect, query
from pgproof.postgres.databases import loads_via_root
from pgproof.postgres.disk_errors import TEMPORARY, disk_error
from pgproof.postgres.pg_dump import RestoreOptions, piped_dump_command, piped_restore_command
from pgproof.postgres.programs import Programs
from pgproof.postgres.refusals import without_secrets
from pgproof.postgres.running import Running
from pgproof.postgres.temporary import temporary_directory

_ROWS = ("pre-data", "data")
_BEHIND = ("post-data",)
_POLL = 0.05
_MEASURE = 1.0
_BROKEN = ("Broken pipe", "could not write to output file")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A transaction of `connection` to the source, and the name under which programs can join it."""

    connection: psycopg.Connection[Any]
    name: str


@contextmanager
def snapshot_of(postgres: PostgresConfig, database: str) -> Iterator[Snapshot]:
    """What `database` holds now, as long as the block lasts."""
    with closing(connect(postgres, dbname=database)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        for name in ("idle_in_transaction_session_timeout", "transaction_timeout", "statement_timeout"):
            query(connection, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = %s", name)
        with connection.transaction():
            yield Snapshot(connection, str(query(connection, "SELECT pg_export_snapshot()")[0][0]))


class DatabaseCopier:
    """Copies the database of `snapshot` on `source` into one on `target`; `place` is for a few temporary files."""

    def __init__(
        self,
        programs: Programs,
        source: PostgresConfig,
        snapshot: Snapshot,
        target: PostgresConfig,
        place: Path,
        options: RestoreOptions,
        job: Job,
    ) -> None:
        self._programs = programs
        self._source = source
        self._snapshot = snapshot
        self._target = target
        self._place = place
        self._options = options
        self._job = job
        self.via_root = loads_via_root(snapshot.connection)

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """To the source, in its snapshot."""
        return self._snapshot.connection

    def copy_into(self, database: str, jobs: int, progress: Callable[[], None]) -> list[Finding]:
        """Everything into an empty database; what the programs said and went on.

        Raises EngineError for what broke it off: then some of it is there.
        """
        with self._access(database) as (source, target):
            receive = piped_restore_command(self._programs, target.conninfo, options=self._options)
            found = self._pipe(self._dump(source.conninfo, _ROWS), source.env, receive, target.env, progress)
            failpoint("database.filled")
            with temporary_directory("copy", self._place, None) as directory:
                archive = directory / "behind"
                command: list[str | Path] = [*self._dump(source.conninfo, _BEHIND), f"--file={archive}"]
                with Running(command, source.env) as dump:
                    status, said = self._end_of(dump, progress)
                self._refuse_dump(status, said)
                found += dump_warnings(said)
                receive = piped_restore_command(
                    self._programs, target.conninfo, options=self._options, jobs=jobs, archive=archive
                )
                with Running(receive, target.env) as restore:
                    status, said = self._end_of(restore, progress)
                if status and not os.statvfs(directory).f_bavail:
                    # pg_dump -Fc 15.18 ends with 0 although what it wrote did not fit.
                    raise disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), directory, TEMPORARY)
                self._refuse_restore(status, said)
        failpoint("database.indexed")
        return [*found, *dump_warnings(said)]

    def contents(self) -> str:
        """The table of contents of the whole dump, as `pg_restore --list --verbose` prints it."""
        with client_access(self._source, self._snapshot.connection.info.dbname, self._place) as source:
            listing: list[str | Path] = [
                self._programs.path("pg_restore"),
                "--list",
                "--verbose",
                "--format=custom",
            ]
            reading, writing = os.pipe()
            with temporary_directory("copy", self._place, None) as directory:
                output = directory / "list"
                with (
                    output.open("xb") as file,
                    Running(self._dump(source.conninfo), source.env, writing) as dump,
                ):
                    os.close(writing)
                    with Running(listing, source.env, file.fileno(), reading) as restore:
                        os.close(reading)
                        status, said = self._end_of(restore, lambda: None)
                    # It has what it wants from the beginning, and so pg_dump is broken off.
                    if status:
                        self._refuse_dump(dump.wait(), self._said(dump))
                        raise restore_failure(status, said)
                return output.read_text(errors="surrogateescape")

    def add_to(self, database: str, use_list: str, progress: Callable[[], None]) -> list[Finding]:
        """What `use_list` names of `contents` into a database that exists, in one transaction."""
        with (
            self._access(database) as (source, target),
            temporary_directory("copy", self._place, None) as directory,
        ):
            list_file = directory / "list"
            list_file.write_text(use_list, errors="surrogateescape")
            receive = piped_restore_command(
                self._programs,
                target.conninfo,
                options=self._options,
                list_file=list_file,
                single_transaction=True,
            )
            return self._pipe(
                self._dump(source.conninfo), source.env, receive, target.env, progress, partial=True
            )

    @contextmanager
    def _access(self, database: str) -> Iterator[tuple[Any, Any]]:
        from_database = self._snapshot.connection.info.dbname
        with (
            client_access(self._source, from_database, self._place) as source,
            client_access(self._target, database, self._place) as target,
        ):
            yield source, target

    def _dump(self, conninfo: str, sections: tuple[str, ...] = ()) -> list[str | Path]:
        return piped_dump_command(
            self._programs,
            conninfo,
            snapshot=self._snapshot.name,
            sections=sections,
            via_root=self.via_root,
            subscriptions=self._options.subscriptions,
        )

    def _pipe(
        self,
        dump_command: list[str | Path],
        dump_env: Any,
        restore_command: list[str | Path],
        restore_env: Any,
        progress: Callable[[], None],
        *,
        partial: bool = False,
    ) -> list[Finding]:
        reading, writing = os.pipe()
        try:
            dump = Running(dump_command, dump_env, writing)
            with dump:
                os.close(writing)
                writing = -1
                with Running(restore_command, restore_env, stdin=reading) as restore:
                    os.close(reading)
                    reading = -1
                    failpoint("database.filling")
                    received, restore_said = self._end_of(restore, progress)
                sent, dump_said = self._end_of(dump, progress)
        finally:
            for descriptor in (reading, writing):
                if descriptor >= 0:
                    os.close(descriptor)
        # A dump that was broken off because nobody read on is no failure of its own.
        self._refuse_dump(sent, dump_said, reader_left=received != 0 or partial)
        self._refuse_restore(received, restore_said)
        return [*dump_warnings(dump_said), *dump_warnings(restore_said)]

    def _end_of(self, program: Running, progress: Callable[[], None]) -> tuple[int, str]:
        next_look = 0.0
        while (status := program.poll()) is None:
            self._job.checkpoint()
            if time.monotonic() >= next_look:
                progress()
                next_look = time.monotonic() + _MEASURE
            time.sleep(_POLL)
        return status, self._said(program)

    def _said(self, program: Running) -> str:
        return without_secrets(without_secrets(program.said, self._source), self._target)

    def _refuse_dump(self, status: int, said: str, *, reader_left: bool = False) -> None:
        broken = status == -signal.SIGPIPE or any(word in said for word in _BROKEN)
        if status and not (reader_left and broken):
            raise _ended(status, "pg_dump") or dump_failure("pg_dump", status, said)

    def _refuse_restore(self, status: int, said: str) -> None:
        if status:
            raise _ended(status, "pg_restore") or restore_failure(status, said)


def _ended(status: int, program: str) -> EngineError | None:
    if status >= 0:
        return None
    return TransientError(
        f"{program} was ended by a signal", hint="run it again; see the kernel's log", signal=-status
    )
