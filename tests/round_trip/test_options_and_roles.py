"""What a backup can be asked for, who may take one, and what may be done with what is restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import VerifyLevel
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors
from tests.support.fingerprint import fingerprint
from tests.support.postgres import STREAM_USER, Cluster, ClusterFactory


def test_a_role_with_nothing_but_replication_is_enough(
    pg18: Cluster, front_doors: OpenDoors, work_dir: Path
) -> None:
    rights = f"SELECT rolsuper, rolreplication FROM pg_roles WHERE rolname = '{STREAM_USER}'"
    assert pg18.psql(rights) == "f|t"
    doors = front_doors(pg18, postgres=pg18.tcp_config())
    info = doors.backup()
    assert info.status == "ok"
    # It says what it could not see, and what would let it.
    (finding,) = [finding for finding in info.findings if finding.kind == "external-config"]
    assert "pg_read_all_settings" in finding.message

    doors.restore(info.backup_id, work_dir / "restored")
    with Cluster.adopt(work_dir / "restored") as restored:
        assert fingerprint(restored.connect) == fingerprint(pg18.connect)


def test_a_role_that_may_connect_to_no_database_is_enough(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    source = cluster_factory(hba=[f"host all {STREAM_USER} all reject"])
    doors = front_doors(source, postgres=source.tcp_config())
    info = doors.backup()
    assert info.status == "ok"
    assert "no-ordinary-connection" in {finding.kind for finding in info.findings}
    assert doors.verify(info.backup_id).proven


def test_a_restored_cluster_is_backed_up_under_a_name_of_its_own(
    pg18: Cluster, front_doors: OpenDoors, work_dir: Path
) -> None:
    doors = front_doors(pg18)
    original = doors.backup()
    doors.restore(original.backup_id, work_dir / "first")
    with Cluster.adopt(work_dir / "first") as restored:
        restored.psql("CREATE TABLE later AS SELECT generate_series(1, 10) AS n", "app")
        info = FrontDoors(restored, doors.config).backup(cluster="restored")
        changed = fingerprint(restored.connect)
    assert (info.timeline, info.system_identifier) == (2, original.system_identifier)
    assert doors.backups() == [original.backup_id]
    assert doors.backups(cluster="restored") == [info.backup_id]

    doors.restore(info.backup_id, work_dir / "second", cluster="restored")
    with Cluster.adopt(work_dir / "second") as restored:
        assert fingerprint(restored.connect) == changed
    # It knows where it comes from, and whoever restores to a point in time will have to.
    history = (work_dir / "second" / "pg_wal" / "00000003.history").read_text()
    assert [line.split()[0] for line in history.splitlines() if line] == ["1", "2"]


def test_two_clusters_on_one_timeline_do_not_mix_their_wal(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    doors = front_doors(cluster_factory())
    original = doors.backup()
    for name in ("one", "two"):
        doors.restore(original.backup_id, work_dir / name)
    one, two = (FrontDoors(cluster_factory.adopt(work_dir / name), doors.config) for name in ("one", "two"))
    one.cluster.psql("CREATE TABLE mine AS SELECT 1 AS n")
    info = one.backup()
    with pytest.raises(ConflictError, match="a different WAL segment") as refused:
        two.backup()
    assert "--cluster" in refused.value.hint
    assert doors.backups() == [original.backup_id, info.backup_id]
    assert doors.verify(info.backup_id).proven


def test_another_cluster_is_refused_under_the_same_name(
    pg18: Cluster, pg17: Cluster, front_doors: OpenDoors
) -> None:
    doors = front_doors(pg18)
    info = doors.backup()
    with pytest.raises(PreconditionError, match="another cluster than the one backed up here"):
        FrontDoors(pg17, doors.config).backup()
    assert doors.backups() == [info.backup_id]


def test_backups_in_one_repository_differ_in_nothing_but_their_packs(
    pg15: Cluster, front_doors: OpenDoors, work_dir: Path
) -> None:
    doors = front_doors(pg15)
    kinds: dict[str, dict[str, Any]] = {
        "stored as it is": {"compression": False},
        "quick": {"compression_level": 1},
        "small": {"compression_level": 9},
    }
    stored = {}
    before = fingerprint(pg15.connect)
    for kind, options in kinds.items():
        info = doors.backup(**options)
        stored[kind] = info.stored_bytes
        assert doors.verify(info.backup_id, VerifyLevel.FRAMES).ok
        doors.restore(info.backup_id, work_dir / kind)
        with Cluster.adopt(work_dir / kind, 15) as restored:
            assert fingerprint(restored.connect) == before
    assert stored["small"] < stored["quick"] < stored["stored as it is"]


def test_the_server_is_told_how_fast_it_may_send(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    source = cluster_factory(settings={"log_replication_commands": True})
    doors = front_doors(source)
    doors.backup()
    assert "MAX_RATE" not in source.log.read_text()
    doors.backup(max_rate=30_000, fast_checkpoint=False)
    log = source.log.read_text().splitlines()
    (command,) = [line for line in log if "received replication command" in line and "MAX_RATE" in line]
    assert "MAX_RATE 30000" in command and "CHECKPOINT 'spread'" in command


def test_a_standby_is_refused(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    primary = cluster_factory()
    copy = work_dir / "standby"
    doors = front_doors(primary)
    doors.restore(doors.backup().backup_id, copy, recover=False)
    (copy / "recovery.signal").rename(copy / "standby.signal")
    standby = cluster_factory.adopt(copy, settings={"hot_standby": True})
    assert standby.psql("SELECT pg_is_in_recovery()") == "t"

    listed = doors.backups()
    with pytest.raises(PreconditionError, match="standby") as refused:
        FrontDoors(standby, doors.config).backup()
    assert "primary" in refused.value.hint
    assert doors.backups() == listed
