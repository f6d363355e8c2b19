"""A backup compared with its source at exactly one point, while the source goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgproof.actions.verify_backup import verify_backup
from pgproof.backup import BackupManager
from pgproof.cli.main import run as pgproof
from pgproof.errors import PreconditionError
from pgproof.model.config import VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import Check, VerificationReport
from pgproof.model.source_fingerprint import SourceFingerprint
from tests.support.recovery_world import RecoveryWorld
from tests.wal.places import config_file

_TABLES = """
CREATE DATABASE app;
\\connect app
CREATE TABLE precious (id int PRIMARY KEY, t text);
INSERT INTO precious SELECT g, 'precious row ' || g FROM generate_series(1, 3000) g;
"""


@contextmanager
def archiving(world: RecoveryWorld) -> Iterator[None]:
    """What the server archives comes into the repository while the block runs."""
    done = threading.Event()

    def push() -> None:
        while not done.wait(0.2):
            world.push()

    thread = threading.Thread(target=push)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def fingerprint(world: RecoveryWorld, *databases: str) -> SourceFingerprint:
    manager = BackupManager(world.cluster.config(), world.config)
    return asyncio.run(manager.fingerprint_source(databases))


def verify(world: RecoveryWorld, against: str, **options: Any) -> VerificationReport:
    return verify_backup(world.config, world.backups[0].backup_id, VerifyLevel.FULL, Job(), against=against)


def same(report: VerificationReport) -> Check:
    (check,) = [check for check in report.checks if check.name == "same as the source"]
    return check


@pytest.mark.parametrize("major", [15, 17, 18])
def test_what_is_committed_around_the_point_is_no_difference(
    major: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecoveryWorld(major, clients=4) as world:
        world.cluster.psql(_TABLES)
        with world.busy(world.cluster, 1), archiving(world):
            world.backup()
            config = ["--config", str(config_file(world.config, world.root / "config.toml"))]
            config += ["--host", str(world.cluster.socket_dir), "--port", str(world.cluster.port)]
            verifying = ["verify", world.backups[0].backup_id, *config, "--user", "postgres", "--json"]
            assert pgproof([*verifying, "--level", "full", "--against-source"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["proven"]
        (check,) = [check for check in document["checks"] if check["name"] == "same as the source"]
        assert check["ok"] is True
        # The ledger's tables, written all the time, and those at rest, in two databases.
        assert "5 tables with" in check["detail"] and "not compared" not in check["detail"]


@pytest.fixture(scope="module")
def world() -> Iterator[RecoveryWorld]:
    with RecoveryWorld(18, settings={"ignore_checksum_failure": True}) as world:
        world.cluster.psql(_TABLES)
        world.backup()
        yield world


def test_a_row_that_changed_in_the_source_without_wal_is_named_by_its_table(world: RecoveryWorld) -> None:
    path = world.cluster.data_dir / world.cluster.psql("SELECT pg_relation_filepath('precious')", "app")
    with archiving(world):
        before = fingerprint(world, "app")
        assert same(verify(world, str(before.lsn))).ok is True
        world.cluster.stop()
        content = path.read_bytes()
        at = content.index(b"precious row 1234")
        path.write_bytes(content[:at] + b"P" + content[at + 1 :])
        world.cluster.start()
        try:
            after = fingerprint(world, "app")
            check = same(verify(world, "latest"))
            assert check.ok is False
            assert "app: public.precious: has as many rows, but other ones" in check.detail
            # The ones that were taken before still hold.
            assert same(verify(world, str(before.lsn))).ok is True
            assert after.lsn > before.lsn
        finally:
            world.cluster.stop()
            path.write_bytes(content)
            world.cluster.start()


def test_what_cannot_be_compared_is_refused(world: RecoveryWorld) -> None:
    with pytest.raises(PreconditionError, match="only by a full verification"):
        verify_backup(world.config, world.backups[0].backup_id, VerifyLevel.START, Job(), against="latest")
    with pytest.raises(PreconditionError, match="no fingerprints of the source at this point"):
        verify(world, "FF/FF")
    with pytest.raises(PreconditionError, match="not an LSN"):
        verify(world, "newest")
