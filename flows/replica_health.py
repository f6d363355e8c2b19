"""Watch over the replicas of a cluster: a table, the lag as a chart, events, and each alarm told once."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows.support.engine import engine_task, run_engine
from flows.support.lateness import reason_to_skip
from flows.support.publishing import publish_event, publish_report, publish_table
from flows.support.replica_reports import (
    changed,
    replica_message,
    replica_report,
    replica_rows,
    replica_summary,
)
from flows.support.run_names import run_name
from flows.support.settings import replica_manager
from flows.support.telling import block_teller
from pgproof.actions.replica_history import Remembered
from pgproof.model.alarms import Message
from pgproof.model.objectives import Broken
from pgproof.model.replica_alarms import alarms
from pgproof.model.replica_status import ReplicaStatus

# Every version of an artifact is kept: the charts are published so often, and when something changes.
_REPORT_MINUTES = 5


def _run_name() -> str:
    return run_name("replicas", of="cluster")


@engine_task("look-at-replicas", retries=1, delay=2)
def look_at_replicas(server: str, replicas: str, cluster: str) -> tuple[ReplicaStatus, Remembered]:
    manager = replica_manager(server, replicas, cluster)
    return run_engine(lambda _progress: manager.look(), hours=0.05)


@engine_task("tell", retries=2, delay=2)
def tell_alarms(
    server: str, replicas: str, cluster: str, broken: tuple[Broken, ...], notification_block: str
) -> tuple[bool, Message | None]:
    """Whether there is anybody to tell, and what was told. It is remembered, so a repetition tells nothing twice."""
    manager = replica_manager(server, replicas, cluster)
    if not notification_block and not manager.can_notify:
        return False, None
    tell = block_teller(notification_block) if notification_block else None
    return True, run_engine(lambda _progress: manager.announce(broken, tell))


@flow(name="replica-health", flow_run_name=_run_name, result_serializer="json", validate_parameters=True)
def replica_health(
    server: str = "main",
    replicas: str = "main",
    cluster: str = "main",
    notification_block: str = "",
    looks_in_a_row: int = 2,
    max_lateness_hours: float = 0.1,
) -> dict[str, Any] | State[Any]:
    """Look how the primary and its replicas stand, and tell what is newly wrong or has recovered, each once.

    Args:
        server: Name of the PostgreSQL Server block of the primary; empty for the worker's PG* environment.
        replicas: Name of the Read Replicas block; empty for the worker's READ_REPLICA_* environment.
        cluster: What the cluster is called in reports, events and notifications.
        notification_block: Who is told: type and name of a notification block, such as slack-webhook/ops. Empty for
            BACKUP_NOTIFY_URL of the environment; without that too, a run fails while something is wrong.
        looks_in_a_row: So many looks have to see a problem before it is told, and miss it before it has recovered; what
            cannot wait, such as two primaries, is told at the first.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.

    Returns:
        The status's JSON description, or a state named Skipped, ReplicasUnhealthy (completed: somebody was told) or
        NobodyTold (failed).
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"nothing was looked at: {reason}")
    status, remembered = look_at_replicas(server, replicas, cluster)
    if remembered.note:
        get_run_logger().warning("%s", remembered.note)
    broken = alarms(status, remembered.looks, max(1, looks_in_a_row))
    anybody, told = tell_alarms(server, replicas, cluster, broken, notification_block)
    message = replica_message(status)
    publish_table("replicas", cluster, replica_rows(status), message)
    if told is not None or changed(remembered.looks) or status.at.minute % _REPORT_MINUTES == 0:
        report = replica_report(status, remembered.looks, broken, told, remembered.note)
        publish_report("replica-lag", cluster, report, replica_summary(status))
    for problem in status.problems:
        publish_event(f"pgproof.replicas.{problem.kind}", cluster, problem.to_json())
    if told is not None:
        publish_event("pgproof.replicas.told", cluster, {"subject": told.subject, "body": told.body})
    if status.ok:
        publish_event("pgproof.replicas.ok", cluster, {"at": status.at.isoformat()})
    if not broken:
        return status.to_json()
    if anybody:
        # Not failed: the automation for failed runs would tell the same thing every minute.
        return Completed(name="ReplicasUnhealthy", message=message)
    return Failed(
        name="NobodyTold",
        message=f"{message}\nHINT: name a notification_block, so that this is told once and not at every run",
    )


if __name__ == "__main__":
    replica_health()
