"""Take a backup of one cluster, and prove it if asked to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.support.catalog import publish_catalog
from flows.support.engine import engine_task, run_engine
from flows.support.lateness import reason_to_skip
from flows.support.publishing import publish_event, publish_report
from flows.support.reports import backup_report, human_size
from flows.support.run_names import run_name
from flows.support.settings import backup_manager
from flows.verify import verify_and_report
from pgproof.backup import BackupManager
from pgproof.errors import ConflictError, EngineError
from pgproof.model.config import BackupMethod, BackupType, ChangeDetection
from pgproof.model.report import BackupInfo


def _run_name() -> str:
    return run_name(runtime.flow_run.parameters["type"])


@engine_task("{type}-backup")
def take_backup(server: str, repository: str, type: str, change_detection: str, method: str) -> BackupInfo:
    """Call the engine; what a broken attempt has stored, the next one finds and does not send again."""
    manager = backup_manager(server, repository)
    config = manager.config
    if change_detection != "configured":
        config = replace(config, change_detection=ChangeDetection(change_detection))
    if method != "configured":
        config = replace(config, method=BackupMethod(method))
    manager = BackupManager(manager.postgres, config)
    return run_engine(
        lambda progress: manager.create_backup(BackupType(type), mirror=False, progress=progress), hours=48
    )


@engine_task()
def copy_to_mirror(server: str, repository: str) -> dict[str, Any]:
    """Give the bucket what it lacks of the directory; a task of its own, so that a retry takes no new backup."""
    manager = backup_manager(server, repository)
    return run_engine(lambda progress: manager.copy_to_mirror(progress=progress), hours=48).to_json()


@flow(
    name="backup",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
)
def backup(
    server: str = "main",
    repository: str = "main",
    type: Literal["full", "differential", "incremental"] = "full",
    verify: Literal["none", "objects", "frames", "start", "full"] = "none",
    max_lateness_hours: float = 12,
    change_detection: Literal["configured", "compare", "summaries"] = "configured",
    method: Literal["configured", "auto", "physical", "logical"] = "configured",
) -> dict[str, Any] | State[Any]:
    """Take a backup of one PostgreSQL cluster.

    Args:
        server: Name of the PostgreSQL Server block; empty for the worker's PG* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        type: What to store: everything, or what changed since the last full or the last backup.
        verify: How far to verify the new backup at once; "start" and "full" really restore it.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.
        change_detection: How to find what changed: as the repository block says, by comparing every page, or
            by the server's WAL summaries where that is safe.
        method: The whole cluster over replication, or databases by pg_dump: as the repository block says, or this.

    Returns:
        The backup's JSON description, or a state named Skipped or VerificationFailed.
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"no backup was taken: {reason}")
    try:
        info = take_backup(server, repository, type, change_detection, method)
    except ConflictError as error:
        # An hourly one that meets the nightly one: the next hour brings another.
        if type == "full" or "last_sign_of_life" not in error.context:
            raise
        return Completed(name="Skipped", message=f"no backup was taken: {error.message}")
    publish_report(
        "backup",
        info.cluster,
        backup_report(info),
        f"{info.type} backup {info.backup_id}, {human_size(info.size_bytes)}, {info.status}",
    )
    publish_event(
        "pgproof.backup.completed",
        info.cluster,
        {
            "backup_id": info.backup_id,
            "type": str(info.type),
            "status": info.status,
            "size_bytes": info.size_bytes,
            "stored_bytes": info.stored_bytes,
        },
    )
    not_mirrored: EngineError | None = None
    if backup_manager(server, repository).config.mirror_bucket:
        try:
            copy_to_mirror(server, repository)
        except EngineError as error:
            # The backup exists: it is verified first, and the run fails at its end.
            not_mirrored = error
    # Hourly ones would fill Prefect's database with what changes slowly.
    storage = type == "full"
    if verify == "none":
        publish_catalog(repository, storage=storage)
    else:
        outcome = verify_and_report(server, repository, info.backup_id, verify, storage=storage)
        if isinstance(outcome, State):
            return outcome
    if not_mirrored is not None:
        raise not_mirrored
    return info.to_json()


if __name__ == "__main__":
    backup()
