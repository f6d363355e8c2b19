"""The engine as a user calls it: one cluster, one repository, and calls that wait for their end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgproof.actions.opening import open_repository
from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig, VerifyLevel
from pgproof.model.report import (
    BackupInfo,
    Progress,
    ProgressCallback,
    RestoreReport,
    VerificationReport,
    no_progress,
)
from pgproof.model.source_files import SERVER_MANIFEST
from pgproof.recovery import RecoveryManager
from pgproof.repository.catalog import find_backup
from pgproof.repository.content import Content
from tests.support import machine
from tests.support.postgres import Cluster, find_bin

PASSPHRASE = "a passphrase for round trips"
SLOW = 512  # kilobytes a second: a backup of an empty cluster then takes the better part of a minute


class FrontDoors:
    """Backups of `cluster` into a repository; `changes` of a call replace fields of the configuration."""

    def __init__(
        self, cluster: Cluster, config: BackupConfig, postgres: PostgresConfig | None = None
    ) -> None:
        self.cluster = cluster
        self.postgres = postgres or cluster.config()
        self.config = replace(config, bin_dir=str(find_bin(cluster.major)), passphrase=PASSPHRASE)

    def manager(self, **changes: Any) -> BackupManager:
        return BackupManager(self.postgres, replace(self.config, **changes))

    def init(self) -> None:
        asyncio.run(self.manager().init_repository())

    def backup(
        self,
        backup_type: BackupType = BackupType.FULL,
        *,
        progress: ProgressCallback = no_progress,
        **changes: Any,
    ) -> BackupInfo:
        return asyncio.run(self.manager(**changes).create_backup(backup_type, progress=progress))

    def backups(self, **changes: Any) -> list[str]:
        """The ids of all listed backups."""
        return [info.backup_id for info in asyncio.run(self.manager(**changes).list_backups())]

    def verify(
        self, backup_id: str, level: VerifyLevel = VerifyLevel.START, **changes: Any
    ) -> VerificationReport:
        return asyncio.run(self.manager(**changes).verify_backup(backup_id, level))

    def restore(
        self, backup_id: str, data_dir: Path, *, cluster: str = "main", **options: Any
    ) -> RestoreReport:
        recovery = RecoveryManager(self.postgres, self.manager(cluster=cluster))
        return asyncio.run(recovery.restore_cluster(backup_id, data_dir, **options))

    @contextmanager
    def backup_under_way(self, **changes: Any) -> Iterator[Future[BackupInfo]]:
        """A slow backup that has begun to send its files; leaving the block waits for it."""
        copying = threading.Event()

        def watch(progress: Progress) -> None:
            if progress.phase == "copying":
                copying.set()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.backup, progress=watch, **{"max_rate": SLOW, **changes})
            running.add_done_callback(lambda _: copying.set())
            assert copying.wait(60), "the backup did not begin"
            yield running

    def server_manifest(self, backup_id: str) -> bytes:
        """backup_manifest as the server sent it, which a restore leaves out."""
        repository = open_repository(self.config)
        manifest = find_backup(repository, backup_id)
        found = [
            Content(repository).read(segment, entry, manifest.block_size)
            for segment in repository.segments(manifest)
            for entry in segment.files
            if entry.path == SERVER_MANIFEST
        ]
        (content,) = found
        return content


def pg_verifybackup(cluster: Cluster, data_dir: Path, server_manifest: bytes) -> None:
    """Let PostgreSQL's own program compare every file and read the WAL. Raises RuntimeError for a difference."""
    path = machine.new_dir("manifest") / "backup_manifest"
    path.write_bytes(server_manifest)
    # A restore writes tablespace_map anew, and leaves it out where there is no tablespace.
    options = ["--quiet", f"--manifest-path={path}", "--ignore=tablespace_map"]
    machine.run([str(cluster.bin / "pg_verifybackup"), *options, str(data_dir)])


def pg_amcheck(cluster: Cluster) -> None:
    """Check every index and table of every database. Raises RuntimeError naming what is corrupt."""
    options = ["--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend"]
    cluster.run("pg_amcheck", *options, "--jobs=2", dbname="postgres")


def pg_checksums(cluster: Cluster, data_dir: Path) -> None:
    """Check every page of a cluster that is shut down."""
    machine.run([str(cluster.bin / "pg_checksums"), "--check", f"--pgdata={data_dir}"])
