"""Roles, databases and rows that are not UTF-8: kept as they are, or refused in words."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupMethod, VerifyLevel
from pgproof.recovery import RecoveryManager
from tests.round_trip.conftest import OpenDoors
from tests.support.postgres import Cluster, ClusterFactory, find_bin

_BYTES = "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"


def psql(cluster: Cluster, sql: bytes, database: bytes = b"postgres") -> str:
    """Run SQL whose bytes nobody converts."""
    environment = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
    for name, value in cluster.libpq_environment().items():
        environment[os.fsencode(name)] = os.fsencode(value)
    environment |= {b"PGCLIENTENCODING": b"SQL_ASCII", b"PGDATABASE": database}
    command = [str(find_bin(cluster.major) / "psql"), "-AtqX", "-v", "ON_ERROR_STOP=1"]
    return subprocess.run(command, input=sql, env=environment, capture_output=True, check=True).stdout.decode(
        "latin-1"
    )


def test_bytes_that_are_not_utf8(cluster_factory: ClusterFactory, front_doors: OpenDoors) -> None:
    cluster = cluster_factory(initdb_args=("--encoding=SQL_ASCII", "--locale=C"))
    psql(cluster, b"CREATE DATABASE lat ENCODING 'LATIN1' %s" % _BYTES.encode())
    psql(cluster, b"CREATE DATABASE raw ENCODING 'SQL_ASCII' %s" % _BYTES.encode())
    psql(cluster, b"CREATE TABLE t AS SELECT '\xe9'::text AS x", b"lat")
    psql(cluster, b"CREATE TABLE t AS SELECT '\xe9\xff'::text AS x", b"raw")
    doors = front_doors(cluster)
    recovery = RecoveryManager(doors.postgres, doors.manager())
    for method in (BackupMethod.LOGICAL, BackupMethod.PHYSICAL):
        info = doors.backup(method=method)
        assert info.status == "ok", info.findings
        report = doors.verify(info.backup_id, VerifyLevel.START)
        assert report.proven, [check for check in report.checks if not check.ok]
        for name, rows in (("lat", "\xe9"), ("raw", "\xe9\xff")):
            copy = f"{name}_{method}"
            asyncio.run(recovery.restore_database(info.backup_id, copy, database=name))
            assert psql(cluster, b"SELECT x FROM t", copy.encode()).strip() == rows


def test_names_that_are_not_utf8(cluster_factory: ClusterFactory, front_doors: OpenDoors) -> None:
    cluster = cluster_factory(initdb_args=("--encoding=SQL_ASCII", "--locale=C"))
    psql(cluster, b'CREATE ROLE "r\xe9"')
    psql(cluster, b"CREATE DATABASE lat ENCODING 'LATIN1' %s OWNER \"r\xe9\"" % _BYTES.encode())
    psql(cluster, b"CREATE TABLE t AS SELECT '\xe9'::text AS x; ALTER TABLE t OWNER TO \"r\xe9\"", b"lat")
    psql(cluster, b"CREATE DATABASE raw ENCODING 'SQL_ASCII' %s" % _BYTES.encode())
    psql(cluster, b'CREATE TABLE "t\xe9" AS SELECT 1 AS n', b"raw")
    doors = front_doors(cluster)
    logical = doors.backup(method=BackupMethod.LOGICAL)
    report = doors.verify(logical.backup_id, VerifyLevel.START)
    assert report.proven, [check for check in report.checks if not check.ok]
    # The server's roles are compared with those that the dump names.
    recovery = RecoveryManager(doors.postgres, doors.manager())
    with pytest.raises(PreconditionError, match="a name that is not UTF-8") as refused:
        asyncio.run(recovery.restore_database(logical.backup_id, "copy", database="lat"))
    assert "rename" in refused.value.hint

    psql(cluster, b"CREATE DATABASE \"d\xe9\" ENCODING 'SQL_ASCII' %s" % _BYTES.encode())
    with pytest.raises(PreconditionError, match="a name that is not UTF-8"):
        doors.backup(method=BackupMethod.LOGICAL)
    info = doors.backup(method=BackupMethod.PHYSICAL)
    report = doors.verify(info.backup_id, VerifyLevel.START)
    assert report.proven
    assert "databases whose names are not UTF-8" in [
        check.name for check in report.checks if check.ok is None
    ]
