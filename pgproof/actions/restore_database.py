"""Restore a database of a backup into a running server."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

from pgproof.actions.add_missing import add_missing
from pgproof.actions.database_build import (
    Filled,
    analyze,
    clients_for,
    drop_replaced,
    fill_from_server,
    fitting,
    give_name,
    major_of,
    mask,
    refuse_new,
    refuse_occupied,
    refuse_slots,
    restore_options,
    subscription_notes,
    swap,
    temporary_place,
)
from pgproof.actions.logical_restore import restore_dump_into
from pgproof.actions.opening import open_for_reading
from pgproof.actions.recovery_choosing import choose_recovery
from pgproof.actions.scratch_recovery import recovered_scratch
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.database_needs import database_commands, needs_of_script
from pgproof.model.database_properties import DatabaseProperties
from pgproof.model.database_restore import DatabasePlan, DatabaseReport, DatabaseRequest
from pgproof.model.job import Job
from pgproof.model.manifest import DumpedDatabase, Manifest
from pgproof.postgres.connection import query
from pgproof.postgres.database_building import Building, building, connect_maintenance, refuse_name
from pgproof.postgres.database_copying import DatabaseCopier, snapshot_of
from pgproof.postgres.database_needs import refuse_unmet
from pgproof.postgres.database_properties import read_properties
from pgproof.postgres.database_sessions import sessions
from pgproof.postgres.masking import refuse_unreadable
from pgproof.postgres.osuser import service_user
from pgproof.repository.catalog import find_dump, refutation
from pgproof.repository.dump_reader import DumpReader
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)


def plan_database_restore(
    postgres: PostgresConfig, config: BackupConfig, request: DatabaseRequest, job: Job
) -> DatabasePlan:
    """What `restore_database` would do; nothing is written but scratch files."""
    refuse_name(request.target)
    job.report("opening repository")
    repository = open_for_reading(config)
    manifest = find_dump(repository, request.backup_id, request.recovery.target)
    notes: tuple[str, ...] = ()
    if manifest is not None:
        size, point = _dumped(manifest, request.database).size_bytes, _when(manifest)
    else:
        user = service_user(config.scratch_user)
        chosen = choose_recovery(
            repository, config, request.backup_id, request.recovery, recover=True, user=user, job=job
        )
        manifest, notes = chosen.manifest, chosen.notes
        size, point = manifest.size_bytes, str(request.recovery.wanted)
    with closing(connect_maintenance(postgres)) as connection:
        clients_for(_major(manifest), major_of(connection), config)
        existing = read_properties(connection, request.target)
        old_size = None
        if existing is not None:
            old_size = int(query(connection, "SELECT pg_database_size(%s)", request.target)[0][0])
        return DatabasePlan(
            backup_id=manifest.backup_id,
            method=manifest.method,
            database=request.database,
            target=request.target,
            server=_server(postgres),
            point=point,
            size=size,
            old_size=old_size,
            clean=request.clean,
            drop_old=request.drop_old,
            disconnect=request.options.disconnect,
            connected=tuple(map(str, sessions(connection, request.target))),
            notes=tuple(notes),
        )


def restore_database(
    postgres: PostgresConfig, config: BackupConfig, request: DatabaseRequest, job: Job
) -> DatabaseReport:
    """Build the database beside the old one of that name, and swap the two by renaming when it is complete.

    Broken off or killed at any point, it leaves the old one as it was, or the new one in its place. Raises
    PreconditionError and ConflictError where something is in the way, before anything is restored if that can be known.
    """
    begun = time.monotonic()
    if request.options.mask:
        refuse_unreadable(request.options.mask)
    job.report("opening repository")
    repository = open_for_reading(config)
    manifest = find_dump(repository, request.backup_id, request.recovery.target)
    with building(postgres, request.target, job) as work:
        existing = read_properties(work.connection, request.target)
        if request.new:
            refuse_new(work)
        if existing is not None and request.clean:
            refuse_occupied(work, disconnect=request.options.disconnect)
            if request.drop_old:
                refuse_slots(work)
        run = _Restore(postgres, config, repository, request, work, existing, job)
        report = run.from_logical(manifest) if manifest is not None else run.from_physical()
    report = replace(report, seconds=time.monotonic() - begun)
    _log.info(
        "database restored database=%s target=%s backup=%s kept=%s bytes=%d seconds=%.1f",
        report.database,
        report.target,
        report.backup_id,
        report.kept,
        report.size_bytes,
        report.seconds,
    )
    return report


class _Restore:
    def __init__(
        self,
        postgres: PostgresConfig,
        config: BackupConfig,
        repository: Repository,
        request: DatabaseRequest,
        work: Building,
        existing: DatabaseProperties | None,
        job: Job,
    ) -> None:
        self._postgres = postgres
        self._config = config
        self._repository = repository
        self._request = request
        self._options = request.options
        self._work = work
        self._existing = existing
        self._job = job
        self._notes: list[str] = []

    @property
    def _adds(self) -> bool:
        return self._existing is not None and not self._request.clean

    def from_physical(self) -> DatabaseReport:
        request, config = self._request, self._config
        with recovered_scratch(
            self._repository, config, request.backup_id, request.recovery, self._job
        ) as scratch:
            server, database = scratch.server, request.database
            known = server.databases()
            if database not in known:
                raise PreconditionError(
                    "the backup has no such database at this point",
                    hint=f"name one of these with --database: {', '.join(known)}",
                    database=database,
                )
            self._notes += scratch.plan.notes
            manifest = scratch.manifest
            programs = clients_for(_major(manifest), major_of(self._work.connection), config)
            source = server.config()
            with snapshot_of(source, database) as snapshot:
                self._note_unlogged(int(query(snapshot.connection, _UNLOGGED)[0][0]))
                self._notes += subscription_notes(snapshot.connection, kept=self._options.subscriptions)
                found = read_properties(snapshot.connection, database)
                assert found is not None
                if self._adds:
                    copier = DatabaseCopier(
                        programs,
                        source,
                        snapshot,
                        self._postgres,
                        temporary_place(config),
                        restore_options(self._options),
                        self._job,
                    )
                    return self._add(copier, manifest, str(request.recovery.wanted))
                properties = self._fitting(self._existing or found)
                filled = fill_from_server(
                    self._work,
                    source,
                    snapshot,
                    self._postgres,
                    properties,
                    programs,
                    config,
                    self._options,
                    self._job,
                )
        return self._complete(manifest, properties, filled, str(request.recovery.wanted))

    def from_logical(self, manifest: Manifest) -> DatabaseReport:
        config, work = self._config, self._work
        database = _dumped(manifest, self._request.database)
        wrong = refutation(self._repository, manifest.backup_id)
        if wrong:
            self._notes.append(f"DO NOT TRUST this backup: {wrong}")
        if not database.everything:
            self._notes.append("the backup has only some of the tables of this database")
        target_major = major_of(work.connection)
        programs = clients_for(_major(manifest), target_major, config)
        properties = self._fitting(self._existing or _described(database))
        work.create(properties)

        def look(script: str) -> None:
            refuse_unmet(work.connection, needs_of_script(script), properties)
            commands = database_commands(script)
            if self._existing is None and commands:
                self._notes.append(
                    f"not yet given to the database itself, run what you want of it:  {' '.join(commands)}"
                )

        restored = restore_dump_into(
            DumpReader(self._repository, manifest, self._job),
            database,
            self._postgres,
            work.name,
            jobs=self._options.jobs,
            place=temporary_place(config),
            bin_dir=config.bin_dir if target_major == _major(manifest) else None,
            options=restore_options(self._options),
            look=look,
            job=self._job,
        )
        failpoint("database.indexed")
        if self._adds:
            with snapshot_of(self._postgres, work.name) as snapshot:
                copier = DatabaseCopier(
                    programs,
                    self._postgres,
                    snapshot,
                    self._postgres,
                    temporary_place(config),
                    restore_options(self._options),
                    self._job,
                )
                return self._add(copier, manifest, _when(manifest))
        return self._complete(manifest, properties, Filled(list(restored.findings)), _when(manifest))

    def _fitting(self, properties: DatabaseProperties) -> DatabaseProperties:
        properties, notes = fitting(self._work, properties, self._options)
        self._notes += notes
        return properties

    def _note_unlogged(self, tables: int) -> None:
        if tables:
            self._notes.append(
                f"{tables} unlogged tables are empty: physical backups hold none of their rows"
            )

    def _add(self, copier: DatabaseCopier, manifest: Manifest, point: str) -> DatabaseReport:
        added = add_missing(copier, self._postgres, self._request.target, self._job)
        return replace(
            self._report(manifest, point),
            added=added.count,
            conflicts=added.conflicts,
            findings=tuple(added.findings),
        )

    def _complete(
        self, manifest: Manifest, properties: DatabaseProperties, filled: Filled, point: str
    ) -> DatabaseReport:
        request, work, options = self._request, self._work, self._options
        if options.mask:
            programs = clients_for(_major(manifest), major_of(work.connection), self._config)
            mask(work, self._postgres, programs, self._config, options.mask, self._job)
        analyze(work, self._postgres, self._job)
        self._job.checkpoint()
        kept, dropped = None, False
        if self._existing is None:
            give_name(work, properties)
        else:
            now = datetime.now(UTC)
            kept = swap(work, self._postgres, properties, disconnect=options.disconnect, now=now)
            if request.drop_old:
                drop_replaced(work, kept, disconnect=options.disconnect)
                kept, dropped = None, True
        return replace(
            self._report(manifest, point),
            kept=kept,
            dropped=dropped,
            masked=options.mask is not None,
            comparison=filled.comparison,
            findings=tuple(filled.findings),
        )

    def _report(self, manifest: Manifest, point: str) -> DatabaseReport:
        target = self._request.target
        size = query(self._work.connection, "SELECT pg_database_size(%s)", target)[0][0]
        return DatabaseReport(
            database=self._request.database,
            target=target,
            server=_server(self._postgres),
            source=f"backup {manifest.backup_id}",
            backup_id=manifest.backup_id,
            point=point,
            size_bytes=int(size),
            seconds=0.0,
            notes=tuple(self._notes),
        )


_UNLOGGED = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_'
"""


def _dumped(manifest: Manifest, name: str) -> DumpedDatabase:
    for database in manifest.databases:
        if database.name == name:
            return database
    known = ", ".join(database.name for database in manifest.databases)
    raise PreconditionError(
        "the backup has no such database", hint=f"name one of these with --database: {known}", database=name
    )


def _described(database: DumpedDatabase) -> DatabaseProperties:
    return DatabaseProperties(
        encoding=database.encoding,
        provider=database.provider,
        collate=database.collate,
        ctype=database.ctype,
        locale=database.locale,
    )


def _major(manifest: Manifest) -> int:
    return manifest.major_version


def _when(manifest: Manifest) -> str:
    return f"the dump of {manifest.started_at:%Y-%m-%d %H:%M:%S} UTC"


def _server(postgres: PostgresConfig) -> str:
    return str(postgres)
