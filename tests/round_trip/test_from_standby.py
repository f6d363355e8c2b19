"""Backups whose files a standby sends: they restore, an idle primary is no trouble, and a promotion leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.errors import PreconditionError, TransientError
from pgproof.model.config import BackupType, ChangeDetection, VerifyLevel
from pgproof.model.source_files import SIGNAL_FILES
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import SLOW, FrontDoors, pg_amcheck
from tests.support import machine
from tests.support.postgres import STREAM_USER, Cluster, ClusterFactory

FULL, INCREMENTAL = BackupType.FULL, BackupType.INCREMENTAL


@contextmanager
def standby_of(primary: Cluster) -> Iterator[Cluster]:
    """A streaming standby, made by PostgreSQL's own program."""
    place = machine.new_dir("standby", owned_by_service=True) / "data"
    options = ["--checkpoint=fast", "--write-recovery-conf", f"--pgdata={place}"]
    machine.run([str(primary.bin / "pg_basebackup"), *options], **primary.libpq_environment())
    with Cluster.adopt(place, primary.major, settings={"hot_standby": True}) as standby:
        caught_up(primary, standby)
        yield standby


def caught_up(primary: Cluster, standby: Cluster) -> None:
    there = primary.psql("SELECT pg_current_wal_lsn()")
    query = f"SELECT pg_last_wal_replay_lsn() >= '{there}'::pg_lsn"
    machine.wait_until(lambda: standby.psql(query) == "t", "the standby to catch up")


def beside(doors: FrontDoors, standby: Cluster) -> dict[str, object]:
    """The primary is reached over TCP in these tests, so that host and port are all that differs."""
    return {"standby": f"127.0.0.1:{standby.port}"}


@pytest.mark.parametrize("major", [15, 18])
def test_a_standby_sends_what_restores(
    major: int, cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    """The primary does nothing at all meanwhile: its last segment has to be ended for the backup (E2)."""
    primary = cluster_factory(major)
    primary.psql("CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g")
    primary.psql("CREATE UNLOGGED TABLE gone AS SELECT 1")
    primary.psql(f"GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {STREAM_USER}")
    with standby_of(primary) as standby:
        doors = front_doors(primary, postgres=primary.tcp_config())
        full = doors.backup(**beside(doors, standby))
        primary.psql("DELETE FROM facts WHERE g % 3 = 0")
        caught_up(primary, standby)
        info = doors.backup(INCREMENTAL, change_detection=ChangeDetection.SUMMARIES, **beside(doors, standby))
    assert (info.parent_id, info.change_detection, info.status) == (full.backup_id, "compare", "ok")
    kinds = {finding.kind for finding in info.findings}
    assert {"standby", "summaries-not-used"} <= kinds
    manifest = open_repository(doors.config).read_manifest(info.backup_id)
    assert manifest is not None and manifest.standby is not None
    assert manifest.standby.lag_bytes < 1 << 20 and str(standby.port) in manifest.standby.host
    paths = {
        entry.path for segment in open_repository(doors.config).segments(manifest) for entry in segment.files
    }
    assert not paths & SIGNAL_FILES
    assert doors.verify(info.backup_id, VerifyLevel.START).proven
    doors.restore(info.backup_id, work_dir / "restored")
    with Cluster.adopt(work_dir / "restored", major) as restored:
        machine.wait_until(lambda: restored.psql("SELECT pg_is_in_recovery()") == "f", "promotion")
        rows = "SELECT count(*), sum(g), sum(hashtext(md5)) FROM facts"
        assert restored.psql(rows) == primary.psql(rows)
        assert restored.psql("SELECT count(*) FROM gone") == "0"
        pg_amcheck(restored)


def test_a_standby_that_is_behind_or_none_is_refused(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    primary = cluster_factory()
    with standby_of(primary) as standby:
        doors = front_doors(primary, postgres=primary.tcp_config())
        standby.psql("SELECT pg_wal_replay_pause()")
        primary.psql("CREATE TABLE facts AS SELECT g FROM generate_series(1, 100000) g")
        with pytest.raises(PreconditionError, match="too far behind") as refused:
            doors.backup(max_standby_lag_mb=1, **beside(doors, standby))
        assert refused.value.context["lag_bytes"] > 1_000_000 and "--max-standby-lag" in refused.value.hint
        with pytest.raises(PreconditionError, match="is none"):
            doors.backup(standby=f"127.0.0.1:{primary.port}")
    assert doors.backups() == []


def test_a_promotion_leaves_no_backup(cluster_factory: ClusterFactory, front_doors: OpenDoors) -> None:
    primary = cluster_factory()
    with standby_of(primary) as standby:
        doors = front_doors(primary, postgres=primary.tcp_config())
        with pytest.raises(TransientError) as ended:
            with doors.backup_under_way(max_rate=SLOW, **beside(doors, standby)) as running:
                standby.psql("SELECT pg_promote()")
            running.result()
        print(ended.value)
        assert ended.value.hint
        assert doors.backups() == []
        assert standby.psql("SELECT count(*) FROM pg_replication_slots") == "0"
