"""`wal status` and `restore-point` on real servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.actions.restore_cluster import plan_cluster_restore, restore_cluster
from pgproof.actions.restore_point import create_restore_point
from pgproof.actions.standing import measure
from pgproof.actions.take_backup import take_backup
from pgproof.actions.wal_status import wal_status
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.model.objectives import Objectives, broken_objectives
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import LATEST, RecoveryTarget, TargetKind
from pgproof.model.restore_plan import RestorePlan
from pgproof.model.wal_status import WalStatus
from tests.repository.places import new_repository
from tests.support.postgres import Cluster, ClusterFactory, find_bin
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
        standing = measure(way_in, config)
        assert [each.key for each in broken_objectives(standing, Objectives())] == ["gap"]
        assert standing.backup_id == backup.backup_id and not standing.server_problem
        take_backup(way_in, config, BackupType.FULL, Job())
        wait_for_flush(cluster, written(cluster))
        status = wal_status(way_in, config)
        assert kinds(status) == []
        assert [each.bridged for each in status.gaps] == [True]
        standing = measure(way_in, config)
        assert not broken_objectives(standing, Objectives(backup_max_age_hours=1, rpo_minutes=10))
        assert standing.backup_id != backup.backup_id and standing.lag_seconds is not None
        streamer.stop()
    cluster.stop()
    status = wal_status(way_in, config)
    assert kinds(status) == ["server"]
    assert status.restorable is not None
    assert measure(way_in, config).server_problem == status.server_problem


@pytest.mark.parametrize("major", [15, 18])
def test_wal_of_a_minimal_server_is_never_promised(
    major: int, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    """Somebody loaded data without WAL in between; nothing is missing in the repository, and yet no restore passes it."""
    config = replace(new_repository(work_dir / "r"), bin_dir=str(find_bin(major)))
    cluster = cluster_factory(major, settings={"wal_keep_size": "512MB"}, initdb_args=("--wal-segsize=1",))
    way_in = cluster.config()
    backup = take_backup(way_in, config, BackupType.FULL, Job())
    with Streamer(way_in, config) as streamer:
        cluster.psql("CREATE TABLE before AS SELECT 1 AS x")
        wait_for_flush(cluster, written(cluster))
        streamer.stop()
    before = written(cluster)
    cluster.psql("SELECT pg_drop_replication_slot('pgproof')")
    for level, senders in (("minimal", 0), ("replica", 10)):
        cluster.psql(f"ALTER SYSTEM SET wal_level = {level}")
        cluster.psql(f"ALTER SYSTEM SET max_wal_senders = {senders}")
        cluster.restart()
        cluster.psql("CREATE TABLE IF NOT EXISTS loaded AS SELECT generate_series(1, 1000) g")
    cluster.psql("ALTER SYSTEM SET full_page_writes = off")
    cluster.psql("SELECT pg_reload_conf()")
    with Streamer(way_in, config) as streamer:
        streamer.wait_for_log("wal_level = minimal")
        streamer.wait_for_log("full_page_writes is off")
        cluster.psql("SELECT pg_switch_wal(); CREATE TABLE behind AS SELECT 1 AS x")
        wait_for_flush(cluster, written(cluster))
        status = wal_status(way_in, config)
        assert kinds(status) == ["gap", "full-page-writes"]
        (gap,) = status.gaps
        assert gap.minimal and not gap.bridged and before <= gap.start
        assert status.restorable is not None and status.restorable.newest_lsn == gap.start
        cluster.psql("ALTER SYSTEM RESET full_page_writes")
        cluster.psql("SELECT pg_reload_conf()")
        with pytest.raises(PreconditionError):
            _plan(config, work_dir, backup.backup_id, RecoveryTarget(TargetKind.LSN, written(cluster)))
        plan = _plan(config, work_dir, backup.backup_id, None)
        assert plan.wal_end == gap.start
        second = take_backup(way_in, config, BackupType.FULL, Job())
        cluster.psql("CREATE TABLE last AS SELECT 1 AS x")
        wait_for_flush(cluster, written(cluster))
        assert kinds(wal_status(way_in, config)) == []
        assert _plan(config, work_dir, second.backup_id, None).wal_end == written(cluster)
        streamer.stop()
    report = restore_cluster(
        config,
        backup.backup_id,
        work_dir / "restored",
        tablespaces={},
        recover=True,
        owner=None,
        request=RecoveryRequest(LATEST),
        job=Job(),
    )
    with Cluster.adopt(Path(report.data_dir), major) as restored:
        assert restored.psql("SELECT to_regclass('before'), to_regclass('loaded')") == "before|"


def _plan(config: BackupConfig, place: Path, backup: str, target: RecoveryTarget | None) -> RestorePlan:
    request = RecoveryRequest(target or LATEST)
    return plan_cluster_restore(
        config,
        backup,
        place / "planned",
        tablespaces={},
        recover=True,
        owner=None,
        request=request,
        job=Job(),
    )


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
