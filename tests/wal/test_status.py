"""`wal status` and `restore-point` on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.actions.restore_point import create_restore_point
from pgproof.actions.take_backup import take_backup
from pgproof.actions.wal_status import wal_status
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from pgproof.model.wal_status import WalStatus
from tests.repository.places import new_repository
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.streaming import Streamer, wait_for_flush, written


def kinds(status: WalStatus) -> list[str]:
    return [problem.kind for problem in status.problems]


@pytest.mark.parametrize("major", [15, 17, 18])
def test_from_nothing_to_a_gap_and_back(major: int, cluster_factory: ClusterFactory, work_dir: Path) -> None:
    config = new_repository(work_dir / "r")
    limited = {"max_slot_wal_keep_size": "8MB", "min_wal_size": "2MB"}
    cluster = cluster_factory(major, initdb_args=("--wal-segsize=1",), settings=limited)
    way_in = cluster.config()
    with pytest.raises(PreconditionError, match="does not know this cluster"):
        wal_status(way_in, config)
    backup = take_backup(way_in, config, BackupType.FULL, Job())
    status = wal_status(way_in, config)
    assert kinds(status) == ["slot-missing"]
    with Streamer(way_in, config) as streamer:
        wait_for_flush(cluster, written(cluster))
        cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) g")
        wait_for_flush(cluster, written(cluster))
        status = wal_status(way_in, config)
        assert kinds(status) == []
        assert status.primary is not None and status.primary.slot is not None
        assert status.primary.lag_bytes == 0 and status.primary.sync_state == "async"
        assert status.primary.slot.wal_status == "reserved"
        assert status.restorable is not None
        assert status.restorable.oldest_lsn == backup.stop_lsn
        assert status.restorable.newest_lsn == status.primary.position
        streamer.stop()
    status = wal_status(way_in, config)
    assert kinds(status) == ["not-streaming"]
    assert status.primary is not None and status.primary.slot is not None
    assert (status.primary.slot.inactive_since is not None) == (major >= 17)
    _write(cluster, 6)
    assert kinds(wal_status(way_in, config)) == ["slot-in-danger", "not-streaming"]
    _write(cluster, 20)
    status = wal_status(way_in, config)
    assert kinds(status) == ["slot-lost"]
    assert status.primary is not None and status.primary.slot is not None
    assert (status.primary.slot.invalidation_reason is not None) == (major >= 17)
    with Streamer(way_in, config) as streamer:
        streamer.wait_for_log("GAP")
        wait_for_flush(cluster, written(cluster))
        status = wal_status(way_in, config)
        assert kinds(status) == ["gap"]
        (gap,) = status.gaps
        assert not gap.bridged
        assert status.restorable is not None and status.restorable.newest_lsn == gap.start
        take_backup(way_in, config, BackupType.FULL, Job())
        wait_for_flush(cluster, written(cluster))
        status = wal_status(way_in, config)
        assert kinds(status) == []
        assert [each.bridged for each in status.gaps] == [True]
        streamer.stop()
    cluster.stop()
    status = wal_status(way_in, config)
    assert kinds(status) == ["server"]
    assert status.restorable is not None


def _write(cluster: Cluster, megabytes: int) -> None:
    for _ in range(megabytes):
        cluster.psql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 1000000))")
    cluster.psql("CHECKPOINT")


def test_restore_points(pg18: Cluster) -> None:
    before = pg18.insert_lsn()
    point = create_restore_point(pg18.config(), "before the migration")
    assert before < point.lsn <= pg18.insert_lsn()
    with pytest.raises(PreconditionError) as refused:
        create_restore_point(pg18.tcp_config(), "x")
    assert "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO bk_stream" in refused.value.hint
    pg18.psql("GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO bk_stream")
    assert create_restore_point(pg18.tcp_config(), "x").lsn > point.lsn
    pg18.psql("REVOKE EXECUTE ON FUNCTION pg_create_restore_point(text) FROM bk_stream")
    for name in ("", " ", "a" * 64, "ü" * 32, "two\nlines"):
        with pytest.raises(PreconditionError, match="not a usable name"):
            create_restore_point(pg18.config(), name)
