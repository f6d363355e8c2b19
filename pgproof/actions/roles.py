"""What roles this server needs for what is to be done with it; made only if somebody asks for that."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import psycopg

from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.roles import Purpose, RolePlan, plan_roles
from pgproof.postgres.connection import connect, query, server_error

_log = logging.getLogger(__name__)


def server_roles(
    postgres: PostgresConfig,
    purposes: Iterable[Purpose],
    *,
    prefix: str = "pgproof",
    address: str | None = None,
    apply: bool = False,
) -> RolePlan:
    """The plan for the server that answers; `address` is where workers come from, by default where we do.

    With `apply` its SQL is run, all of it or nothing. Raises PreconditionError where the role we connect as may not.
    """
    with closing(connect(postgres, name="pgproof_roles")) as connection:
        (facts,) = query(
            connection,
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('ssl') = 'on', "
            "host(inet_client_addr()), pg_is_in_recovery()",
        )
        major, tls, seen, standby = facts
        plan = plan_roles(purposes, major, prefix=prefix, address=_network(address or seen), tls=tls)
        if apply:
            if standby:
                raise PreconditionError(
                    "roles cannot be made on a standby", hint="connect to the primary; its standbys follow"
                )
            _apply(connection, plan)
    return plan


def _network(address: str | None) -> str | None:
    """With its length, as pg_hba.conf wants it."""
    try:
        return None if address is None else str(ipaddress.ip_network(address))
    except ValueError as error:
        raise PreconditionError(
            "not an address", hint="write it as 10.0.0.7 or 10.0.0.0/24", address=address
        ) from error


def _apply(connection: psycopg.Connection[Any], plan: RolePlan) -> None:
    try:
        with connection.transaction():
            for statement in plan.statements:
                connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise PreconditionError(
            "the role may not make other roles",
            hint="run the SQL as whoever administers the server, or connect as they do",
            reason=str(error).splitlines()[0],
        ) from error
    except psycopg.Error as error:
        raise server_error(error.sqlstate, str(error).splitlines()[0], "making the roles") from error
    _log.info("roles made roles=%s", ",".join(plan.roles))
