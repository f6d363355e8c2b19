"""archive_command on real servers: what the server was told is archived is in the repository, byte for byte."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.lsn import WalSegment
from pgproof.model.wal_commands import archive_command, as_setting
from pgproof.model.wal_names import StoredRange
from pgproof.repository.wal_archive import WalArchive
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.s3 import S3Server
from tests.wal.places import client, config_file, make_segments, program, repository_of, workers_of

_SETTINGS = {"archive_mode": True, "archive_command": "false", "wal_keep_size": "1GB"}


def archiving(
    cluster: Cluster, config: BackupConfig, work_dir: Path, *options: str, before: Sequence[str] = ()
) -> None:
    """Let the server archive with us, through a resident worker that its own user starts."""
    path = config_file(config, work_dir / "config.toml")
    start = [*before, *program(["wal", "worker", "--config", str(path), *options])]
    line = archive_command(client(), start)
    with (cluster.config_dir / "postgresql.conf").open("a") as file:
        file.write(f"archive_command = {as_setting(line)}\n")
    cluster.psql("SELECT pg_reload_conf()")


def archived(cluster: Cluster) -> str:
    return cluster.psql("SELECT last_archived_wal FROM pg_stat_archiver")


@pytest.mark.parametrize("ahead", ["0", "3"])
def test_what_is_archived_is_in_the_repository(
    cluster_factory: ClusterFactory, work_dir: Path, ahead: str
) -> None:
    cluster = cluster_factory(18, initdb_args=["--wal-segsize=1"], settings=_SETTINGS)
    config = repository_of(cluster, work_dir / "repo")
    last = make_segments(cluster, 12)
    archiving(cluster, config, work_dir, "--ahead", ahead)
    machine.wait_until(lambda: archived(cluster) >= last, "the last segment to be archived", 60)
    (worker,) = workers_of(cluster.data_dir)
    archive = WalArchive.open(open_repository(config))
    stored = [each for each in archive.inventory(1).pieces if each.range.segment.name <= last]
    assert len(stored) >= 12
    for each in stored:
        path = cluster.data_dir / "pg_wal" / each.range.name
        if path.exists():
            read = archive.read_segment(each.range.segment, [each])
            assert read is not None
            assert read.data == path.read_bytes()
    (run,) = [
        s
        for s in archive.inventory(1).coverage().of_timeline(1)
        if s.end.value >= stored[-1].range.segment.end.value
    ]
    assert run.end >= WalSegment.parse(last, 1 << 20).end
    # Killed, it is followed by another one, and nothing is lost.
    os.kill(worker, signal.SIGKILL)
    last = make_segments(cluster, 3)
    machine.wait_until(lambda: archived(cluster) >= last, "the segments after the kill", 60)
    assert workers_of(cluster.data_dir) != {worker}
    cluster.stop()
    machine.wait_until(lambda: not workers_of(cluster.data_dir), "the worker to follow its server")


def failed(cluster: Cluster) -> str:
    return cluster.psql("SELECT last_failed_wal FROM pg_stat_archiver")


def test_a_conflicting_segment_is_refused_and_kept_by_the_server(
    cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    cluster = cluster_factory(18, initdb_args=["--wal-segsize=1"], settings=_SETTINGS)
    config = repository_of(cluster, work_dir / "repo")
    last = make_segments(cluster, 2)
    other = bytearray((cluster.data_dir / "pg_wal" / last).read_bytes())
    other[-1] ^= 1
    archive = WalArchive.open(open_repository(config))
    segment = WalSegment.parse(last, 1 << 20)
    archive.create(StoredRange(segment, 0, segment.size), bytes(other), 3)
    machine.give_to_service(work_dir / "repo")
    archiving(cluster, config, work_dir)
    machine.wait_until(lambda: failed(cluster) == last, "the conflict to be met", 60)
    assert archived(cluster) < last
    assert (cluster.data_dir / "pg_wal" / "archive_status" / f"{last}.ready").exists()
    machine.wait_until(
        lambda: "a different WAL segment is stored" in cluster.log_tail(), "the reason in the log"
    )
    read = archive.read_segment(segment, archive.pieces_of(segment))
    assert read is not None and read.data == bytes(other)
    assert cluster.running and cluster.psql("SELECT 1") == "1"


def test_workers_that_are_killed_at_storage_points_lose_nothing(
    cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    cluster = cluster_factory(17, initdb_args=["--wal-segsize=1"], settings=_SETTINGS)
    config = repository_of(cluster, work_dir / "repo")
    last = make_segments(cluster, 9)
    rules = ",".join(f"bucket.create.wal.{step}@3=kill" for step in ("before", "staged", "after"))
    # Ahead of the server's asking a worker would meet its third create before anything is acknowledged.
    killing = ["/usr/bin/env", f"PGPROOF_FAILPOINTS={rules}"]
    archiving(cluster, config, work_dir, "--ahead", "0", before=killing)
    machine.wait_until(lambda: archived(cluster) >= last, "the last segment to be archived", 90)
    archive = WalArchive.open(open_repository(config))
    pieces = [each for each in archive.inventory(1).pieces if each.range.name <= last]
    assert not archive.inventory(1).coverage().gaps(1)
    for each in pieces:
        path = cluster.data_dir / "pg_wal" / each.range.name
        assert not path.exists() or b"".join(archive.plain(each)) == path.read_bytes()


def test_a_store_that_stops_is_waited_for(
    cluster_factory: ClusterFactory, work_dir: Path, s3: S3Server
) -> None:
    cluster = cluster_factory(15, initdb_args=["--wal-segsize=1"], settings=_SETTINGS)
    config = s3.backup_config(
        s3_bucket=s3.make_bucket("archiving"), passphrase="of the test", bin_dir=str(cluster.bin)
    )
    asyncio.run(BackupManager(cluster.config(), config).init_repository())
    asyncio.run(BackupManager(cluster.config(), config).create_backup(BackupType.FULL))
    archiving(cluster, config, work_dir)
    first = make_segments(cluster, 2)
    machine.wait_until(lambda: archived(cluster) >= first, "the first segments", 60)
    s3.kill9()
    last = make_segments(cluster, 4)
    assert cluster.psql("SELECT 1") == "1"
    assert archived(cluster) < last
    s3.start()
    machine.wait_until(lambda: archived(cluster) >= last, "what waited for the store", 120)
    archive = WalArchive.open(open_repository(config))
    stored = {each.range.name: each for each in archive.inventory(1).pieces}
    assert b"".join(archive.plain(stored[last])) == (cluster.data_dir / "pg_wal" / last).read_bytes()
