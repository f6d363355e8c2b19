"""Why a connection was refused, from libpq's and the server's words, and what the operator does about it.

A failed connection carries no SQLSTATE, only text, and a server that speaks another language than English is
understood less well: then its words are passed on, and the call may be tried again.
"""

from __future__ import annotations

import re

from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.model.config import PostgresConfig

NO_REPLICATION_HINT = (
    "set wal_level = replica and max_wal_senders = 10 in postgresql.conf and restart the server"
)


def connection_error(
    reason: str, config: PostgresConfig, *, replication: bool = False, login: str = ""
) -> EngineError:
    """The error for a connection that failed with `reason`.

    `replication` tells which kind it was to be, `login` the role that libpq chose, if it is known.
    """
    text = without_secrets(" ".join(reason.split()), config)
    text = _PREFIX.sub("", text)
    facts = {"server": str(config), "reason": text}
    remedies = _remedies(config, replication, login, text)
    for pattern, message, hint in _REFUSALS:
        if re.search(pattern, text):
            return PreconditionError(message, hint=hint.format(**remedies), **facts)
    for pattern, message, hint in _FOR_NOW:
        if re.search(pattern, text):
            return TransientError(message, hint=hint, **facts)
    if "FATAL" in text:
        return TransientError(
            "the server refused the connection",
            hint="the reason is in its own words: correct it, or try again if it will pass",
            **facts,
        )
    return TransientError(
        "the server cannot be reached",
        hint="check that PostgreSQL runs and that host, port and network are right",
        **facts,
    )


def without_secrets(text: str, config: PostgresConfig) -> str:
    for secret in (config.password, config.options.get("sslpassword")):
        if secret:
            text = text.replace(secret, "***")
    return text


def sql_name(name: str) -> str:
    """A role or database as SQL takes it."""
    return name if _PLAIN.match(name) else '"' + name.replace('"', '""') + '"'


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
_PREFIX = re.compile(r"^connection (?:failed|is bad): ")

# Texts of PostgreSQL 15 to 18 and of libpq. The first match counts.
_REFUSALS = (
    (
        r"no pg_hba\.conf entry",
        "the server has no pg_hba.conf line that lets us in",
        "add this line to pg_hba.conf and reload (SELECT pg_reload_conf()):  {hba}",
    ),
    (
        r"pg_hba\.conf rejects",
        "a pg_hba.conf line rejects this connection",
        "put this line before it and reload (SELECT pg_reload_conf()):  {hba}",
    ),
    (
        r"(?:password|LDAP|PAM|RADIUS|BSD) authentication failed",
        "the server refused the password",
        "correct PGPASSWORD, the password file or the block; the role is {user}",
    ),
    (
        r"no password supplied",
        "the server wants a password and none is given",
        "set PGPASSWORD, a password file (PGPASSFILE) or the block's password for role {user}",
    ),
    (
        r"to start WAL sender|replication role to start walsender",
        "the role may not use replication",
        "run as a superuser:  ALTER ROLE {user} REPLICATION",
    ),
    (
        r'exceeds "?max_wal_senders"? \(currently 0\)',
        "the server allows no replication (max_wal_senders is 0, so wal_level may be minimal)",
        NO_REPLICATION_HINT,
    ),
    (
        r"permission denied for database",
        "the role may not connect to this database",
        "run as a superuser:  GRANT CONNECT ON DATABASE {database} TO {user}",
    ),
    (
        r"not permitted to log in",
        "the role may not log in",
        "run as a superuser:  ALTER ROLE {user} LOGIN",
    ),
    (
        r"(?:Peer|Ident) authentication failed",
        "the server wants another operating system user",
        "run this as the operating system user {user}, or connect with a password: "
        "put this line first in pg_hba.conf and reload:  {hba}",
    ),
    (
        r"certificate|private key file|\balert\b",
        "the TLS certificate was not accepted",
        "check sslmode, sslrootcert, sslcert and sslkey",
    ),
    (
        r"server does not support SSL",
        "the server does not offer TLS",
        "turn it on there (ssl = on), or lower sslmode knowingly",
    ),
    (
        r"channel binding|authentication method requirement",
        "the server does not offer the authentication that is demanded",
        "check channel_binding and require_auth, and the method of the server's pg_hba.conf line",
    ),
    (
        r'role "[^"]*" does not exist',
        "the server does not know this role",
        "create it, or correct its name (PGUSER)",
    ),
    (
        r'database "[^"]*" does not exist',
        "the server has no such database",
        "correct its name, or create it",
    ),
    (
        r"not currently accepting connections",
        "this database accepts no connections",
        "name another one with PGDATABASE or --dbname",
    ),
    (
        r"Hot standby mode is disabled",
        "this server is a standby that lets nobody in",
        "connect to the primary",
    ),
    (
        r"could not translate host name|failed to resolve host (?!.*Temporary failure)",
        "no such host",
        "correct the host name (PGHOST) or the name service",
    ),
    (
        r"unsupported startup parameter|no such database: replication",
        "a connection pooler answers there, not PostgreSQL itself",
        "give PostgreSQL's own host and port: poolers do not pass the replication protocol",
    ),
    (
        r"invalid response to SSL negotiation|expected authentication request|invalid authentication request",
        "what answers there is not PostgreSQL",
        "correct host and port",
    ),
    (
        r"invalid port number|invalid \S+ value: |definition of service|service file",
        "the connection settings are not understood",
        "correct the setting that the reason names",
    ),
)
_LATER = "try again in a moment; see the server's log if it stays"
_FOR_NOW = (
    (r"starting up", "the server is starting up", _LATER),
    (r"shutting down", "the server is shutting down", _LATER),
    (r"not yet accepting|in recovery mode", "the server is recovering", _LATER),
    (
        r'exceeds "?max_wal_senders',
        "all of the server's WAL senders are in use (max_wal_senders)",
        "wait until a backup or a standby lets one go, or raise max_wal_senders and restart the server",
    ),
    (
        r"too many (?:clients|connections)|remaining connection slots",
        "the server has no connection left for us",
        "try again when fewer clients are connected, or raise max_connections or the role's connection limit",
    ),
    (
        r"timeout expired",
        "nothing answers at this address",
        "check host, port and firewall; connect_timeout (PGCONNECT_TIMEOUT) says how long we wait",
    ),
    (r"Temporary failure in name resolution", "the name service does not answer", "check the network"),
)
# `host "10.0.0.7", user "bk", database "app"` in what the server says of its pg_hba.conf.
_SEEN = re.compile(r'host "(?P<host>[^"]*)", user "(?P<user>[^"]*)"')


def _remedies(config: PostgresConfig, replication: bool, login: str, text: str) -> dict[str, str]:
    seen = _SEEN.search(text)
    user = config.user or (seen["user"] if seen else "") or login
    database = config.database or "postgres"
    entry = "replication" if replication else _hba_name(database)
    return {
        "user": sql_name(user) if user else "<user>",
        "database": sql_name(database),
        "hba": _hba_line(config, entry, user, seen["host"] if seen else "", text),
    }


def _hba_line(config: PostgresConfig, entry: str, user: str, address: str, text: str) -> str:
    """The line that would let this very connection in, by the address under which the server saw it."""
    role = _hba_name(user) if user else "<user>"
    over_socket = config.host is None or config.host.startswith("/")
    if address == "[local]" or (over_socket and not address):
        return f"local  {entry}  {role}  scram-sha-256"
    # An unencrypted connection would not match a hostssl line, so that is advised where TLS was tried.
    kind = "hostssl" if "SSL encryption" in text else "host"
    where = address.partition("%")[0] or "<this machine's address>"
    return f"{kind}  {entry}  {role}  {where}/{128 if ':' in where else 32}  scram-sha-256"


def _hba_name(name: str) -> str:
    """A name as pg_hba.conf takes it; in quotes its keywords lose their meaning."""
    keyword = name in ("all", "replication", "sameuser", "samerole", "samegroup")
    return name if _PLAIN.match(name) and not keyword else f'"{name}"'
