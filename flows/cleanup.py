"""Remove the backups that no rule keeps, with a plan that says why."""

from __future__ import annotations

from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.support.catalog import publish_catalog
from flows.support.cleanup_reports import cleanup_message, cleanup_report, plan_report
from flows.support.engine import engine_task, run_engine
from flows.support.lateness import reason_to_skip
from flows.support.publishing import publish_event, publish_report
from flows.support.run_names import run_name
from flows.support.settings import backup_manager
from pgproof.model.cleanup_report import CleanupPlan, CleanupReport


def _run_name() -> str:
    return run_name("plan" if runtime.flow_run.parameters["plan_only"] else "cleanup")


@engine_task("plan-cleanup")
def plan_cleanup(repository: str, compact: bool) -> CleanupPlan:
    manager = backup_manager("", repository)
    return run_engine(lambda progress: manager.plan_cleanup(compact=compact, progress=progress)).plan


@engine_task("remove")
def remove(repository: str, approved: bool, compact: bool) -> CleanupReport:
    """By a plan of its own: a repetition must not go by what was seen before a broken attempt."""
    manager = backup_manager("", repository)
    return run_engine(
        lambda progress: manager.cleanup(approved=approved, compact=compact, progress=progress), hours=13
    )


@flow(
    name="cleanup",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
)
def cleanup(
    repository: str = "main",
    plan_only: bool = False,
    approved: bool = False,
    compact: bool = False,
    max_lateness_hours: float = 24,
) -> dict[str, Any] | State[Any]:
    """Remove old backups as the repository block says, and what nobody needs any more.

    Args:
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        plan_only: Only publish the plan.
        approved: Go on although more than half of what the backups have stored would be removed.
        compact: Also rewrite packs of which less than half is needed; a cleanup two days later frees the space.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.

    Returns:
        The plan's or the report's JSON description, or a state named Skipped, NeedsApproval or CleanupIncomplete.
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"nothing was removed: {reason}")
    plan = plan_cleanup(repository, compact)
    publish_report(
        "cleanup-plan", plan.cluster, plan_report(plan), f"{len(plan.retention.removed)} to remove"
    )
    if plan_only:
        return plan.to_json()
    if plan.large and not approved:
        return Failed(
            name="NeedsApproval",
            message="more than half of what the backups have stored would be removed; if the plan is right, "
            "run this again with approved=true",
        )
    report = remove(repository, approved, compact)
    publish_report("cleanup", plan.cluster, cleanup_report(report), cleanup_message(report))
    publish_catalog(repository)
    if not report.ok:
        return Failed(name="CleanupIncomplete", message=cleanup_message(report))
    publish_event(
        "pgproof.cleanup.completed",
        plan.cluster,
        {"removed": list(report.removed), "freed_bytes": report.freed_bytes},
    )
    return report.to_json()


if __name__ == "__main__":
    cleanup()
