"""Verify a backup; at the levels "start" and "full" by really restoring and starting it."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.support.catalog import publish_catalog
from flows.support.engine import engine_task, run_engine
from flows.support.lateness import reason_to_skip
from flows.support.publishing import publish_event, publish_report
from flows.support.reports import failure_message, verdict, verification_report
from flows.support.run_names import run_name
from flows.support.settings import backup_config, backup_manager
from pgproof.errors import DataError
from pgproof.model.config import VerifyLevel
from pgproof.model.report import VerificationReport


def _run_name() -> str:
    return run_name(f"verify-{runtime.flow_run.parameters['level']}")


@engine_task("verify-{backup_id}")
def verify_backup(
    server: str, repository: str, backup_id: str, level: str, against_source: bool = False
) -> VerificationReport:
    manager = backup_manager(server, repository)
    return run_engine(
        lambda progress: manager.verify_backup(
            backup_id, VerifyLevel(level), against_source=against_source, progress=progress
        ),
        hours=48,
    )


def verify_and_report(
    server: str,
    repository: str,
    backup_id: str,
    level: str,
    against_source: bool = False,
    *,
    storage: bool = True,
) -> VerificationReport | State[Any]:
    """Verify, publish what was proven, and answer the state to end the run with if it failed."""
    try:
        report = verify_backup(server, repository, backup_id, level, against_source)
    except DataError as error:
        # The backup cannot even be read so far that a report could be written about it.
        return Failed(name="VerificationFailed", message=str(error))
    cluster = backup_config(repository).cluster
    publish_report("verify", cluster, verification_report(report), f"{report.backup_id}: {verdict(report)}")
    publish_catalog(repository, storage=storage)
    if not report.ok:
        return Failed(name="VerificationFailed", message=failure_message(report))
    publish_event(
        "pgproof.backup.verified",
        cluster,
        {"backup_id": report.backup_id, "level": str(report.level), "proven": report.proven},
    )
    if report.proven:
        # An event of its own: what automations miss is an event, whatever it says.
        publish_event("pgproof.backup.proven", cluster, {"backup_id": report.backup_id})
    return report


@flow(
    name="verify",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
)
def verify(
    repository: str = "main",
    backup_id: str = "latest",
    level: Literal["objects", "frames", "start", "full"] = "start",
    server: str = "",
    against_source: bool = False,
    max_lateness_hours: float = 12,
) -> dict[str, Any] | State[Any]:
    """Verify a backup. Nothing outside a scratch directory is written.

    Args:
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        backup_id: Which backup; "latest" is the newest.
        level: Objects are present; frames are readable; start restores and starts the backup; full also
            checks the started server inside.
        server: Name of the PostgreSQL Server block; a verification does not need one, unless it compares with it.
        against_source: At the level full, compare every table with the server's, at exactly one point of its WAL.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.

    Returns:
        The report's JSON description, or a state named Skipped or VerificationFailed.
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"nothing was verified: {reason}")
    outcome = verify_and_report(server, repository, backup_id, level, against_source)
    return outcome if isinstance(outcome, State) else outcome.to_json()


if __name__ == "__main__":
    verify()
