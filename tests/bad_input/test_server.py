"""A server that cannot be backed up: `create` says why and what to do, and `check` says it before."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.bad_input import impostor
from tests.bad_input.conftest import Roles, over_tcp
from tests.bad_input.program import Program, committed, remedy
from tests.bad_input.tls import give_certificate
from tests.support import machine
from tests.support.postgres import STREAM_USER, Cluster, ClusterFactory

REPLICATION_REMEDY = "wal_level = replica and max_wal_senders = 10 in postgresql.conf"

# What is wrong, as variables; the status of `create`, its words and its hint.
WRONG: dict[str, tuple[dict[str, str], int, str, str]] = {
    "wrong password": (
        {"PGPASSWORD": "a wrong password"},
        3,
        "the server refused the password",
        f"the role is {STREAM_USER}",
    ),
    "no password": ({"PGPASSWORD": ""}, 3, "wants a password and none is given", "PGPASSFILE"),
    "a host name that is none": ({"PGHOST": "no such host"}, 3, "no such host", "PGHOST"),
    "a host name with a hole": ({"PGHOST": "db..example.com"}, 3, "settings are not understood", "PGHOST"),
    "TLS that is not offered": ({"PGSSLMODE": "require"}, 3, "does not offer TLS", "ssl = on"),
    "an unknown sslmode": ({"PGSSLMODE": "always"}, 3, "settings are not understood", "the reason names"),
    "an unknown service": ({"PGSERVICE": "nowhere"}, 3, "settings are not understood", "the reason names"),
    "a timeout that is no number": ({"PGCONNECT_TIMEOUT": "x"}, 3, "settings are not understood", "reason"),
    "no socket": ({"PGHOST": "/nowhere"}, 4, "the server cannot be reached", "host, port"),
    "channel binding without TLS": (
        {"PGCHANNELBINDING": "require"},
        3,
        "the authentication that is demanded",
        "channel_binding",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_connection_that_fails(plain: Program, repository: Path, wrong: str) -> None:
    variables, status, message, hint = WRONG[wrong]
    error = plain.refused("create", status=status, message=message, hint=hint, env=variables)
    assert error["facts"]["reason"] and error["facts"]["server"]
    assert plain.checks(status=7, env=variables)["replication connection"]["hint"] == error["hint"]
    assert not committed(repository)


@pytest.mark.parametrize("port", ["54x2", "0", "65536", "-1"])
def test_a_port_that_is_none(plain: Program, port: str) -> None:
    for command in ("create", "check"):
        plain.refused(
            command, message="the port is not a number from 1 to 65535", hint="PGPORT", env={"PGPORT": port}
        )


def test_a_port_on_the_command_line_that_is_none(plain: Program) -> None:
    plain.refused("create", "--port", "54x2", status=2, message="not a whole number: '54x2'", hint="--help")


def test_nobody_listens_there(plain: Program) -> None:
    (port,) = machine.free_ports(1)
    plain.refused(
        "create", status=4, message="cannot be reached", hint="PostgreSQL runs", env={"PGPORT": str(port)}
    )


IMPOSTORS: dict[str, tuple[Callable[[socket.socket], None], int, str, str]] = {
    "a web server": (impostor.web_server, 3, "not PostgreSQL", "correct host and port"),
    "a pooler": (impostor.pooler, 3, "a connection pooler answers", "PostgreSQL's own host and port"),
    "one who hangs up": (impostor.hangs_up, 4, "cannot be reached", "host, port"),
    "one who says nothing": (impostor.silent, 4, "nothing answers at this address", "PGCONNECT_TIMEOUT"),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_something_else_answers_at_the_port(plain: Program, name: str) -> None:
    answer, status, message, hint = IMPOSTORS[name]
    with impostor.listening(answer) as port:
        variables = {"PGPORT": str(port), "PGCONNECT_TIMEOUT": "2"}
        plain.refused("create", status=status, message=message, hint=hint, env=variables)
        if answer is not impostor.silent:  # each of its connections would have to time out
            plain.fails_check("replication connection", hint, env=variables)


def test_an_unknown_role(plain: Program, roles: Roles) -> None:
    roles.let_in("host all,replication stranger 127.0.0.1/32 scram-sha-256")
    plain.refused(
        "create",
        message="the server refused the password",
        hint="the role is stranger",
        env={"PGUSER": "stranger"},
    )
    roles.let_in("local all,replication stranger trust")
    error = plain.refused(
        "create",
        message="does not know this role",
        hint="PGUSER",
        env={"PGUSER": "stranger", "PGHOST": str(roles.cluster.socket_dir)},
    )
    assert 'role "stranger" does not exist' in error["facts"]["reason"]


@pytest.mark.parametrize("name", ["no_right", "No right"])
def test_a_role_without_replication_is_told_the_command_that_helps(
    plain: Program, roles: Roles, name: str
) -> None:
    role = roles.make(name, options="LOGIN")
    error = plain.refused("create", message="may not use replication", hint="ALTER ROLE", env=role)
    assert plain.fails_check("replication connection", "ALTER ROLE", env=role) == error["hint"]
    assert remedy(plain.fails_check("role may replicate", "ALTER ROLE", env=role)) == remedy(error["hint"])
    roles.cluster.psql(remedy(error["hint"]))
    assert plain.checks(env=role)["role may replicate"]["ok"] is True


def test_an_older_server_says_it_in_other_words(plain: Program, pg15: Cluster) -> None:
    pg15.psql("CREATE ROLE no_right LOGIN PASSWORD 'x y z'")
    role = {**over_tcp(pg15), "PGUSER": "no_right", "PGPASSWORD": "x y z"}
    plain.refused("create", message="may not use replication", hint="ALTER ROLE no_right", env=role)


def test_a_role_that_may_not_log_in_is_told_the_command_that_helps(plain: Program, roles: Roles) -> None:
    role = roles.make("nologin_role", options="NOLOGIN REPLICATION")
    error = plain.refused("create", message="the role may not log in", hint="ALTER ROLE", env=role)
    roles.cluster.psql(remedy(error["hint"]))
    assert plain.checks(env=role)["replication connection"]["ok"] is True


NO_LINE, REJECTED = "no pg_hba.conf line that lets us in", "a pg_hba.conf line rejects"


@pytest.mark.parametrize(
    ("name", "group", "message"),
    [
        ("No line", "no_line", NO_LINE),
        # Its name alone must not decide what the line is for.
        ("replication_role", "no_line", NO_LINE),
        ("all", "rejected", REJECTED),
    ],
)
def test_the_pg_hba_line_that_is_told_lets_us_in(
    plain: Program, roles: Roles, name: str, group: str, message: str
) -> None:
    role = roles.make(name, group)
    error = plain.refused("create", message=message, hint="host  replication  ", env=role)
    checks = plain.checks(status=7, env=role)
    assert checks["replication connection"]["hint"] == error["hint"]
    assert checks["ordinary connection"]["ok"] is True and checks["role may replicate"]["ok"] is True
    roles.let_in(remedy(error["hint"]))
    assert plain.checks(env=role)["replication connection"]["ok"] is True


def test_peer_authentication_names_the_line_that_helps(plain: Program, roles: Roles) -> None:
    role = roles.make("by_peer_role", "by_peer") | {"PGHOST": str(roles.cluster.socket_dir)}
    error = plain.refused(
        "create", message="another operating system user", hint="local  replication  by_peer_role", env=role
    )
    roles.let_in(remedy(error["hint"]))
    assert plain.checks(env=role)["replication connection"]["ok"] is True


def test_without_an_ordinary_connection_backups_work_and_check_says_what_is_missing(
    plain: Program, roles: Roles
) -> None:
    limited = roles.make("limited_role", options="LOGIN REPLICATION CONNECTION LIMIT 0")
    shut_out = roles.make("shut_out_role")
    roles.cluster.psql("CREATE DATABASE closed")
    roles.cluster.psql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    check = plain.checks(env=limited)["ordinary connection"]
    assert check["ok"] is None and "no connection left" in check["detail"]
    assert "connection limit" in check["hint"]
    check = plain.checks(env=shut_out | {"PGDATABASE": "closed"})["ordinary connection"]
    assert check["ok"] is None
    roles.cluster.psql(remedy(check["hint"]))
    assert plain.checks(env=shut_out | {"PGDATABASE": "closed"})["ordinary connection"]["ok"] is True
    assert plain.checks(env=shut_out | {"PGDATABASE": "template0"})["ordinary connection"]["ok"] is None


@pytest.mark.parametrize("major", [15, 18])
def test_wal_level_minimal(plain: Program, cluster_factory: ClusterFactory, major: int) -> None:
    cluster = cluster_factory(major, settings={"wal_level": "minimal", "max_wal_senders": 0})
    server = over_tcp(cluster)
    plain.refused("create", message="wal_level may be minimal", hint=REPLICATION_REMEDY, env=server)
    checks = plain.checks(status=7, env=server)
    assert REPLICATION_REMEDY in checks["replication connection"]["hint"]
    assert checks["wal_level"]["ok"] is False and REPLICATION_REMEDY in checks["wal_level"]["hint"]


def test_wal_senders_and_slots_that_are_all_in_use(
    plain: Program, cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    cluster = cluster_factory(18, settings={"max_wal_senders": 2, "max_replication_slots": 1})
    program = plain.with_(**over_tcp(cluster), BACKUP_DIR=str(tmp_path / "repository"))
    program.run("init")
    senders = "all of the server's WAL senders are in use (max_wal_senders)"
    with contextlib.closing(_replication(cluster)) as first:
        # One is left: the base backup would have it, the WAL stream not.
        program.refused("create", status=4, message=senders, hint="raise max_wal_senders")
        program.fails_check("WAL senders", "raise max_wal_senders")
        with contextlib.closing(_replication(cluster)):
            program.refused("create", status=4, message=senders, hint="raise max_wal_senders")
            program.fails_check("replication connection", "raise max_wal_senders")
        first.pgconn.exec_(b"CREATE_REPLICATION_SLOT somebodys PHYSICAL")
    _wait_for_senders_to_end(cluster)
    slots = "all of the server's replication slots are in use"
    program.refused("create", status=4, message=slots, hint="FROM pg_replication_slots WHERE NOT active")
    program.fails_check("replication slots", "raise max_replication_slots")
    assert not committed(tmp_path / "repository")
    cluster.psql("SELECT pg_drop_replication_slot('somebodys')")
    program.run("create")
    cluster.psql("ALTER SYSTEM SET max_replication_slots = 0")
    cluster.psql("ALTER SYSTEM SET max_wal_senders = 1")
    cluster.restart()
    program.fails_check("WAL senders", "set max_wal_senders = 10 in postgresql.conf")
    cluster.psql("ALTER SYSTEM SET max_wal_senders = 2")
    cluster.restart()
    hint = "set max_replication_slots = 10 in postgresql.conf"
    program.refused("create", message="max_replication_slots is 0", hint=hint)
    program.fails_check("replication slots", hint)


def _replication(cluster: Cluster) -> psycopg.Connection[Any]:
    parameters = cluster.tcp_config().parameters()
    return psycopg.connect(**(parameters | {"replication": "true", "dbname": "x"}), autocommit=True)  # type: ignore[arg-type]


def _wait_for_senders_to_end(cluster: Cluster) -> None:
    machine.wait_until(
        lambda: cluster.psql("SELECT count(*) FROM pg_stat_replication") == "0", "WAL senders to end"
    )


def test_a_server_that_is_starting_is_worth_another_try(
    plain: Program, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    cluster = cluster_factory(18)
    gate = work_dir / "gate"
    cluster.psql(f"ALTER SYSTEM SET restore_command = 'until test -e {gate}; do sleep 0.1; done; exit 1'")
    cluster.stop()
    # Recovery asks for WAL first of all, and waits for it while the server lets nobody in.
    (cluster.data_dir / "recovery.signal").touch()
    starting = threading.Thread(target=cluster.start)
    starting.start()
    try:
        machine.wait_until(lambda: "starting up" in _why_not(cluster), "the server to say that it starts")
        server = over_tcp(cluster)
        message, hint = "the server is starting up", "try again in a moment"
        plain.refused("create", status=4, message=message, hint=hint, env=server)
        plain.fails_check("replication connection", hint, env=server)
    finally:
        gate.touch()
        starting.join()
    assert plain.checks(env=server)["replication connection"]["ok"] is True


def _why_not(cluster: Cluster) -> str:
    try:
        cluster.connect().close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def test_tls_that_is_not_trusted_and_the_line_for_it(
    plain: Program, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    cluster = cluster_factory(15, hba=[f"hostnossl all,replication {STREAM_USER} all scram-sha-256"])
    stranger = give_certificate(cluster, work_dir)
    server = over_tcp(cluster)
    for trusted in (stranger, work_dir / "missing.crt"):
        variables = server | {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(trusted)}
        error = plain.refused(
            "create", message="the TLS certificate was not accepted", hint="sslrootcert", env=variables
        )
        assert "certificate" in error["facts"]["reason"]
    # The server's lines let nobody in over TLS.
    (cluster.config_dir / "pg_hba.conf").write_text("local all postgres trust\n")
    cluster.psql("SELECT pg_reload_conf()")
    error = plain.refused(
        "create",
        message="no pg_hba.conf line",
        hint="hostssl  replication  bk_stream  127.0.0.1/32",
        env=server,
    )
    Roles(cluster).let_in(remedy(error["hint"]))
    assert plain.checks(env=server)["replication connection"]["ok"] is True
