"""A database of a logical backup, read back into a server by pg_restore, without a copy of the dump on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import DataError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.dump_files import TOC, check_name, dump_path
from pgproof.model.dump_log import dump_warnings, restore_failure
from pgproof.model.job import Job
from pgproof.model.manifest import DumpedDatabase
from pgproof.model.report import Finding
from pgproof.postgres.client_access import client_access
from pgproof.postgres.connection import connect, query
from pgproof.postgres.databases import Connection
from pgproof.postgres.disk_errors import TEMPORARY, on_disk
from pgproof.postgres.fifo_feed import FifoFeed
from pgproof.postgres.pg_dump import RestoreOptions, restore_command, script_command
from pgproof.postgres.programs import find_clients, run
from pgproof.postgres.refusals import without_secrets
from pgproof.postgres.running import Running
from pgproof.postgres.temporary import temporary_directory
from pgproof.repository.dump_reader import DumpReader

# A table of contents is read whole by pg_restore; what it names is bounded by this.
_LARGEST_TOC = 1 << 30
_SMALL = 64 << 10
_SMALL_TOGETHER = 128 << 20
_WRITERS = 8
_SCRIPT_SECONDS = 600.0
_SCHEMA = ("--section=pre-data", "--section=post-data")
_EVERYTHING = RestoreOptions()


@dataclass(frozen=True, slots=True)
class RestoredDump:
    """What was restored: bytes of the dump that were read, seconds, and what pg_restore had to say."""

    bytes_read: int
    seconds: float
    findings: tuple[Finding, ...]


def restore_dump_into(
    reader: DumpReader,
    database: DumpedDatabase,
    target: PostgresConfig,
    target_database: str,
    *,
    jobs: int = 2,
    place: Path,
    bin_dir: str | None = None,
    options: RestoreOptions = _EVERYTHING,
    look: Callable[[str], None] | None = None,
    job: Job,
) -> RestoredDump:
    """Restore `database` into `target_database`, which exists and is empty; `place` is for a few temporary files.

    `look` sees the SQL of the dump's schema before anything is restored, and may raise.

    Roles that own things or have rights must exist, unless `options` leave those out. Breaks off at the first
    error and leaves what was restored until then. Raises DataError for damage in the repository, naming the file;
    PreconditionError where something must be changed first; TransientError where a repetition may succeed.
    """
    begun = time.monotonic()
    with closing(connect(target, dbname=target_database)) as connection:
        _refuse_occupied(connection, target_database)
        major = max(connection.info.server_version // 10000, reader.manifest.major_version)
    programs = find_clients(major, bin_dir)
    read = 0

    def content(name: bytes) -> Iterator[bytes]:
        nonlocal read
        for piece in reader.read(dump_path(database.oid, name)):
            read += len(piece)
            yield piece

    with (
        dump_directory(reader, database, place, job) as (directory, fifos),
        client_access(target, target_database, place) as access,
        FifoFeed(directory, fifos, content, jobs + 1) as feed,
    ):
        if look is not None:
            # It would have to name the database in a command of psql's, and refuses if it cannot.
            create = [] if set("\r\n") & set(database.name) else ["--create"]
            command = script_command(programs, directory, *create, *_SCHEMA, *options.arguments())
            look(run(command, user=None, timeout=_SCRIPT_SECONDS, what="pg_restore", job=job))
        failpoint("dump.restoring")
        list_file = None
        if options.use_list is not None:
            list_file = directory / "list"
            with on_disk(list_file, TEMPORARY):
                list_file.write_text(options.use_list)
        command = restore_command(
            programs, access.conninfo, directory, jobs=jobs, options=options, list_file=list_file
        )
        with Running(command, access.env) as program:
            while (status := program.poll()) is None:
                job.checkpoint()
                feed.check()
                job.report(f"restoring {target_database}", read, max(read, database.size_bytes))
                time.sleep(0.05)
            feed.finish()
            said = without_secrets(program.said, target)
    if status < 0 and "error:" not in said:
        raise TransientError(
            "pg_restore was ended by a signal", hint="run it again; see the kernel's log", signal=-status
        )
    if status != 0:
        raise restore_failure(status, said)
    failpoint("dump.restored")
    return RestoredDump(read, time.monotonic() - begun, tuple(dump_warnings(said)))


@contextmanager
def dump_directory(
    reader: DumpReader, database: DumpedDatabase, place: Path, job: Job
) -> Iterator[tuple[Path, list[bytes]]]:
    """A directory with the small files of a dump, the table of contents among them, and the names of the others."""
    with temporary_directory("restore", place, None) as directory:
        job.report("reading the table of contents")
        small, large, lists = [], [], []
        room, found = _SMALL_TOGETHER, False
        for file in reader.files(database.oid):
            found = found or file.name == TOC
            if file.name.endswith(b".toc"):
                lists.append(file.name)
            elif file.name == TOC:
                small.append(file.name)
            elif file.stored_size <= _SMALL and file.stored_size <= room:
                room -= file.stored_size
                small.append(file.name)
            else:
                large.append(file.name)
        if not found:
            raise DataError("a backup lacks a dump's table of contents", database=database.name)

        def write(name: bytes) -> None:
            job.checkpoint()
            with on_disk(directory, TEMPORARY), (directory / name.decode()).open("xb") as file:
                size = 0
                for piece in reader.read(dump_path(database.oid, name)):
                    size += file.write(piece)
                    if size > _LARGEST_TOC:
                        raise DataError("a dump's table of contents is larger than it can be")

        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="pgproof-small") as pool:
            for _written in pool.map(write, [*lists, *small]):
                job.checkpoint()
        yield directory, _in_order(large, directory, lists)


def _in_order(names: list[bytes], directory: Path, lists: list[bytes]) -> list[bytes]:
    """Large objects as pg_restore will open them, one after another, behind the tables."""
    left = set(names)
    ordered = [name for name in names if not name.startswith(b"blob_")]
    for each in lists:
        with (directory / each.decode()).open("rb") as file:
            for line in file:
                name = line.rstrip(b"\n").partition(b" ")[2]
                check_name(name)
                if name in left:
                    ordered.append(name)
    return list(dict.fromkeys([*ordered, *names]))


def _refuse_occupied(connection: Connection, name: str) -> None:
    # What initdb made has smaller numbers.
    ((found,),) = query(
        connection,
        """
        SELECT (SELECT count(*) FROM pg_class WHERE oid >= 16384)
             + (SELECT count(*) FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_(toast_)?temp_')
             + (SELECT count(*) FROM pg_proc WHERE oid >= 16384)
             + (SELECT count(*) FROM pg_type WHERE oid >= 16384)
             + (SELECT count(*) FROM pg_extension WHERE oid >= 16384)
             + (SELECT count(*) FROM pg_largeobject_metadata)
        """,
    )
    if found:
        raise PreconditionError(
            "the database to restore into is not empty",
            hint="create an empty one (from template0), or name another",
            database=name,
            objects=found,
        )
