"""How a standby reaches its primary."""

from __future__ import annotations

import psycopg.conninfo
from psycopg import ProgrammingError

from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig

SECRETS = ("password", "sslpassword", "oauth_client_secret")
_PLACE = ("host", "hostaddr", "port")
# They belong to our own sessions.
_OURS = ("dbname", "options", "application_name", "target_session_attrs", "replication")


def primary_conninfo(given: str | None, postgres: PostgresConfig) -> str:
    """`given`, or the connection of `postgres` without its password.

    Raises PreconditionError for one with a password: it would stand in a file and in the server's views.
    """
    if given is None:
        known = {
            name: value
            for name, value in postgres.parameters().items()
            if name not in (*SECRETS, *_OURS, "service", "servicefile")
        }
        if not known.get("host") and not known.get("hostaddr"):
            raise PreconditionError(
                "the standby does not know its primary", hint="give --primary 'host=… port=… user=…'"
            )
        return psycopg.conninfo.make_conninfo("", **known)
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(given)
    except ProgrammingError as error:
        raise PreconditionError(
            "not a connection string",
            hint="write it as 'host=… port=… user=…'",
            reason=str(error).strip().partition("\n")[0],
        ) from None
    if any(parameters.get(name) for name in SECRETS):
        raise PreconditionError(
            "the connection string to the primary holds a password",
            hint="leave it out, and put it into ~/.pgpass of the user who runs the standby",
        )
    return psycopg.conninfo.make_conninfo("", **{k: v for k, v in parameters.items() if v is not None})


def replica_conninfo(given: str | None, before: str, primary: PostgresConfig, node: str) -> str:
    """`given`, or what the replica had `before`, led to `primary`, or the configured way to that; never with a password.

    So a replica keeps its role, its TLS settings and its name for synchronous_standby_names.
    """
    if given is not None or not before:
        found = primary_conninfo(given, primary)
        return found if given is not None else psycopg.conninfo.make_conninfo(found, application_name=node)
    try:
        old = psycopg.conninfo.conninfo_to_dict(before)
    except ProgrammingError:
        return primary_conninfo(None, primary)
    place = psycopg.conninfo.conninfo_to_dict(primary_conninfo(None, primary))
    dropped = (*SECRETS, *_PLACE)
    kept = {name: value for name, value in old.items() if name not in dropped and value is not None}
    led = {name: value for name, value in place.items() if name in _PLACE and value is not None}
    return psycopg.conninfo.make_conninfo("", **{**kept, **led})
