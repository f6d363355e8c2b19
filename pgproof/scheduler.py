"""The front door for schedules: the whole service of one cluster, for as long as it is awaited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgproof.backup import BackupManager
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.service import ServiceOptions

if TYPE_CHECKING:
    from pgproof.actions.run_service import ServiceNews

__all__ = ["BackupScheduler", "ServiceOptions"]


class BackupScheduler:
    """Takes backups of one cluster by its schedules, proves and cleans them up, and streams its WAL.

    The intervals are those of the manager's configuration (`full_backup_interval`, `differential_interval`,
    `incremental_interval`), the rest is in prefect.yaml. `replication` names the replicas that are watched, by default those
    of the environment. It needs a checkout, because the flows are there.
    """

    def __init__(
        self,
        backup_manager: BackupManager,
        options: ServiceOptions | None = None,
        replication: ReplicationConfig | None = None,
    ) -> None:
        self.backup_manager = backup_manager
        self.options = options or ServiceOptions()
        self.replication = replication or ReplicationConfig.from_env()

    async def run(self, started: Callable[[ServiceNews], None] | None = None) -> None:
        """Run the service until this call is cancelled; then nothing of it is left running.

        A configured Prefect API (PREFECT_API_URL or the active profile) is used, else a server of its own is started. `started`
        is called when all is up. Raises ConflictError if this cluster has a service on this machine already, and
        PreconditionError where something must be changed first. To be awaited in the main thread: its children are
        ended when the thread that started them ends.
        """
        from pgproof.actions.run_service import run_service
        from pgproof.model.wal_stream import StreamOptions

        manager = self.backup_manager
        await run_service(
            manager.postgres,
            manager.config,
            self.replication,
            self.options,
            lambda: manager.stream_wal(StreamOptions(create_slot=True)),
            started or (lambda _news: None),
        )
