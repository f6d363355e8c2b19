"""Everything that would make a backup fail, said before it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg

from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import ensure_cluster
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.report import Check
from pgproof.postgres.connection import command, connect, connect_replication, query
from pgproof.postgres.facts import ServerFacts, read_context, read_facts
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import find_programs
from pgproof.postgres.sandbox import find_sandbox
from pgproof.postgres.wal_stream import show
from pgproof.repository.probe import store_answers

_MAX_CLOCK_SECONDS = 60.0


def check_setup(postgres: PostgresConfig, config: BackupConfig) -> list[Check]:
    """Try what a backup and its verification need; failed checks carry the remedy. Changes nothing."""
    return [*_server(postgres, config), *_ordinary(postgres)]


def _server(postgres: PostgresConfig, config: BackupConfig) -> Iterator[Check]:
    facts: ServerFacts | None = None
    begun = time.monotonic()
    try:
        with closing(connect_replication(postgres)) as connection:
            yield _passed("replication connection", f"{postgres}", begun)
            facts = read_facts(connection)
            yield _passed("server", f"PostgreSQL {facts.version}, wal_level {facts.wal_level}")
            yield from _capacity(connection)
            if facts.in_recovery:
                yield Check("primary", False, "this server is a standby", "back up the primary")
    except EngineError as error:
        name = "replication connection" if facts is None else "server"
        yield _failed(name, error)
    yield from _repository(config, facts)
    if facts is not None:
        yield from _programs(facts, config)


def _capacity(connection: psycopg.Connection[Any]) -> Iterator[Check]:
    """A backup needs two walsenders and a slot; trying is the only question every role may ask."""
    pgconn = connection.pgconn
    slots = int(show(pgconn, "max_replication_slots"))
    senders = int(show(pgconn, "max_wal_senders"))
    yield Check(
        "WAL senders and slots",
        senders >= 2 and slots >= 1,
        f"max_wal_senders {senders}, max_replication_slots {slots}",
        ""
        if senders >= 2 and slots >= 1
        else "set max_wal_senders = 10 and max_replication_slots = 10 and restart",
    )
    yield _attempt(
        "temporary replication slot",
        lambda: str(
            command(
                pgconn,
                "CREATE_REPLICATION_SLOT pgproof_check TEMPORARY PHYSICAL RESERVE_WAL",
                "creating a temporary replication slot",
            )
            and "made and dropped with the connection"
        ),
    )


def _repository(config: BackupConfig, facts: ServerFacts | None) -> Iterator[Check]:
    begun = time.monotonic()
    try:
        repository = open_repository(config)
    except EngineError as error:
        yield _failed("repository", error)
        return
    yield _passed("repository", f"opened, {repository.key.suite.name.lower().replace('_', '-')}", begun)
    yield store_answers(repository.bucket)
    if facts is not None:

        def same() -> str:
            if repository.bucket.head(repository.layout.cluster) is None:
                return "its first backup"
            ensure_cluster(repository, facts)
            return f"system identifier {facts.system_identifier}"

        yield _attempt(f"cluster {repository.cluster} is this one", same)


def _programs(facts: ServerFacts, config: BackupConfig) -> Iterator[Check]:
    """Only verification and recovery need these, so a backup is possible without."""

    def found() -> str:
        programs = find_programs(facts.major, config.bin_dir)
        sandbox = find_sandbox(programs, service_user(config.scratch_user))
        return f"{programs.bin_dir} ({programs.version}); sandbox: {sandbox.description}"

    check = _attempt("programs for verification", found)
    yield replace(check, ok=None) if check.ok is False else check


def _ordinary(postgres: PostgresConfig) -> Iterator[Check]:
    begun = time.monotonic()
    try:
        with closing(connect(postgres)) as connection:
            yield _passed("ordinary connection", "settings and configuration are recorded", begun)
            (server_now,) = query(connection, "SELECT clock_timestamp()")[0]
            yield _clock(server_now, datetime.now(server_now.tzinfo))
        for finding in read_context(postgres).findings:
            yield Check(finding.kind, None, finding.message)
    except EngineError as error:
        # A backup works without it, only with less beside it.
        yield replace(_failed("ordinary connection", error), ok=None)


def _clock(server: datetime, ours: datetime) -> Check:
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
