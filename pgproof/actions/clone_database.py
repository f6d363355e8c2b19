"""Copy a database of a running server, to the same or another one."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import psycopg

from pgproof.actions.database_build import (
    Filled,
    analyze,
    clients_for,
    fill_from_server,
    fitting,
    give_name,
    major_of,
    mask,
    refuse_new,
    subscription_notes,
)
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.database_properties import DatabaseProperties
from pgproof.model.database_restore import CloneRequest, DatabaseReport
from pgproof.model.job import Job
from pgproof.postgres.connection import connect, query
from pgproof.postgres.database_building import Building, building
from pgproof.postgres.database_copying import snapshot_of
from pgproof.postgres.database_properties import read_properties
from pgproof.postgres.database_sessions import disconnecting, refuse_in_use, refuse_prepared
from pgproof.postgres.databases import refuse_unreadable as refuse_hidden
from pgproof.postgres.facts import read_ordinary_facts
from pgproof.postgres.masking import refuse_unreadable
from pgproof.postgres.stopping import sql_error

_log = logging.getLogger(__name__)


def clone_database(
    postgres: PostgresConfig, to: PostgresConfig, config: BackupConfig, request: CloneRequest, job: Job
) -> DatabaseReport:
    """The database `request.source` of `postgres` as `request.target` of `to`, which must not exist.

    Nobody but a superuser can connect to it, and nobody under its name, before it is complete, compared and masked. Killed at any
    point it leaves the whole clone or none. Raises PreconditionError and ConflictError before anything is copied if what
    is in the way can be known.
    """
    begun = time.monotonic()
    if request.options.mask:
        refuse_unreadable(request.options.mask)
    with building(to, request.target, job) as work:
        refuse_new(work)
        with closing(connect(postgres, dbname=request.source)) as source:
            properties = read_properties(source, request.source)
            assert properties is not None
            refuse_hidden(source, request.source)
            notes = subscription_notes(source, kept=False)
            major = major_of(source)
            same_server = _identifier(source) == _identifier(work.connection)
        properties = replace(properties, is_template=False)
        properties, lost = fitting(work, properties, request.options)
        notes += lost
        programs = clients_for(major, major_of(work.connection), config)
        if request.fast:
            filled = _copy_files(work, postgres, request, properties, same_server=same_server)
            notes.append("its files were copied while nobody was connected to the source")
        else:
            with snapshot_of(postgres, request.source) as snapshot:
                filled = fill_from_server(
                    work, postgres, snapshot, to, properties, programs, config, request.options, job
                )
        if request.options.mask:
            mask(work, to, programs, config, request.options.mask, job)
        analyze(work, to, job)
        job.checkpoint()
        give_name(work, properties)
        size = query(work.connection, "SELECT pg_database_size(%s)", request.target)[0][0]
    report = DatabaseReport(
        database=request.source,
        target=request.target,
        server=str(to),
        source=f"server {postgres}",
        backup_id=None,
        point="now",
        size_bytes=int(size),
        seconds=time.monotonic() - begun,
        masked=request.options.mask is not None,
        comparison=filled.comparison,
        findings=tuple(filled.findings),
        notes=tuple(notes),
    )
    _log.info(
        "database cloned source=%s target=%s fast=%s masked=%s bytes=%d seconds=%.1f",
        report.database,
        report.target,
        request.fast,
        report.masked,
        report.size_bytes,
        report.seconds,
    )
    return report


def _copy_files(
    work: Building,
    postgres: PostgresConfig,
    request: CloneRequest,
    properties: DatabaseProperties,
    *,
    same_server: bool,
) -> Filled:
    if not same_server:
        raise PreconditionError(
            "a fast clone copies files, so it stays on its server",
            hint="leave out --fast, or --to-host and its like",
        )
    refuse_prepared(work.connection, request.source)
    with ExitStack() as stack:
        if request.options.disconnect:
            stack.enter_context(disconnecting(postgres, request.source))
        else:
            refuse_in_use(work.connection, request.source, "a fast clone")
        try:
            if query(
                work.connection,
                "SELECT FROM pg_settings WHERE name = 'file_copy_method' AND 'clone' = ANY (enumvals)",
            ):
                # Blocks are shared where the file system can, and copied by the kernel where it cannot.
                work.connection.execute("SET file_copy_method = clone")
            work.copy(request.source, properties)
        except psycopg.Error as error:
            raise sql_error(error, "copying the database") from error
    return Filled([])


def _identifier(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    return read_ordinary_facts(connection).system_identifier
