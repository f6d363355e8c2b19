"""The front door for backups: what a flow, a script or the command line calls.

Each method imports what it needs: `pgproof list` must not wait for PostgreSQL's libraries.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pgproof.errors import EngineError
from pgproof.model.config import BackupConfig, BackupMethod, BackupType, PostgresConfig, VerifyLevel
from pgproof.model.report import (
    BackupInfo,
    Check,
    Finding,
    ProgressCallback,
    VerificationReport,
    no_progress,
)
from pgproof.waiting import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pgproof.actions.cleanup import PreparedCleanup
    from pgproof.actions.init_repository import InitReport
    from pgproof.actions.keep import KeepReport
    from pgproof.actions.mirror import MirrorReport
    from pgproof.actions.restore_point import RestorePoint
    from pgproof.actions.watch import Tell, Watched
    from pgproof.errors import DataError
    from pgproof.model.action_record import ActionRecord
    from pgproof.model.cleanup_report import CleanupReport
    from pgproof.model.drill import DrillReport, DrillRequest
    from pgproof.model.job import Job
    from pgproof.model.overview import Catalog, Overview
    from pgproof.model.source_fingerprint import SourceFingerprint
    from pgproof.model.wal_status import WalLimits, WalStatus
    from pgproof.model.wal_stream import StreamOptions, StreamReport
    from pgproof.repository.keyring import KeySlot

__all__ = [
    "BackupConfig",
    "BackupInfo",
    "BackupManager",
    "BackupMethod",
    "BackupType",
    "PostgresConfig",
    "VerificationReport",
    "VerifyLevel",
]


T = TypeVar("T")


class BackupManager:
    """Backups of one PostgreSQL cluster in one repository.

    Without `config` the environment configures the repository (`BACKUP_DIR`, `AWS_S3_BUCKET`, …); a passphrase
    that `config` leaves out is taken from `BACKUP_PASSPHRASE` or `BACKUP_PASSPHRASE_FILE`. Every
    method raises the errors of `pgproof.errors`: PreconditionError where something must be changed first,
    TransientError where the same call may succeed later, ConflictError and DataError. Cancelling a call stops
    the work and waits until it has cleaned up.
    """

    def __init__(self, postgres: PostgresConfig, config: BackupConfig | None = None) -> None:
        self.postgres = postgres
        self.config = (config or BackupConfig.from_env()).completed(os.environ)

    async def init_repository(self) -> InitReport:
        """Make the configured repository; the recovery key in the answer is told only now."""
        from pgproof.actions.init_repository import init_repository

        return await self.run_recorded(
            "init", lambda _job: init_repository(self.config), lambda made: made.location, apart=True
        )

    async def create_backup(
        self,
        backup_type: BackupType | None = None,
        *,
        method: BackupMethod | None = None,
        mirror: bool = True,
        progress: ProgressCallback = no_progress,
    ) -> BackupInfo:
        """Take a backup, by default of the configured type and method; it is whole and durable when this returns.

        Where a directory and a bucket are configured, the bucket is then given what it lacks. If that fails the
        error is raised although the backup exists; its context names it. Without `mirror` this is left to
        `copy_to_mirror`.
        """
        from pgproof.actions.unlocking import begin_unlocking

        kind = backup_type if backup_type is not None else self.config.backup_type
        config = self.config if method is None else replace(self.config, method=method)
        unlocking = begin_unlocking(config)
        from pgproof.actions.take_backup import take_backup

        info = await self.run_recorded(
            "create",
            lambda job: take_backup(self.postgres, config, kind, job, unlocking),
            lambda info: info.backup_id,
            asked=str(kind),
            unrecorded=_not_recorded,
            progress=progress,
        )
        if mirror and self.config.mirror_bucket:
            try:
                await self.copy_to_mirror(progress=progress)
            except EngineError as error:
                error.context["committed"] = info.backup_id
                raise
        return info

    async def copy_to_mirror(self, *, progress: ProgressCallback = no_progress) -> MirrorReport:
        """Copy to the configured bucket what it lacks of the directory; PreconditionError without a mirror."""
        from pgproof.actions.mirror import copy_to_mirror

        return await self.run_recorded(
            "mirror",
            lambda job: copy_to_mirror(self.config, job),
            lambda made: made.location,
            progress=progress,
        )

    async def list_backups(self, backup_type: BackupType | None = None) -> list[BackupInfo]:
        """All committed backups, oldest first; findings `local-only` and `mirror-only` where one copy is missing."""
        from pgproof.actions.mirror import list_copies

        return await in_thread(lambda _job: list_copies(self.config, backup_type))

    async def watch(self, *, notify: bool = False, tell: Tell | None = None) -> Watched:
        """How the backups stand, and what of the objectives is broken.

        With `tell`, or with `notify` through `notify_url`, what is new, due again or has recovered is told, each once. A
        repository that cannot be read is an answer here, and no error. Raises PreconditionError where nobody to tell
        is configured, and what `tell` does (TransientError): then it is told at the next look.
        """
        from pgproof.actions.notify import teller
        from pgproof.actions.watch import watch

        to = teller(self.config) if tell is None and notify else tell
        return await in_thread(lambda _job: watch(self.postgres, self.config, to))

    async def verify_backup(
        self,
        backup_id: str,
        level: VerifyLevel = VerifyLevel.START,
        *,
        against: str = "",
        against_source: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> VerificationReport:
        """Verify a backup (an id, a unique beginning of one, or "latest"); the report is stored beside it.

        With `against`, the LSN of fingerprints that `fingerprint_source` took, or "latest", a full verification
        recovers the backup to exactly that point and compares every table with the source's; `against_source` takes
        them first.
        """
        from pgproof.actions.verify_backup import refuse_comparison, verify_backup

        if against_source:
            refuse_comparison(level)
            against = str((await self.fingerprint_source(progress=progress)).lsn)
        return await in_thread(
            lambda job: verify_backup(self.config, backup_id, level, job, against=against), progress
        )

    async def drill(
        self, request: DrillRequest | None = None, *, progress: ProgressCallback = no_progress
    ) -> DrillReport:
        """Restore to a moment that is drawn, into a scratch place, time it and ask it everything; the report is kept.

        A drill that fails is a report that is not ok.
        """
        from pgproof.actions.drill import run_drill
        from pgproof.model.drill import DrillRequest

        chosen, database = request or DrillRequest(), self.postgres.database
        return await self.run_recorded(
            "drill",
            lambda job: run_drill(self.config, database, chosen, job),
            lambda report: f"{report.backup_id}, {report.target}: {report.failed_step or 'ok'}",
            progress=progress,
        )

    async def list_drills(self, limit: int | None = None) -> list[DrillReport]:
        """The newest `limit` drills, the newest first."""
        from pgproof.actions.drill import list_drills

        return await in_thread(lambda _job: list_drills(self.config, limit))

    async def fingerprint_source(
        self, databases: Sequence[str] = (), *, progress: ProgressCallback = no_progress
    ) -> SourceFingerprint:
        """Take and keep what the tables of the configured server hold at one point; by default of all databases.

        The WAL must come into the repository by itself, by `stream_wal` or by archive_command.
        """
        from pgproof.actions.source_fingerprints import fingerprint_source

        return await in_thread(
            lambda job: fingerprint_source(self.postgres, self.config, databases, job), progress
        )

    async def check(self) -> list[Check]:
        """Everything that would make a backup fail."""
        from pgproof.actions.check_setup import check_setup

        return await in_thread(lambda _job: check_setup(self.postgres, self.config))

    async def catalog(self) -> Catalog:
        """All committed backups, as `list_backups`, and the stretches of time that can be restored."""
        from pgproof.actions.overview import catalog

        return await in_thread(lambda _job: catalog(self.config))

    async def stats(self) -> Overview:
        """The catalog, what the repository stores, and how that grows."""
        from pgproof.actions.overview import overview

        return await in_thread(lambda _job: overview(self.config))

    async def plan_cleanup(
        self, *, compact: bool = False, progress: ProgressCallback = no_progress
    ) -> PreparedCleanup:
        """Which backups would be removed and why, and what that would free; nothing is changed.

        With `compact` packs of which less than half is needed are to be rewritten as well (docs/decisions/0019-compaction.md).
        """
        from pgproof.actions.cleanup import prepare_cleanup

        return await in_thread(lambda job: prepare_cleanup(self.config, job, compacts=compact), progress)

    async def cleanup(
        self,
        prepared: PreparedCleanup | None = None,
        *,
        approved: bool = False,
        compact: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> CleanupReport:
        """Remove the backups that no rule keeps, and what nobody names any more; by default by a plan made now, for which
        `compact` counts as for `plan_cleanup`.

        A plan that takes more than half of what the backups have stored raises PreconditionError unless `approved`.
        """
        from pgproof.actions.cleanup import cleanup

        return await self.run_recorded(
            "cleanup",
            lambda job: cleanup(self.config, prepared, approved, job, compacts=compact),
            lambda report: f"removed {', '.join(report.removed) or 'no backup'}",
            apart=True,
            progress=progress,
        )

    async def keep_backup(self, backup_id: str, until: datetime | None = None, why: str = "") -> KeepReport:
        """Pin a backup: no cleanup removes it before `until` (None: ever). A naive time is local time."""
        from pgproof.actions.keep import keep_backup

        return await self.run_recorded(
            "keep",
            lambda _job: keep_backup(self.config, backup_id, until, why),
            lambda report: report.backup_id,
            asked=backup_id,
        )

    async def release_backup(self, backup_id: str) -> KeepReport:
        """Take the pin of a backup away."""
        from pgproof.actions.keep import release_backup

        return await self.run_recorded(
            "keep --remove",
            lambda _job: release_backup(self.config, backup_id),
            lambda report: report.backup_id,
            asked=backup_id,
        )

    async def push_wal(self, path: str | Path) -> int:
        """Store a file of pg_wal, as archive_command does; it is durable when this returns the bytes stored now."""
        from pgproof.actions.wal_single import push_one

        return await in_thread(lambda _job: push_one(self.config, Path(path)))

    async def fetch_wal(self, name: str, target: str | Path) -> bool:
        """Write a WAL file to `target`, as restore_command does; False if it is proven not to be there."""
        from pgproof.actions.wal_single import fetch_one

        return await in_thread(lambda _job: fetch_one(self.config, name, Path(target)))

    async def stream_wal(
        self, options: StreamOptions | None = None, *, progress: ProgressCallback = no_progress
    ) -> StreamReport:
        """Stream WAL into the repository until the call is cancelled, or something must be changed first."""
        from pgproof.actions.stream_wal import stream_wal
        from pgproof.model.wal_stream import StreamOptions

        chosen = options or StreamOptions()
        return await in_thread(lambda job: stream_wal(self.postgres, self.config, chosen, job), progress)

    async def wal_status(
        self,
        *,
        slot: str | None = None,
        limits: WalLimits | None = None,
        free_bytes: int | None = None,
    ) -> WalStatus:
        """How the WAL stands: ranges and gaps, the server's slot and lag, and what can be restored.

        `free_bytes` is the free space of the server's WAL disk, if it cannot be seen from here.
        """
        from pgproof.actions.wal_status import wal_status
        from pgproof.model.wal_stream import DEFAULT_SLOT

        name = slot or DEFAULT_SLOT
        return await in_thread(
            lambda _job: wal_status(
                self.postgres, self.config, slot=name, limits=limits, free_bytes=free_bytes
            )
        )

    async def create_restore_point(self, name: str) -> RestorePoint:
        """Name the present place in the server's WAL, so that a restore can go there."""
        from pgproof.actions.restore_point import create_restore_point

        return await in_thread(lambda _job: create_restore_point(self.postgres, name))

    async def list_keys(self) -> list[KeySlot]:
        """The key slots, oldest first."""
        from pgproof.actions.manage_keys import list_keys

        return await in_thread(lambda _job: list_keys(self.config))

    async def add_key(self, new_passphrase: str) -> KeySlot:
        """Let one more passphrase open the repository."""
        from pgproof.actions.manage_keys import add_key

        return await self.run_recorded(
            "keys add", lambda _job: add_key(self.config, new_passphrase), lambda slot: slot.slot_id
        )

    async def add_recovery_key(self) -> tuple[KeySlot, str]:
        """One more recovery key: its slot, and the key, which nobody can show again."""
        from pgproof.actions.manage_keys import add_recovery_key

        return await self.run_recorded(
            "keys add", lambda _job: add_recovery_key(self.config), lambda made: made[0].slot_id
        )

    async def remove_key(self, slot_id: str) -> None:
        """Remove a key slot, but neither the last one nor the one in use."""
        from pgproof.actions.manage_keys import remove_key

        await self.run_recorded("keys remove", lambda _job: remove_key(self.config, slot_id), asked=slot_id)

    async def change_key(self, new_passphrase: str) -> KeySlot:
        """Replace the passphrase that is configured now."""
        from pgproof.actions.manage_keys import change_key

        return await self.run_recorded(
            "keys change", lambda _job: change_key(self.config, new_passphrase), lambda slot: slot.slot_id
        )

    async def list_actions(self, since: datetime | None = None) -> tuple[list[ActionRecord], list[DataError]]:
        """Who did what since then, the oldest first, and what of that log cannot be read. A naive time is local time."""
        from pgproof.actions.recorded import list_actions

        return await in_thread(lambda _job: list_actions(self.config, since))

    async def run_recorded(
        self,
        command: str,
        work: Callable[[Job], T],
        subject: Callable[[T], str] | None = None,
        *,
        progress: ProgressCallback = no_progress,
        **more: Any,
    ) -> T:
        """The result of `work`, with a record of it in the action log (pgproof.actions.recorded)."""
        from pgproof.actions.recorded import recorded

        return await in_thread(
            lambda job: recorded(self.config, command, lambda: work(job), subject, **more), progress
        )


def _not_recorded(info: BackupInfo, why: str) -> BackupInfo:
    """The backup is committed; only the log lacks it."""
    finding = Finding("not-recorded", f"the backup is whole, but the action log does not name it: {why}")
    return replace(info, findings=(*info.findings, finding))
