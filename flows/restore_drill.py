"""Rehearse a recovery: to a moment that is drawn, timed, checked and remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.support.drill_reports import drill_failure, drill_report, drill_verdict
from flows.support.engine import engine_task, run_engine
from flows.support.lateness import reason_to_skip
from flows.support.publishing import publish_event, publish_report
from flows.support.run_names import run_name
from flows.support.settings import backup_config, backup_manager
from pgproof.errors import EngineError
from pgproof.model.drill import DrillReport, DrillRequest
from pgproof.model.recovery_target import target_from


def _run_name() -> str:
    return run_name("drill")


@engine_task("drill")
def drill(server: str, repository: str, request: DrillRequest) -> DrillReport:
    manager = backup_manager(server, repository)
    return run_engine(lambda progress: manager.drill(request, progress=progress))


@flow(name="restore-drill", flow_run_name=_run_name, result_serializer="json", validate_parameters=True)
def restore_drill(
    repository: str = "main",
    server: str = "",
    backup_id: str = "",
    to_time: str = "",
    seed: int | None = None,
    checks: str = "",
    max_lateness_hours: float = 72,
) -> dict[str, Any] | State[Any]:
    """Restore to a moment drawn from all that can be restored, ask the server everything, and time each step.

    Args:
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        server: Name of the PostgreSQL Server block whose database is asked the checks that name none; else "postgres".
        backup_id: Restore from this backup; empty lets the moment decide.
        to_time: This moment instead of a drawn one; ISO 8601, the worker's time unless it has an offset.
        seed: Draw as the drill with this seed did.
        checks: A folder on the worker with NAME.sql and DATABASE/NAME.sql, each a query that must return true.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.

    Returns:
        The report's JSON description, or a state named Skipped or DrillFailed.
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"nothing was drilled: {reason}")
    try:
        request = DrillRequest(
            backup_id or None, target_from(time=to_time or None), seed, Path(checks) if checks else None
        )
        report = drill(server, repository, request)
    except EngineError as error:
        return Failed(name="DrillFailed", message=f"the restore drill did not come to a result: {error}")
    objective = backup_config(repository).rto_minutes
    publish_report("drill", report.cluster, drill_report(report, objective), drill_verdict(report))
    if not report.ok:
        return Failed(name="DrillFailed", message=drill_failure(report))
    forecast = report.forecast.seconds if report.forecast else None
    publish_event(
        "pgproof.drill.completed",
        report.cluster,
        {"backup_id": report.backup_id, "rto_seconds": report.rto_seconds, "forecast_seconds": forecast},
    )
    return report.to_json()


if __name__ == "__main__":
    restore_drill()
