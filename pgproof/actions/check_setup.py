"""Everything that would make a backup fail, said before it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg

from pgproof.actions.check_methods import logical_method, physical_method
from pgproof.actions.cluster_identity import ensure_cluster
from pgproof.actions.opening import open_repository
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.report import Check
from pgproof.postgres.connection import connect, connect_replication, query
from pgproof.postgres.facts import ServerFacts, read_context, read_facts
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import find_programs
from pgproof.postgres.refusals import NO_REPLICATION_HINT, sql_name
from pgproof.postgres.sandbox import find_sandbox
from pgproof.postgres.wal_stream import create_temporary_slot, show
from pgproof.repository.layout import REPOSITORY
from pgproof.repository.mirror import refuse_stranger
from pgproof.repository.opening import open_mirror
from pgproof.repository.probe import store_answers
from pgproof.repository.repository import Repository

_MAX_CLOCK_SECONDS = 60.0
_REPLICATION = ("replication connection", "server", "WAL senders", "replication slots", "primary")


def check_setup(postgres: PostgresConfig, config: BackupConfig) -> list[Check]:
    """Try what a backup and its verification need; failed checks carry the remedy. Changes nothing."""
    replication = list(_server(postgres, config))
    if config.logical_only:
        # None of it is needed.
        replication = [
            replace(check, ok=check.ok or None) if check.name in _REPLICATION else check
            for check in replication
        ]
    allowed = next(check for check in replication if check.name == _REPLICATION[0])
    return [*replication, *_ordinary(postgres, config), physical_method(allowed.ok is True)]


def _server(postgres: PostgresConfig, config: BackupConfig) -> Iterator[Check]:
    facts: ServerFacts | None = None
    begun = time.monotonic()
    try:
        with closing(connect_replication(postgres)) as connection:
            yield _passed("replication connection", f"{postgres}", begun)
            facts = read_facts(connection)
            yield _passed("server", f"PostgreSQL {facts.version}, wal_level {facts.wal_level}")
            yield from _capacity(connection, postgres)
            if facts.in_recovery:
                yield Check("primary", False, "this server is a standby", "back up the primary")
    except EngineError as error:
        name = "replication connection" if facts is None else "server"
        yield _failed(name, error)
    yield from _repository(config, facts)
    if facts is not None:
        yield from _programs(facts, config)


def _capacity(connection: psycopg.Connection[Any], postgres: PostgresConfig) -> Iterator[Check]:
    """A backup needs two WAL senders and a slot. Whether they are free is found out by taking them."""
    pgconn = connection.pgconn
    senders, slots = (show(pgconn, f"max_{kind}") for kind in ("wal_senders", "replication_slots"))

    def second() -> str:
        with closing(connect_replication(postgres)):
            return f"two of max_wal_senders {senders} were free"

    check = _attempt("WAL senders", second)
    if check.ok is False and int(senders) < 2:
        check = replace(check, hint="set max_wal_senders = 10 in postgresql.conf and restart the server")
    yield check

    def slot() -> str:
        create_temporary_slot(pgconn, "pgproof_check")
        return f"one of max_replication_slots {slots} was free"

    yield _attempt("replication slots", slot)


def _repository(config: BackupConfig, facts: ServerFacts | None) -> Iterator[Check]:
    begun = time.monotonic()
    try:
        repository = open_repository(config)
    except EngineError as error:
        yield _failed("repository", error)
        return
    yield _passed("repository", f"opened, {repository.key.suite.name.lower().replace('_', '-')}", begun)
    yield store_answers(repository.bucket)
    yield from _mirror(config, repository)
    if facts is not None:

        def same() -> str:
            if repository.bucket.head(repository.layout.cluster) is None:
                return "its first backup"
            ensure_cluster(repository, facts)
            return f"system identifier {facts.system_identifier}"

        yield _attempt(f"cluster {repository.cluster} is this one", same)


def _mirror(config: BackupConfig, repository: Repository) -> Iterator[Check]:
    mirror = open_mirror(config)
    if mirror is None:
        return

    def answers() -> str:
        refuse_stranger(repository.bucket, mirror)
        empty = mirror.head(REPOSITORY) is None
        return f"{mirror.location}, {'empty: the next backup fills it' if empty else 'a copy of this repository'}"

    yield _attempt("mirror", answers)


def _programs(facts: ServerFacts, config: BackupConfig) -> Iterator[Check]:
    """Only verification and recovery need these, so a backup is possible without."""

    def found() -> str:
        programs = find_programs(facts.major, config.bin_dir)
        sandbox = find_sandbox(programs, service_user(config.scratch_user))
        return f"{programs.bin_dir} ({programs.version}); sandbox: {sandbox.description}"

    check = _attempt("programs for verification", found)
    yield replace(check, ok=None) if check.ok is False else check


def _ordinary(postgres: PostgresConfig, config: BackupConfig) -> Iterator[Check]:
    begun = time.monotonic()
    try:
        with closing(connect(postgres)) as connection:
            yield _passed("ordinary connection", "settings and configuration are recorded", begun)
            if not config.logical_only:
                yield from _rights(connection)
            (server_now,) = query(connection, "SELECT clock_timestamp()")[0]
            yield compare_clocks(server_now, datetime.now(server_now.tzinfo))
            yield from logical_method(postgres, config, connection)
        for finding in read_context(postgres).findings:
            yield Check(finding.kind, None, finding.message)
    except EngineError as error:
        # A physical backup works without it, only with less beside it.
        yield replace(_failed("ordinary connection", error), ok=False if config.logical_only else None)


def _rights(connection: psycopg.Connection[Any]) -> Iterator[Check]:
    """What replication needs, seen from here: where pg_hba.conf is in the way, the next remedy is told as well."""
    ((role, replication, wal_level),) = query(
        connection,
        "SELECT rolname, rolreplication OR rolsuper, current_setting('wal_level') "
        "FROM pg_roles WHERE rolname = current_user",
    )
    yield Check(
        "role may replicate",
        bool(replication),
        str(role),
        "" if replication else f"run as a superuser:  ALTER ROLE {sql_name(role)} REPLICATION",
    )
    enough = wal_level != "minimal"
    yield Check("wal_level", enough, str(wal_level), "" if enough else NO_REPLICATION_HINT)


def compare_clocks(server: datetime, ours: datetime) -> Check:
    """Whether both clocks tell the same time, or nearly."""
    off = abs((server - ours).total_seconds())
    hint = (
        ""
        if off <= _MAX_CLOCK_SECONDS
        else "set both clocks by NTP: retention and recovery targets go by them"
    )
    return Check("clocks agree", off <= _MAX_CLOCK_SECONDS, f"{off:.1f} s apart", hint)


def _attempt(name: str, work: Callable[[], str]) -> Check:
    begun = time.monotonic()
    try:
        return _passed(name, work(), begun)
    except EngineError as error:
        return _failed(name, error)


def _passed(name: str, detail: str, begun: float | None = None) -> Check:
    return Check(name, True, detail, "", time.monotonic() - begun if begun else 0.0)


def _failed(name: str, error: EngineError) -> Check:
    reason = error.context.get("reason")
    detail = f"{error.message}: {reason}" if reason else error.message
    hint = error.hint or ("" if isinstance(error, PreconditionError) else "run it again")
    return Check(name, False, detail, hint)
