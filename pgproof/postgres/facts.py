"""What a backup should know of its server, read before it begins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import ExternalConfig
from pgproof.model.report import Finding
from pgproof.postgres.connection import connect, query
from pgproof.postgres.refusals import sql_name
from pgproof.postgres.wal_stream import identify_system, show, size_in_bytes

OLDEST_MAJOR = 15
_MAX_CONFIG = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Read over the replication connection; every server tells these."""

    system_identifier: str
    version: str
    major: int
    block_size: int
    wal_segment_size: int
    wal_level: str
    data_checksums: bool
    in_recovery: bool
    full_page_writes: bool


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Read over an ordinary connection where there is one; `findings` say what could not be read."""

    settings: dict[str, str] = field(default_factory=dict)
    external_config: tuple[ExternalConfig, ...] = ()
    findings: tuple[Finding, ...] = ()


def read_facts(connection: psycopg.Connection[Any]) -> ServerFacts:
    """Raises PreconditionError for a server that is too old or cannot be backed up."""
    pgconn: pq.abc.PGconn = connection.pgconn
    version_text = (pgconn.parameter_status(b"server_version") or b"").decode()
    refuse_too_old(pgconn.server_version, version_text)
    return ServerFacts(
        system_identifier=identify_system(pgconn).system_identifier,
        version=version_text.split()[0],
        major=pgconn.server_version // 10000,
        block_size=int(show(pgconn, "block_size")),
        wal_segment_size=size_in_bytes(show(pgconn, "wal_segment_size")),
        wal_level=show(pgconn, "wal_level"),
        data_checksums=show(pgconn, "data_checksums") == "on",
        in_recovery=(pgconn.parameter_status(b"in_hot_standby") or b"") == b"on",
        full_page_writes=show(pgconn, "full_page_writes") == "on",
    )


def read_ordinary_facts(connection: psycopg.Connection[tuple[Any, ...]]) -> ServerFacts:
    """The same over an ordinary connection."""
    version_text = connection.info.parameter_status("server_version") or ""
    refuse_too_old(connection.info.server_version, version_text)
    ((identifier, *settings),) = query(
        connection,
        """
        SELECT (pg_control_system()).system_identifier, current_setting('block_size')::int,
               (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
               current_setting('wal_level'), current_setting('data_checksums') = 'on', pg_is_in_recovery(),
               current_setting('full_page_writes') = 'on'
        """,
    )
    version = version_text.split()[0]
    return ServerFacts(str(identifier), version, connection.info.server_version // 10000, *settings)


def position(connection: psycopg.Connection[tuple[Any, ...]]) -> tuple[int, Lsn]:
    """Timeline and position of a server, as near as a query can tell."""
    ((timeline, lsn),) = query(
        connection,
        """
        SELECT (pg_control_checkpoint()).timeline_id,
               CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text
        """,
    )
    return int(timeline), Lsn.parse(lsn)


def refuse_too_old(number: int, version: str) -> None:
    """`number` is as in libpq's PQserverVersion: 150004 for 15.4. Raises PreconditionError."""
    if number < OLDEST_MAJOR * 10000:
        raise PreconditionError(
            "this PostgreSQL is too old",
            hint=f"versions {OLDEST_MAJOR} and later are backed up; upgrade the server",
            version=version or "unknown",
        )


def read_context(config: PostgresConfig) -> ServerContext:
    """Settings and configuration files, as far as the role may read them."""
    try:
        connection = connect(config)
    except EngineError as error:
        return ServerContext(
            findings=(
                Finding(
                    "no-ordinary-connection",
                    "the server's settings were not recorded: no ordinary connection to a database "
                    f"({error.message}); configuration outside the data directory would not be noticed",
                ),
            )
        )
    with contextlib.closing(connection):
        settings = read_settings(connection)
        findings = list(_risky_settings(settings))
        files, unreadable = _external_config(connection)
        findings.extend(unreadable)
        findings.extend(_unlogged(connection))
    return ServerContext(settings, tuple(files), tuple(findings))


def read_settings(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, str]:
    """Settings that somebody chose, as far as the role may read them, without secrets."""
    return {
        str(name): str(value)
        for name, value in query(
            connection,
            "SELECT name, current_setting(name, true) FROM pg_settings "
            "WHERE source NOT IN ('default', 'override', 'client') ORDER BY name",
        )
        if value is not None and "conninfo" not in name and "passphrase" not in name
    }


def _risky_settings(settings: dict[str, str]) -> Iterator[Finding]:
    for name in ("ignore_checksum_failure", "zero_damaged_pages", "ignore_invalid_pages"):
        if settings.get(name) == "on":
            yield Finding(
                "risky-setting", f"{name} is on at the source: it hides or destroys damaged data", True
            )
    if settings.get("full_page_writes") == "off":
        yield Finding(
            "risky-setting", "full_page_writes is off at the source: torn pages cannot be repaired", True
        )
    if settings.get("fsync") == "off":
        yield Finding("risky-setting", "fsync is off at the source: a crash of its machine can destroy it")


def _external_config(
    connection: psycopg.Connection[Any],
) -> tuple[list[ExternalConfig], list[Finding]]:
    """Configuration files that BASE_BACKUP does not see because they lie outside the data directory."""
    try:
        found = dict(
            query(
                connection,
                "SELECT name, setting FROM pg_settings WHERE name IN "
                "('data_directory', 'config_file', 'hba_file', 'ident_file')",
            )
        )
    except EngineError:
        found = {}
    data_directory = found.pop("data_directory", None)
    if not data_directory or not found.get("config_file"):
        return [], [
            Finding(
                "external-config",
                "whether configuration lies outside the data directory could not be seen; "
                f"run as a superuser:  GRANT pg_read_all_settings TO {sql_name(connection.info.user)}",
            )
        ]
    paths = {name: path for name, path in found.items() if path}
    with contextlib.suppress(EngineError):
        included = query(
            connection, "SELECT DISTINCT sourcefile FROM pg_file_settings WHERE sourcefile IS NOT NULL"
        )
        paths |= {
            f"include:{number}": row[0] for number, row in enumerate(included) if row[0] not in paths.values()
        }
    files, findings = [], []
    for name, path in sorted(paths.items()):
        if path.startswith(f"{data_directory.rstrip('/')}/"):
            continue
        content = _read_file(connection, path)
        files.append(ExternalConfig(name, path, content))
        if content is None:
            findings.append(
                Finding(
                    "external-config",
                    f"{path} lies outside the data directory and could not be read, so it is not in the backup; "
                    f"run as a superuser:  GRANT pg_read_server_files TO {sql_name(connection.info.user)}  "
                    "or save it otherwise",
                )
            )
    return files, findings


def _read_file(connection: psycopg.Connection[Any], path: str) -> bytes | None:
    try:
        rows = query(connection, "SELECT pg_read_binary_file(%s, 0, %s)", path, _MAX_CONFIG)
    except EngineError:
        return None
    return bytes(rows[0][0])


def _unlogged(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    rows = query(connection, "SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'")
    if rows[0][0]:
        yield Finding(
            "unlogged", f"{rows[0][0]} unlogged tables of this database will be empty after a restore"
        )
