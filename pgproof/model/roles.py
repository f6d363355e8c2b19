"""The roles with the least rights that do the work, as SQL that may be run again, and the lines for pg_hba.conf.

No superuser is among them, and no password: whoever sets one does so in psql, which sends its SCRAM verifier only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pgproof.errors import PreconditionError


class Purpose(StrEnum):
    """What is to be done with the server."""

    PHYSICAL = "physical"
    WAL = "wal"
    HEALTH = "health"
    RESTORE_POINTS = "restore-points"
    LOGICAL = "logical"
    FINGERPRINTS = "fingerprints"
    FIND_DAMAGE = "find-damage"
    FAILOVER = "failover"


DEFAULT = (Purpose.PHYSICAL, Purpose.WAL, Purpose.HEALTH)
_BACKUP = (Purpose.PHYSICAL, Purpose.WAL, Purpose.HEALTH, Purpose.RESTORE_POINTS)
_REPLICATION = (Purpose.PHYSICAL, Purpose.WAL, Purpose.HEALTH)
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,40}\Z")
_FIRST_WITH_SET_FALSE = 16


@dataclass(frozen=True, slots=True)
class RolePlan:
    """`statements` are run in their order; `hba` are lines for pg_hba.conf, `notes` what else a person has to do or know."""

    roles: tuple[str, ...]
    statements: tuple[str, ...]
    hba: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "roles": list(self.roles),
            "sql": list(self.statements),
            "pg_hba": list(self.hba),
            "notes": list(self.notes),
        }


def plan_roles(
    purposes: Iterable[Purpose], major: int, *, prefix: str, address: str | None, tls: bool
) -> RolePlan:
    """For a server of the version `major`; `address` is the worker's network, None for its local socket.

    Raises PreconditionError for a prefix that is no simple name.
    """
    if not _PREFIX.match(prefix):
        raise PreconditionError(
            "not a prefix for roles", hint="lower-case letters, digits and underscores", prefix=prefix
        )
    wanted = set(purposes)
    backup, reader, failover = f"{prefix}_backup", f"{prefix}_read", f"{prefix}_failover"
    roles: list[str] = []
    statements: list[str] = []
    hba: list[str] = []
    notes: list[str] = []
    if wanted.intersection(_BACKUP):
        roles.append(backup)
        statements += _backup(backup, wanted, major)
        if wanted.intersection(_REPLICATION):
            hba.append(_hba("replication", backup, address, tls))
        hba.append(_hba("all", backup, address, tls))
        notes.append(
            f"REPLICATION reads everything, password verifiers included: guard {backup} like a superuser"
        )
        notes.append(
            f"without pg_read_server_files {backup} does not bring configuration files that lie outside the data directory, and "
            "the backup says so; a right to read every file is not worth that"
        )
    if Purpose.FAILOVER in wanted:
        roles.append(failover)
        statements += _failover(failover, major)
        hba.append(_hba("all", failover, address, tls))
        notes.append(
            f"{failover} may promote a standby and say whom one follows: guard it like a superuser, and let it in on every "
            "node"
        )
    if wanted - {*_BACKUP, Purpose.FAILOVER}:
        roles.append(reader)
        statements += _reader(reader, wanted, major)
        hba.append(_hba("all", reader, address, tls))
        if Purpose.LOGICAL in wanted:
            notes.append(
                "passwords of roles are not dumped, because that takes a superuser; large objects of others need "
                f"GRANT SELECT ON LARGE OBJECT … TO {reader}"
            )
        if Purpose.FINGERPRINTS in wanted:
            notes.append(
                "to fingerprint a standby, also run on the primary: GRANT EXECUTE ON FUNCTION pg_wal_replay_pause(), "
                f"pg_wal_replay_resume() TO {reader}"
            )
    notes += [
        f"set a password in psql: \\password {role}   and give it to the worker in a file with mode 0600 (PGPASSFILE)"
        for role in roles
    ]
    if not tls and address is not None:
        notes.append(
            "the server has no TLS: what is backed up travels readable; set ssl = on, and hostssl for host"
        )
    return RolePlan(tuple(roles), tuple(statements), tuple(hba), tuple(notes))


def _backup(role: str, wanted: set[Purpose], major: int) -> Iterator[str]:
    yield _create(role)
    replication = "REPLICATION" if wanted.intersection(_REPLICATION) else "NOREPLICATION"
    # Two for a backup, one for the stream, one for a look at it, and as many while others still end.
    yield f"ALTER ROLE {role} LOGIN {replication} CONNECTION LIMIT 8"
    if Purpose.HEALTH in wanted:
        yield _member(role, "pg_monitor", major)
    if Purpose.RESTORE_POINTS in wanted:
        yield f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO {role}"


def _reader(role: str, wanted: set[Purpose], major: int) -> Iterator[str]:
    yield _create(role)
    reads = wanted & {Purpose.LOGICAL, Purpose.FINGERPRINTS}
    # Without BYPASSRLS a table with row-level security cannot be read whole.
    yield f"ALTER ROLE {role} LOGIN {'BYPASSRLS' if reads else 'NOBYPASSRLS'}"
    yield f"ALTER ROLE {role} SET default_transaction_read_only = on"
    yield f"ALTER ROLE {role} SET search_path = ''"
    if reads:
        yield _member(role, "pg_read_all_data", major)
    if Purpose.FINGERPRINTS in wanted:
        yield f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO {role}"


def _failover(role: str, major: int) -> Iterator[str]:
    yield _create(role)
    # Slots are made with REPLICATION only.
    yield f"ALTER ROLE {role} LOGIN REPLICATION CONNECTION LIMIT 8"
    yield _member(role, "pg_monitor", major)
    yield _member(role, "pg_checkpoint", major)
    yield (
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer), pg_catalog.pg_reload_conf() "
        f"TO {role}"
    )
    yield f"GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO {role}"


def _create(role: str) -> str:
    """There is no CREATE ROLE IF NOT EXISTS."""
    return (
        f"DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') "
        f"THEN CREATE ROLE {role}; END IF; END$$"
    )


def _member(role: str, of: str, major: int) -> str:
    """It has the rights and cannot become that role, where the server knows the difference."""
    return f"GRANT {of} TO {role}" + (
        " WITH INHERIT TRUE, SET FALSE" if major >= _FIRST_WITH_SET_FALSE else ""
    )


def _hba(database: str, role: str, address: str | None, tls: bool) -> str:
    if address is None:
        return f"local   {database:<12} {role:<24} scram-sha-256"
    return f"{'hostssl' if tls else 'host':<7} {database:<12} {role:<24} {address:<20} scram-sha-256"
