"""Restore a cluster to a point. What would overwrite an existing cluster waits for a person to approve the plan."""

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
from flows.support.reports import restore_plan_report, restore_report
from flows.support.settings import backup_config, backup_manager
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.model.report import RestoreReport
from pgproof.model.restore_plan import RestorePlan
from pgproof.recovery import RecoveryManager


class ApproveRestore(RunInput):
    """What the form in the UI asks for."""

    approve: bool = Field(default=False, description="Overwrite the cluster in this directory.")
    directory: str = Field(default="", description="Type the data directory again.")


def _run_name() -> str:
    parameters = runtime.flow_run.parameters
    return f"{parameters['repository'] or 'environment'}-restore-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"


@engine_task()
def plan_restore(repository: str, backup_id: str, data_dir: str, options: dict[str, Any]) -> RestorePlan:
    manager = backup_manager("", repository)
    recovery = RecoveryManager(manager.postgres, manager)
    return run_engine(
        lambda progress: recovery.plan_restore(
            backup_id or None,
            data_dir,
            owner=options["owner"],
            request=_request(options),
            progress=progress,
        )
    )


# Not retried: a directory in which a restore was broken off is not empty any more.
@task(cache_policy=NO_CACHE, persist_result=False)
def restore_cluster(repository: str, backup_id: str, data_dir: str, options: dict[str, Any]) -> RestoreReport:
    manager = backup_manager("", repository)
    recovery = RecoveryManager(manager.postgres, manager)
    return run_engine(
        lambda progress: recovery.restore_cluster(
            backup_id or None,
            data_dir,
            owner=options["owner"],
            request=_request(options),
            progress=progress,
        )
    )


@flow(
    name="restore",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
    persist_result=True,
)
def restore(
    data_dir: str,
    repository: str = "main",
    backup_id: str = "",
    to_time: str = "",
    to_lsn: str = "",
    to_xid: str = "",
    to_name: str = "",
    to_backup_end: bool = False,
    exclusive: bool = False,
    timeline: int | None = None,
    delta: bool = False,
    owner: str = "",
    approved: bool = False,
) -> dict[str, Any] | State[Any]:
    """Restore a cluster into a directory of the worker's machine, and recover it to a point.

    Args:
        data_dir: The data directory on the worker's machine; missing or empty, unless delta is set.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        backup_id: Which backup; empty picks the one that leads to the target, or the newest without a target.
        to_time: Recover to this time, such as 2026-11-25 14:00+01:00; without an offset it is the worker's local time.
        to_lsn: Recover to this position in the WAL, such as 0/5000148.
        to_xid: Recover to the end of this transaction.
        to_name: Recover to this restore point, which `pgproof restore-point` named.
        to_backup_end: Stop as early as the backup allows.
        exclusive: Stop just before the target, not behind it.
        timeline: The timeline to recover along; by default the newest that can be reached.
        delta: Overwrite an older state of the same cluster. The run waits until somebody approves the plan.
        owner: Operating system user who will own the files, where the worker is root.
        approved: Do not wait for an approval.

    Returns:
        The report's JSON description, or the state Cancelled if the restore was refused.
    """
    options = {
        "time": to_time,
        "lsn": to_lsn,
        "xid": to_xid,
        "name": to_name,
        "backup_end": to_backup_end,
        "inclusive": not exclusive,
        "timeline": timeline,
        "delta": delta,
        "owner": owner or None,
    }
    request = _request(options)
    wanted = backup_id or ("" if request.target else "latest")
    plan = plan_restore(repository, wanted, data_dir, options)
    if (first := once_per_run("backup", lambda: plan.backup_id)) != plan.backup_id:
        plan = plan_restore(repository, first, data_dir, options)
    cluster = backup_config(repository).cluster
    publish_report(
        "restore-plan", cluster, restore_plan_report(plan, datetime.now(UTC)), f"restore into {plan.data_dir}"
    )
    if plan.delta is not None and not approved:
        answer = _ask(plan)
        if not answer.approve or answer.directory != str(plan.data_dir):
            reason = "its directory was not typed as it is" if answer.approve else "it was not approved"
            return Cancelled(message=f"nothing was restored: {reason}")
    # What was planned is restored, and what was approved.
    report = restore_cluster(repository, plan.backup_id, data_dir, options)
    publish_report("restore", cluster, restore_report(report), f"{report.backup_id} into {report.data_dir}")
    publish_event(
        "pgproof.cluster.restored",
        cluster,
        {"backup_id": report.backup_id, "data_dir": report.data_dir, "end_lsn": str(report.end_lsn or "")},
    )
    return report.to_json()


def _request(options: dict[str, Any]) -> RecoveryRequest:
    target = target_from(
        time=options["time"] or None,
        lsn=options["lsn"] or None,
        xid=options["xid"] or None,
        name=options["name"] or None,
        backup_end=options["backup_end"],
        inclusive=options["inclusive"],
    )
    return RecoveryRequest(target, options["timeline"], delta=options["delta"])


def _ask(plan: RestorePlan) -> ApproveRestore:
    return wait_for_answer(ApproveRestore, restore_plan_report(plan, datetime.now(UTC)))


if __name__ == "__main__":
    import sys

    restore(sys.argv[1])
