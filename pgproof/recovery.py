"""The front door for restores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pgproof.actions.restore_cluster import plan_cluster_restore, restore_cluster
from pgproof.backup import BackupManager
from pgproof.model.config import PostgresConfig
from pgproof.model.report import ProgressCallback, RestoreReport, no_progress
from pgproof.model.restore_plan import RestorePlan
from pgproof.waiting import in_thread

__all__ = ["RecoveryManager", "RestorePlan", "RestoreReport"]


class RecoveryManager:
    """Restores from the repository of a BackupManager; errors and cancelling as there."""

    def __init__(self, postgres: PostgresConfig, backup_manager: BackupManager) -> None:
        self.postgres = postgres
        self.backups = backup_manager

    async def plan_restore(
        self,
        backup_id: str,
        data_dir: str | Path,
        *,
        tablespaces: Mapping[str, str] | None = None,
        recover: bool = True,
        owner: str | None = None,
    ) -> RestorePlan:
        """What `restore_cluster` would do, after the same checks; writes nothing."""
        config, moved = self.backups.config, tablespaces or {}
        return await in_thread(
            lambda _job: plan_cluster_restore(
                config, backup_id, data_dir, tablespaces=moved, recover=recover, owner=owner
            )
        )

    async def restore_cluster(
        self,
        backup_id: str,
        data_dir: str | Path,
        *,
        tablespaces: Mapping[str, str] | None = None,
        recover: bool = True,
        owner: str | None = None,
        progress: ProgressCallback = no_progress,
    ) -> RestoreReport:
        """Restore a whole cluster into a missing or empty directory.

        `backup_id` may be "latest". `tablespaces` maps old locations to new ones. With `recover` the cluster
        is recovered to the end of the backup and shut down cleanly; `owner` is the operating system user it
        belongs to, when we are root.
        """
        config, moved = self.backups.config, tablespaces or {}
        return await in_thread(
            lambda job: restore_cluster(
                config, backup_id, data_dir, tablespaces=moved, recover=recover, owner=owner, job=job
            ),
            progress,
        )
