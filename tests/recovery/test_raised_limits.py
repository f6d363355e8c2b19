"""Limits that the source raised after the backup: a recovery needs them, and so does the server that follows (R14)."""

from __future__ import annotations

import shutil

import pytest

from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import LATEST
from tests.support.recovery_world import RecoveryWorld

RAISED = {
    "max_connections": 200,
    "max_prepared_transactions": 30,
    "max_locks_per_transaction": 512,
    "max_worker_processes": 20,
    "max_wal_senders": 20,
}


@pytest.mark.parametrize("major", [15, 18])
def test_a_recovery_has_room_for_what_the_source_made_room_for(major: int) -> None:
    with RecoveryWorld(major, clients=1) as world:
        cluster = world.cluster
        world.backup()
        for name, value in RAISED.items():
            cluster.psql(f"ALTER SYSTEM SET {name} = {value}")
        cluster.restart()
        cluster.psql("SELECT format('CREATE TABLE t%s (i int)', g) FROM generate_series(1, 100) g \\gexec")
        inserts = ";".join(f"INSERT INTO t{number} VALUES (1)" for number in range(1, 101))
        for number in range(25):
            cluster.psql(f"BEGIN; {inserts}; PREPARE TRANSACTION 'p{number}'")
        world.mark(cluster, 1)
        world.switch(cluster)
        world.push()
        directory, report = world.restore("raised", RecoveryRequest(LATEST), "latest")
        assert report.recovered
        (note,) = [note for note in report.notes if "max_prepared_transactions" in note]
        assert "max_prepared_transactions = 30" in note and "max_connections" in note
        try:
            settings = {
                name: str(RAISED[name]) for name in ("max_prepared_transactions", "max_locks_per_transaction")
            }
            with world.adopt(directory, **settings) as restored:
                assert restored.psql("SELECT count(*) FROM pg_prepared_xacts") == "25"
                restored.psql("SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts \\gexec")
                assert restored.psql("SELECT count(*) FROM t7") == "25"
                assert restored.psql("SELECT number FROM marks") == "1"
        finally:
            shutil.rmtree(directory)
