"""archive_command on real servers: what the server was told is archived is in the repository, byte for byte."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupConfig
from pgproof.model.lsn import WalSegment
from pgproof.model.wal_commands import archive_command, as_setting
from pgproof.repository.wal_archive import WalArchive
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory
from tests.wal.places import client, config_file, make_segments, program, repository_of, workers_of

_SETTINGS = {"archive_mode": True, "archive_command": "false", "wal_keep_size": "1GB"}


def archiving(cluster: Cluster, config: BackupConfig, work_dir: Path, *options: str) -> None:
    """Let the server archive with us, through a resident worker that its own user starts."""
    path = config_file(config, work_dir / "config.toml")
    start = program(["wal", "worker", "--config", str(path), *options])
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
