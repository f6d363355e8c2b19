"""The front door for restores."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pgproof.actions.find_damage import find_damage
from pgproof.actions.restore_cluster import plan_cluster_restore, restore_cluster
from pgproof.backup import BackupManager
from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.damage_question import Question
from pgproof.model.harm import DamageReport
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import EVERYTHING, RecoveryRequest, Standby
from pgproof.model.recovery_target import RecoveryTarget, parse_time, target_from
from pgproof.model.relation_names import NamesFrom
from pgproof.model.report import ProgressCallback, RestoreReport, no_progress
from pgproof.model.restore_plan import RestorePlan
from pgproof.postgres.standby import primary_conninfo
from pgproof.waiting import in_thread

__all__ = [
    "DamageReport",
    "NamesFrom",
    "RecoveryManager",
    "RecoveryRequest",
    "RecoveryTarget",
    "RestorePlan",
    "RestoreReport",
    "Standby",
    "target_from",
]


class RecoveryManager:
    """Restores from the repository of a BackupManager; errors and cancelling as there."""

    def __init__(self, postgres: PostgresConfig, backup_manager: BackupManager) -> None:
        self.postgres = postgres
        self.backups = backup_manager

    def standby(self, primary: str | None = None, slot: str | None = None) -> Standby:
        """A standby of `primary`, a connection string without a password; by default of the configured server."""
        return Standby(primary_conninfo(primary, self.postgres), slot or "")

    async def plan_restore(
        self,
        backup_id: str | None,
        data_dir: str | Path,
        *,
        tablespaces: Mapping[str, str] | None = None,
        recover: bool = True,
        owner: str | None = None,
        request: RecoveryRequest = EVERYTHING,
        progress: ProgressCallback = no_progress,
    ) -> RestorePlan:
        """What `restore_cluster` would do, after the same checks; writes nothing."""
        config, moved = self.backups.config, tablespaces or {}
        return await in_thread(
            lambda job: plan_cluster_restore(
                config,
                backup_id,
                data_dir,
                tablespaces=moved,
                recover=recover,
                owner=owner,
                request=request,
                job=job,
            ),
            progress,
        )

    async def restore_cluster(
        self,
        backup_id: str | None,
        data_dir: str | Path,
        *,
        tablespaces: Mapping[str, str] | None = None,
        recover: bool = True,
        owner: str | None = None,
        request: RecoveryRequest = EVERYTHING,
        progress: ProgressCallback = no_progress,
    ) -> RestoreReport:
        """Restore a whole cluster into a missing or empty directory.

        `backup_id` may be "latest"; None picks the backup that leads to the target. `tablespaces` maps old
        locations to new ones. With `recover` the cluster is recovered to the target of `request` (by default
        all WAL that there is) and shut down cleanly; `owner` is the operating system user it belongs to, when
        we are root.
        """
        config, moved = self.backups.config, tablespaces or {}
        return await in_thread(
            lambda job: restore_cluster(
                config,
                backup_id,
                data_dir,
                tablespaces=moved,
                recover=recover,
                owner=owner,
                request=request,
                job=job,
            ),
            progress,
        )

    async def point_in_time_recovery(
        self,
        target_time: datetime | str | None = None,
        *,
        data_dir: str | Path | None = None,
        target_lsn: Lsn | str | None = None,
        target_xid: int | str | None = None,
        target_name: str | None = None,
        inclusive: bool = True,
        timeline: int | None = None,
        backup_id: str | None = None,
        tablespaces: Mapping[str, str] | None = None,
        owner: str | None = None,
        delta: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> RestoreReport:
        """Restore the cluster as it was at a point of time into `data_dir`; without a target, as far as possible.

        A time without a zone is local. The right backup is picked unless `backup_id` names one. Raises
        PreconditionError for a point that cannot be reached, before anything is written, saying what can be.
        """
        target = target_from(
            time=target_time, lsn=target_lsn, xid=target_xid, name=target_name, inclusive=inclusive
        )
        if data_dir is None:
            raise PreconditionError(
                "restoring a database into the running server is not available in this version",
                hint="it comes with logical restores; restore the whole cluster: name a directory with data_dir= "
                "(on the command line --data-dir DIR)",
            )
        request = RecoveryRequest(target, timeline, delta=delta)
        return await self.restore_cluster(
            backup_id,
            data_dir,
            tablespaces=tablespaces,
            owner=owner,
            request=request,
            progress=progress,
        )

    async def find_damage(
        self,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        *,
        min_rows: int = 1000,
        timeline: int | None = None,
        names: NamesFrom | str = NamesFrom.AUTO,
        progress: ProgressCallback = no_progress,
    ) -> DamageReport:
        """The committed transactions that dropped, truncated, deleted or updated much, and where each is undone.

        Times as in `point_in_time_recovery`; by default the last 24 hours. Names are asked of the configured
        server, and of a backup for what the server does not know any more.
        """
        question = Question(_time(since), _time(until), min_rows, timeline, NamesFrom(names))
        postgres, config = self.postgres, self.backups.config
        return await in_thread(lambda job: find_damage(postgres, config, question, job), progress)


def _time(given: datetime | str | None) -> datetime | None:
    """In UTC; raises PreconditionError for what is no time, or not a single one."""
    return parse_time(given.isoformat() if isinstance(given, datetime) else given) if given else None
