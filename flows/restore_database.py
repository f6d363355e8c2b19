"""Restore one database into a running server. What would replace one waits for a person to approve the plan."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.input import RunInput
from prefect.states import Cancelled
from pydantic import Field

from flows.support.approval import once_per_run, wait_for_answer
from flows.support.engine import engine_task, run_engine
from flows.support.publishing import publish_event, publish_report
from flows.support.reports import database_plan_report, database_report
from flows.support.settings import backup_config, backup_manager, postgres_config
from pgproof.model.database_restore import BuildOptions, DatabasePlan, DatabaseReport
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.recovery import RecoveryManager


class ApproveReplacement(RunInput):
    """What the form in the UI asks for."""

    approve: bool = Field(default=False, description="Replace this database, or add to it.")
    database: str = Field(default="", description="Type the name of the database again.")


def _run_name() -> str:
    parameters = runtime.flow_run.parameters
    return f"{parameters['repository'] or 'environment'}-database-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"


def _call(
    method: str, server: str, repository: str, backup_id: str, target: str, options: dict[str, Any]
) -> Any:
    """One of the front door's two methods, which take the same."""
    manager = backup_manager(server, repository)
    recovery = RecoveryManager(manager.postgres, manager)
    point = target_from(
        time=options["time"] or None,
        lsn=options["lsn"] or None,
        name=options["name"] or None,
        backup_end=options["backup_end"],
        inclusive=not options["exclusive"],
    )
    return run_engine(
        lambda progress: getattr(recovery, method)(
            backup_id or None,
            target or None,
            database=options["database"] or None,
            to=postgres_config(options["to_server"]) if options["to_server"] else None,
            request=RecoveryRequest(point, options["timeline"]),
            clean=options["clean"],
            drop_old=options["drop_old"],
            options=BuildOptions(jobs=options["jobs"], disconnect=options["disconnect"]),
            progress=progress,
        )
    )


@engine_task()
def plan_database_restore(
    server: str, repository: str, backup_id: str, target: str, options: dict[str, Any]
) -> DatabasePlan:
    plan: DatabasePlan = _call("plan_database_restore", server, repository, backup_id, target, options)
    return plan


# Not retried: after a lost connection it may have been completed.
@task(cache_policy=NO_CACHE, persist_result=False)
def restore_one_database(
    server: str, repository: str, backup_id: str, target: str, options: dict[str, Any]
) -> DatabaseReport:
    report: DatabaseReport = _call("restore_database", server, repository, backup_id, target, options)
    return report


@flow(
    name="restore-database",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
    persist_result=True,
)
def restore_database(
    database: str,
    server: str = "main",
    repository: str = "main",
    backup_id: str = "",
    target_database: str = "",
    to_server: str = "",
    to_time: str = "",
    to_lsn: str = "",
    to_name: str = "",
    to_backup_end: bool = False,
    exclusive: bool = False,
    timeline: int | None = None,
    clean: bool = True,
    drop_old: bool = False,
    disconnect: bool = False,
    jobs: int = 2,
    approved: bool = False,
) -> dict[str, Any] | State[Any]:
    """Restore one database of a backup into a running server, beside the old one and then in its place.

    Args:
        database: Its name in the backup.
        server: Name of the PostgreSQL Server block; empty for the worker's PG* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        backup_id: Which backup; empty picks the one that leads to the target, or the newest without a target.
        target_database: What it will be called; empty for the same name.
        to_server: Block of the server it goes to, if that is another one.
        to_time: As it was at this time, ISO 8601; without an offset it is the worker's local time.
        to_lsn: As it was at this position in the WAL.
        to_name: As it was at this restore point.
        to_backup_end: As early as the backup allows.
        exclusive: Stop just before the target, not behind it.
        timeline: The timeline to recover along; by default the newest that can be reached.
        clean: Replace an existing database; without it only what that one lacks is added.
        drop_old: Drop the old one when it is replaced; else it is kept under a dated name.
        disconnect: End the connections of others to the old one at the moment of the swap.
        jobs: Indexes that are made, or tables that are read, at a time.
        approved: Do not wait for an approval.

    Returns:
        The report's JSON description, or the state Cancelled if the restore was refused.
    """
    options = {
        "database": database,
        "to_server": to_server,
        "time": to_time,
        "lsn": to_lsn,
        "name": to_name,
        "backup_end": to_backup_end,
        "exclusive": exclusive,
        "timeline": timeline,
        "clean": clean,
        "drop_old": drop_old,
        "disconnect": disconnect,
        "jobs": jobs,
    }
    plan = plan_database_restore(server, repository, backup_id, target_database, options)
    if (first := once_per_run("backup", lambda: plan.backup_id)) != plan.backup_id:
        plan = plan_database_restore(server, repository, first, target_database, options)
    cluster = backup_config(repository).cluster
    text = database_plan_report(plan)
    publish_report("database-plan", cluster, text, f"{plan.database} to {plan.target} on {plan.server}")
    if plan.old_size is not None and not approved:
        answer = wait_for_answer(ApproveReplacement, text)
        if not answer.approve or answer.database != plan.target:
            reason = "its name was not typed as it is" if answer.approve else "it was not approved"
            return Cancelled(message=f"nothing was restored: {reason}")
    # What was planned is restored, and what was approved.
    report = restore_one_database(server, repository, plan.backup_id, target_database, options)
    publish_report("database", cluster, database_report(report), f"{report.target} on {report.server}")
    publish_event(
        "pgproof.database.restored",
        cluster,
        {"backup_id": report.backup_id or "", "database": report.database, "target": report.target},
    )
    return report.to_json()


if __name__ == "__main__":
    import sys

    restore_database(sys.argv[1])
