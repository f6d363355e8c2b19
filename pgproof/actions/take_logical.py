"""Take a logical backup: roles and the like by pg_dumpall, each database by pg_dump, the manifest last.

A differential or incremental one does not store again the chunks that its base has, wherever they lie there.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

from pgproof.actions.backup_commit import announce, commit
from pgproof.actions.backup_record import BackupRecord, healed, resumed
from pgproof.actions.choose_base import packs_known_damaged
from pgproof.actions.dump_intake import take_dump, take_globals
from pgproof.errors import TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.dump_files import DATABASES
from pgproof.model.dump_log import dump_warnings
from pgproof.model.filemap import numbers_of
from pgproof.model.job import Job
from pgproof.model.manifest import DumpedDatabase
from pgproof.model.report import BackupInfo, Finding
from pgproof.postgres.client_access import client_access
from pgproof.postgres.connection import connect
from pgproof.postgres.databases import (
    Connection,
    Database,
    choose_databases,
    hidden_from_dump,
    list_databases,
    loads_via_root,
    reads_passwords,
    refuse_unreadable,
)
from pgproof.postgres.facts import ServerContext, position, read_ordinary_facts, read_settings
from pgproof.postgres.pg_dump import dump_command, globals_command
from pgproof.postgres.programs import find_clients
from pgproof.postgres.refusals import sql_name
from pgproof.postgres.restore_target import refuse_too_small
from pgproof.repository.chunk_intake import ChunkIntake
from pgproof.repository.leases import Lease
from pgproof.repository.repository import Repository
from pgproof.repository.resume import StoredFrames, interrupted_runs, stored_frames
from pgproof.repository.writer import PackWriter

PAGE_SIZE = 8192
_SPOOL = 256 << 20


class LogicalRun:
    """One backup on its way; `take` is the recipe. `connection` is to the database that is configured."""

    def __init__(
        self,
        postgres: PostgresConfig,
        config: BackupConfig,
        repository: Repository,
        lease: Lease,
        connection: Connection,
        record: BackupRecord,
        job: Job,
    ) -> None:
        self._postgres = postgres
        self._config = config
        self._repository = repository
        self._lease = lease
        self._connection = connection
        self._record = record
        self._job = job
        self._place = Path(config.scratch_dir or tempfile.gettempdir())
        self._interrupted = interrupted_runs(repository)
        self._programs = find_clients(record.facts.major, config.bin_dir)
        self._databases = self._choose()
        self._written = self._expected = 0

    def take(self) -> BackupInfo:
        record, repository = self._record, self._repository
        refuse_too_small({self._place: _SPOOL})
        announce(repository, record, self._interrupted)
        failpoint("backup.intended")
        context = ServerContext(read_settings(self._connection))
        timeline, lsn = position(self._connection)
        known = self._known()
        failpoint("backup.based")
        with PackWriter(
            repository,
            record.backup_id,
            PAGE_SIZE,
            self._config.compression_level if self._config.compression else None,
            known,
            self._job,
        ) as writer:
            owners = (record.backup_id, *known.owners)
            intake = ChunkIntake(repository, writer, owners, len(self._interrupted), PAGE_SIZE)
            with record.timed("data"):
                dumped = self._dump(intake)
            failpoint("backup.received")
            with record.timed("storing"):
                self._job.report("storing the map")
                files = intake.finish(self._job)
        failpoint("backup.mapped")
        if files.reused_bytes:
            record.findings.append(resumed(files))
        manifest = record.manifest(repository.cluster, files, 0, context, [], timeline, b"", lsn, lsn, dumped)
        commit(repository, self._lease, manifest, self._job)
        return manifest.info()

    def _choose(self) -> list[Database]:
        config, connection = self._config, self._connection
        wanted = config.databases
        if config.tables and not wanted:
            # Each pattern has to fit, so it is meant for one database.
            wanted = (connection.info.dbname,)
        chosen, findings = choose_databases(list_databases(connection), wanted, connection.info.user)
        self._record.findings += findings
        if len(chosen) > 1:
            self._record.findings.append(
                Finding(
                    "separate-snapshots",
                    "each database is as it was when its own dump began, not all at one moment",
                )
            )
        return chosen

    def _known(self) -> StoredFrames:
        """Frames that need not be stored: of interrupted runs, and of the base."""
        base = self._record.base
        packs = {owner: numbers_of(bitmap) for owner, bitmap in base.packs.items()} if base else {}
        damaged = packs_known_damaged(self._repository, base) if base else set()
        runs = (*self._interrupted, *packs)
        known = stored_frames(self._repository, runs, PAGE_SIZE, self._job, packs, damaged)
        lost = [key for key in known.given_up if not any(run in key for run in self._interrupted)]
        if lost:
            self._record.findings.append(healed(lost))
        return known

    def _dump(self, intake: ChunkIntake) -> list[DumpedDatabase]:
        intake.directory(DATABASES)
        self._job.report("dumping roles")
        with client_access(self._postgres, None, self._place) as access:
            passwords = reads_passwords(self._connection)
            command = globals_command(self._programs, access.conninfo, passwords=passwords)
            said = take_globals(intake, command, access, self._postgres, self._job)
        self._record.findings += dump_warnings(said)
        if not passwords:
            role = sql_name(self._connection.info.user)
            self._record.findings.append(
                Finding(
                    "no-role-passwords",
                    "passwords of roles are not in this backup: the role may not read them; run as a superuser:  "
                    f"GRANT SELECT ON pg_authid TO {role}",
                )
            )
        failpoint("dump.globals")
        return [self._dump_one(intake, database) for database in self._databases]

    def _dump_one(self, intake: ChunkIntake, database: Database) -> DumpedDatabase:
        config, record = self._config, self._record
        everything = not (config.tables or config.exclude_tables)
        with closing(connect(self._postgres, dbname=database.name)) as connection:
            found = read_ordinary_facts(connection)
            if found.system_identifier != record.facts.system_identifier:
                raise TransientError("another server answers than before", hint="name a single host")
            if everything:
                refuse_unreadable(connection, database.name)
            record.findings += hidden_from_dump(connection, database.name)
            via_root = loads_via_root(connection)
        first, written = intake.files, 0

        def progress(nbytes: int) -> None:
            self._lease.check()
            self._job.report(f"dumping {database.name}", nbytes)

        with client_access(self._postgres, database.name, self._place) as access:
            command = partial(
                dump_command,
                self._programs,
                access.conninfo,
                jobs=config.dump_jobs,
                tables=config.tables,
                exclude_tables=config.exclude_tables,
                via_root=via_root,
            )
            tables, said = take_dump(
                intake,
                database.oid,
                command,
                access,
                self._postgres,
                self._place,
                config.max_rate,
                progress,
                self._job,
            )
        record.findings += dump_warnings(said)
        failpoint("dump.stored")
        written = intake.size_of(first, intake.files)
        return database.dumped(written, tables, everything)
