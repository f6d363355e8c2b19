"""The front door for restores. Each method imports the action that it needs, and not those of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pgproof.backup import BackupManager
from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.damage_question import Question
from pgproof.model.database_restore import (
    AS_IT_WAS,
    BuildOptions,
    CloneRequest,
    DatabasePlan,
    DatabaseReport,
    DatabaseRequest,
)
from pgproof.model.harm import DamageReport
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import EVERYTHING, RecoveryRequest, Standby
from pgproof.model.recovery_target import RecoveryTarget, TargetKind, parse_time, target_from
from pgproof.model.relation_names import NamesFrom
from pgproof.model.report import ProgressCallback, RestoreReport, no_progress
from pgproof.model.rescue_request import RescueRequest
from pgproof.model.restore_plan import RestorePlan
from pgproof.model.table_names import TableName, parse_table_name
from pgproof.model.table_rescue import Merge, MergeReport, RescueReport, TableComparison
from pgproof.waiting import in_thread

__all__ = [
    "BuildOptions",
    "DamageReport",
    "DatabasePlan",
    "DatabaseReport",
    "Merge",
    "MergeReport",
    "NamesFrom",
    "RecoveryManager",
    "RecoveryRequest",
    "RecoveryTarget",
    "RescueReport",
    "RestorePlan",
    "RestoreReport",
    "Standby",
    "TableComparison",
    "target_from",
]


class RecoveryManager:
    """Restores from the repository of a BackupManager; errors and cancelling as there."""

    def __init__(self, postgres: PostgresConfig, backup_manager: BackupManager) -> None:
        self.postgres = postgres
        self.backups = backup_manager

    def standby(self, primary: str | None = None, slot: str | None = None) -> Standby:
        """A standby of `primary`, a connection string without a password; by default of the configured server."""
        from pgproof.postgres.standby import primary_conninfo

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
        from pgproof.actions.restore_cluster import plan_cluster_restore

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
        planned: Callable[[RestorePlan], None] = lambda _plan: None,
        progress: ProgressCallback = no_progress,
    ) -> RestoreReport:
        """Restore a whole cluster into a missing or empty directory.

        `backup_id` may be "latest"; None picks the backup that leads to the target. `tablespaces` maps old
        locations to new ones. With `recover` the cluster is recovered to the target of `request` (by default
        all WAL that there is) and shut down cleanly; `owner` is the operating system user it belongs to, when
        we are root. `planned` is told, by the thread that restores, what will be done, before anything is.
        """
        from pgproof.actions.unlocking import begin_unlocking

        config, moved = self.backups.config, tablespaces or {}
        # With a mirror, which of the two is unlocked is seen later.
        unlocking = None if config.mirror_bucket else begin_unlocking(config)
        from pgproof.actions.restore_cluster import restore_cluster

        return await self.backups.run_recorded(
            "restore",
            lambda job: restore_cluster(
                config,
                backup_id,
                data_dir,
                tablespaces=moved,
                recover=recover,
                owner=owner,
                request=request,
                job=job,
                unlocking=unlocking,
                planned=planned,
            ),
            lambda report: f"{report.backup_id} to {report.data_dir}, {report.target}",
            asked=f"{backup_id or 'a backup'} to {data_dir}",
            progress=progress,
        )

    async def plan_database_restore(
        self,
        backup_id: str | None,
        target_database: str | None = None,
        *,
        progress: ProgressCallback = no_progress,
        **wanted: Any,
    ) -> DatabasePlan:
        """What `restore_database` would do, after the checks that can be made beforehand; takes the same."""
        from pgproof.actions.restore_database import plan_database_restore

        request = self._request(backup_id, target_database, **wanted)
        to, config = wanted.get("to") or self.postgres, self.backups.config
        return await in_thread(lambda job: plan_database_restore(to, config, request, job), progress)

    async def restore_database(
        self,
        backup_id: str | None,
        target_database: str | None = None,
        *,
        database: str | None = None,
        to: PostgresConfig | None = None,
        request: RecoveryRequest = EVERYTHING,
        clean: bool = True,
        drop_old: bool = False,
        options: BuildOptions = AS_IT_WAS,
        progress: ProgressCallback = no_progress,
    ) -> DatabaseReport:
        """Restore one database of a backup into the running server, or into that of `to`.

        `database` is its name in the backup, by default the configured one; `target_database` what it will be called.
        One of that name is replaced when the new one is complete, and kept under a dated name unless `drop_old`; without
        `clean` it stays, and gets what it lacks. Broken off at any point, this leaves the old one as it was. Raises
        ConflictError while others are connected to it, unless the options say `disconnect`.
        """
        from pgproof.actions.restore_database import restore_database

        wanted = self._request(
            backup_id,
            target_database,
            database=database,
            request=request,
            clean=clean,
            drop_old=drop_old,
            options=options,
        )
        postgres, config = to or self.postgres, self.backups.config
        return await self.backups.run_recorded(
            "restore --target",
            lambda job: restore_database(postgres, config, wanted, job),
            lambda report: f"{report.source} to {report.target} on {report.server}",
            asked=f"{wanted.database} to {wanted.target}",
            progress=progress,
        )

    async def clone_database(
        self,
        source: str,
        target: str,
        *,
        to: PostgresConfig | None = None,
        fast: bool = False,
        mask: str | Path | None = None,
        request: RecoveryRequest | None = None,
        backup_id: str | None = None,
        options: BuildOptions = AS_IT_WAS,
        progress: ProgressCallback = no_progress,
    ) -> DatabaseReport:
        """Copy the database `source` of the configured server as `target`, to the same server or that of `to`.

        With `request` or `backup_id` it is copied out of a backup, as it was then. `fast` copies files and needs the
        source without connections. `mask` is a file of SQL that runs in the copy before anybody can connect; if it
        fails there is no copy. Subscriptions are left out. Raises PreconditionError if there is a `target`.
        """
        from pgproof.actions.clone_database import clone_database
        from pgproof.actions.restore_database import restore_database

        options = replace(options, subscriptions=False, mask=Path(mask).absolute() if mask else options.mask)
        postgres, config = self.postgres, self.backups.config
        if request is None and backup_id is None:
            wanted = CloneRequest(source, target, fast, options)
            return await self.backups.run_recorded(
                "clone",
                lambda job: clone_database(postgres, to or postgres, config, wanted, job),
                asked=f"{source} to {target}",
                apart=True,
                progress=progress,
            )
        if fast:
            raise PreconditionError(
                "a fast clone copies what the server holds now",
                hint="leave out --fast, or the recovery target",
            )
        past = DatabaseRequest(source, target, backup_id, request or EVERYTHING, new=True, options=options)
        return await self.backups.run_recorded(
            "clone",
            lambda job: restore_database(to or postgres, config, past, job),
            asked=f"{source} to {target}",
            progress=progress,
        )

    def _request(
        self,
        backup_id: str | None,
        target: str | None,
        *,
        database: str | None = None,
        to: PostgresConfig | None = None,
        request: RecoveryRequest = EVERYTHING,
        clean: bool = True,
        drop_old: bool = False,
        options: BuildOptions = AS_IT_WAS,
    ) -> DatabaseRequest:
        source = database or self.postgres.database or target
        if not source:
            raise PreconditionError(
                "no database is named",
                hint="name one: database= or the one that is configured (--database, PGDATABASE)",
            )
        if backup_id is None and request.target is None:
            backup_id = "latest"
        name = source if target is None else target  # an empty one is a mistake, and not the database itself
        return DatabaseRequest(
            source, name, backup_id, request, clean=clean, drop_old=drop_old, options=options
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
        disconnect: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> RestoreReport | DatabaseReport:
        """Restore the cluster as it was at a point of time into `data_dir`; without a target, as far as possible.

        Without `data_dir` the configured database in the running server, as `restore_database` does. A time without a
        zone is local. The right backup is picked unless `backup_id` names one. Raises PreconditionError for a point
        that cannot be reached, before anything is written, saying what can be.
        """
        target = target_from(
            time=target_time, lsn=target_lsn, xid=target_xid, name=target_name, inclusive=inclusive
        )
        request = RecoveryRequest(target, timeline, delta=delta)
        if data_dir is None:
            if tablespaces or owner or delta:
                raise PreconditionError(
                    "tablespaces, an owner and delta are for whole clusters",
                    hint="leave them out, or name a directory with data_dir=",
                )
            if backup_id is None and target is None:
                # As far as WAL leads, and not what the newest dump holds.
                request = replace(request, target=RecoveryTarget(TargetKind.LATEST))
            return await self.restore_database(
                backup_id, request=request, options=BuildOptions(disconnect=disconnect), progress=progress
            )
        return await self.restore_cluster(
            backup_id,
            data_dir,
            tablespaces=tablespaces,
            owner=owner,
            request=request,
            progress=progress,
        )

    async def rescue_table(
        self,
        table: TableName | str,
        backup_id: str | None = None,
        *,
        request: RecoveryRequest = EVERYTHING,
        into: TableName | str | None = None,
        csv: str | Path | None = None,
        rows_shown: int = 10,
        progress: ProgressCallback = no_progress,
    ) -> RescueReport:
        """Bring `table` ("schema.table") of the configured database back, as it was at the target of `request`, under
        another name beside the live one, and compare the two.

        The live table is only read. `into` names the new table, `csv` a file for all differing rows; the report has
        the first `rows_shown` of each kind. The backup is picked as in `restore_cluster`.
        """
        from pgproof.actions.rescue_table import rescue_table

        name = _table(table)
        target = _table(into, name.schema) if into is not None else None
        wanted = RescueRequest(
            name, backup_id, request, target, Path(csv).absolute() if csv else None, rows_shown
        )
        postgres, config = self.postgres, self.backups.config
        return await self.backups.run_recorded(
            "restore --table",
            lambda job: rescue_table(postgres, config, wanted, job),
            asked=str(name),
            progress=progress,
        )

    async def compare_rescued(
        self,
        table: TableName | str,
        rescued: TableName | str,
        *,
        csv: str | Path | None = None,
        rows_shown: int = 10,
        progress: ProgressCallback = no_progress,
    ) -> TableComparison:
        """Compare a table that was rescued before with the live one, as it is now."""
        from pgproof.actions.rescued_rows import compare_rescued

        name, path = _table(table), Path(csv).absolute() if csv else None
        other = _table(rescued, name.schema)
        return await in_thread(
            lambda job: compare_rescued(self.postgres, name, other, job, csv=path, rows_shown=rows_shown),
            progress,
        )

    async def merge_rescued(
        self,
        table: TableName | str,
        rescued: TableName | str,
        merge: Merge | str,
        *,
        written_by: Sequence[int] = (),
        progress: ProgressCallback = no_progress,
    ) -> MergeReport:
        """Put rows of a rescued table back into the live one: "missing" rows, "changed" ones, or "both".

        One transaction, in which nobody else writes into the table. With `written_by` only changed rows that one
        of these transactions wrote last. Raises PreconditionError, and merges nothing, where a row would violate a
        constraint.
        """
        from pgproof.actions.rescued_rows import merge_rescued

        name, kind = _table(table), Merge(merge)
        other = _table(rescued, name.schema)
        return await self.backups.run_recorded(
            "restore --table --merge",
            lambda job: merge_rescued(self.postgres, name, other, kind, job, written_by=written_by),
            asked=f"{kind} rows of {other} into {name}",
            apart=True,
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
        from pgproof.actions.find_damage import find_damage

        question = Question(_time(since), _time(until), min_rows, timeline, NamesFrom(names))
        postgres, config = self.postgres, self.backups.config
        return await in_thread(lambda job: find_damage(postgres, config, question, job), progress)


def _table(given: TableName | str, schema: str = "") -> TableName:
    return given if isinstance(given, TableName) else parse_table_name(given, schema)


def _time(given: datetime | str | None) -> datetime | None:
    """In UTC; raises PreconditionError for what is no time, or not a single one."""
    return parse_time(given.isoformat() if isinstance(given, datetime) else given) if given else None
