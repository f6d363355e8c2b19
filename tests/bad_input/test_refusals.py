"""What is made of a server's words where no such server is at hand."""

from __future__ import annotations

import pytest

from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.postgres.facts import refuse_too_old
from pgproof.postgres.refusals import connection_error

CONFIG = PostgresConfig(
    host="db.example.com", user="backup", password="hunter2", options={"sslpassword": "opener"}
)
FAILED = 'connection failed: connection to server at "10.0.0.7", port 5432 failed: '

TEXTS: list[tuple[str, type[EngineError], str, str]] = [
    (
        "FATAL:  must be superuser or replication role to start walsender",
        PreconditionError,
        "may not use replication",
        "ALTER ROLE backup REPLICATION",
    ),
    (
        "FATAL:  number of requested standby connections exceeds max_wal_senders (currently 0)",
        PreconditionError,
        "max_wal_senders is 0",
        "wal_level = replica",
    ),
    (
        "FATAL:  number of requested standby connections exceeds max_wal_senders (currently 10)",
        TransientError,
        "WAL senders are in use",
        "raise max_wal_senders",
    ),
    ("FATAL:  sorry, too many clients already", TransientError, "no connection left", "max_connections"),
    (
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        TransientError,
        "no connection left",
        "max_connections",
    ),
    ("FATAL:  the database system is shutting down", TransientError, "shutting down", "try again"),
    ("FATAL:  the database system is in recovery mode", TransientError, "recovering", "try again"),
    (
        "FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent recovery state has "
        "not been yet reached.",
        TransientError,
        "recovering",
        "try again",
    ),
    (
        "FATAL:  the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled.",
        PreconditionError,
        "a standby",
        "the primary",
    ),
    ('FATAL:  LDAP authentication failed for user "backup"', PreconditionError, "the password", "backup"),
    (
        'root certificate file "/home/x/.postgresql/root.crt" does not exist',
        PreconditionError,
        "TLS certificate",
        "sslrootcert",
    ),
    ("SSL error: tlsv1 alert unknown ca", PreconditionError, "TLS certificate", "sslcert"),
    ("SSL SYSCALL error: Connection reset by peer", TransientError, "cannot be reached", "host, port"),
    # Words of a server that does not speak English.
    (
        "FATAL:  Passwort-Authentifizierung für Benutzer »backup« fehlgeschlagen",
        TransientError,
        "refused the connection",
        "in its own words",
    ),
]


@pytest.mark.parametrize(("text", "kind", "message", "hint"), TEXTS)
def test_each_text_says_who_must_act(text: str, kind: type[EngineError], message: str, hint: str) -> None:
    error = connection_error(FAILED + text, CONFIG, replication=True)
    assert type(error) is kind
    assert message in error.message and hint in error.hint
    assert error.context["server"] == "backup@db.example.com"
    assert str(error.context["reason"]).startswith("connection to server at")


@pytest.mark.parametrize(
    ("reason", "kind", "message"),
    [
        (
            "failed to resolve host 'x': [Errno -2] Name or service not known",
            PreconditionError,
            "no such host",
        ),
        (
            "failed to resolve host 'x': [Errno -3] Temporary failure in name resolution",
            TransientError,
            "the name service does not answer",
        ),
        ('could not translate host name "x" to address: Unknown host', PreconditionError, "no such host"),
    ],
)
def test_a_host_name_that_is_not_found(reason: str, kind: type[EngineError], message: str) -> None:
    error = connection_error(reason, CONFIG)
    assert type(error) is kind and error.message == message


NO_ENTRY = 'FATAL:  no pg_hba.conf entry for {what}host "{host}", user "{user}"{more}, {encryption}'


@pytest.mark.parametrize(
    ("host", "user", "encryption", "line"),
    [
        ("10.0.0.9", "backup", "no encryption", "host  replication  backup  10.0.0.9/32  scram-sha-256"),
        ("10.0.0.9", "backup", "SSL encryption", "hostssl  replication  backup  10.0.0.9/32  scram-sha-256"),
        (
            "2001:db8::9",
            "backup",
            "SSL encryption",
            "hostssl  replication  backup  2001:db8::9/128  scram-sha-256",
        ),
        ("fe80::1%eth0", "backup", "no encryption", "host  replication  backup  fe80::1/128  scram-sha-256"),
        ("[local]", "backup", "no encryption", "local  replication  backup  scram-sha-256"),
        ("10.0.0.9", "Backup", "no encryption", 'host  replication  "Backup"  10.0.0.9/32  scram-sha-256'),
    ],
)
def test_the_line_for_pg_hba(host: str, user: str, encryption: str, line: str) -> None:
    text = NO_ENTRY.format(
        what="replication connection from ", host=host, user=user, more="", encryption=encryption
    )
    # The role may come from a service file, so that only the server tells it.
    error = connection_error(FAILED + text, PostgresConfig(host="db"), replication=True)
    assert error.hint.endswith(f":  {line}")


def test_the_line_for_an_ordinary_connection_names_the_database() -> None:
    text = NO_ENTRY.format(
        what="",
        host="10.0.0.9",
        user="replication",
        more=', database="replication"',
        encryption="no encryption",
    )
    config = PostgresConfig(host="db", user="replication", database="replication")
    assert connection_error(FAILED + text, config).hint.endswith(
        ':  host  "replication"  "replication"  10.0.0.9/32  scram-sha-256'
    )


def test_a_role_that_only_libpq_knows_is_named() -> None:
    error = connection_error(
        FAILED + "FATAL:  permission denied to start WAL sender",
        PostgresConfig(options={"service": "x"}),
        replication=True,
        login="O'Neill",
    )
    assert error.hint.endswith(':  ALTER ROLE "O\'Neill" REPLICATION')


def test_secrets_in_a_reason_are_blotted_out() -> None:
    error = connection_error("something with hunter2 and opener in it", CONFIG)
    assert "hunter2" not in str(error) and "opener" not in str(error)


def test_only_versions_we_know_are_backed_up() -> None:
    refuse_too_old(150000, "15.0")
    refuse_too_old(190000, "19devel")
    for number, version in ((140012, "14.12"), (90624, "9.6.24"), (0, "")):
        with pytest.raises(PreconditionError, match="too old") as caught:
            refuse_too_old(number, version)
        assert "15 and later" in caught.value.hint
        assert caught.value.context["version"] == (version or "unknown")
