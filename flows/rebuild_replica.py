"""Make a replica one again, by a worker on the replica's machine. What would overwrite its files waits for a person to
approve the plan."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
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
from flows.support.rebuild_reports import rebuild_plan_report, rebuild_report
from flows.support.settings import replica_manager
from pgproof.model.rebuild_evidence import Source
from pgproof.model.rebuild_plan import RebuildPlan
from pgproof.model.rebuild_report import RebuildReport, RebuildRequest


class ApproveRebuild(RunInput):
    """What the form in the UI asks for."""

    approve: bool = Field(default=False, description="Overwrite the files in this directory.")
    directory: str = Field(default="", description="Type the data directory again.")


def _run_name() -> str:
    parameters = runtime.flow_run.parameters
    return f"{parameters['cluster']}-rebuild-{parameters['node']}-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"


@engine_task("plan-rebuild")
def plan_rebuild(blocks: dict[str, str], request: RebuildRequest) -> RebuildPlan:
    manager = replica_manager(**blocks)
    return run_engine(lambda progress: manager.plan_rebuild(request, progress=progress))


# Not retried by itself: somebody should see why it failed. Run again, it goes on.
@task(task_run_name="rebuild", cache_policy=NO_CACHE, persist_result=False)
def rebuild(blocks: dict[str, str], request: RebuildRequest, approved: RebuildPlan) -> RebuildReport:
    manager = replica_manager(**blocks)
    return run_engine(lambda progress: manager.rebuild(request, approved=approved, progress=progress))


@flow(
    name="rebuild-replica",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
    persist_result=True,
)
def rebuild_replica(
    node: str,
    data_dir: str,
    server: str = "main",
    replicas: str = "main",
    repository: str = "main",
    cluster: str = "main",
    source: str = "",
    slot: str = "",
    primary_conninfo: str = "",
    owner: str = "",
    timeout_minutes: float = 60,
    approved: bool = False,
) -> dict[str, Any] | State[Any]:
    """Make a broken or diverged replica, or an old primary after a failover, a streaming replica again, on the worker's machine.

    Its server is stopped and started by REPLICA_STOP_COMMAND and REPLICA_START_COMMAND of the worker's environment, without
    them by pg_ctl.

    Args:
        node: Name of the replica, or "primary" for the configured primary's old place.
        data_dir: Its data directory on the worker's machine.
        server: Name of the PostgreSQL Server block of the primary; empty for the worker's PG* environment.
        replicas: Name of the Read Replicas block; empty for the worker's READ_REPLICA_* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        cluster: What the cluster is called in reports and events.
        source: "rewind" or "repository" for this way; empty for the one that is found best.
        slot: Its slot on the primary; by default as it was, else the node's name.
        primary_conninfo: How the replica reaches its primary, without a password; by default as it did, else as we do.
        owner: Operating system user who runs it; by default who owns the directory.
        timeout_minutes: How long it may take to catch up once it was started.
        approved: Do not wait for an approval.

    Returns:
        The report's JSON description, or the state Cancelled if the rebuild was refused.
    """
    request = RebuildRequest(
        node,
        Path(data_dir),
        Source(source) if source else None,
        slot or None,
        primary_conninfo or None,
        owner=owner or None,
        timeout=timeout_minutes * 60,
        **RebuildRequest.commands(os.environ),
    )
    blocks = {"server": server, "replicas": replicas, "repository": repository, "cluster": cluster}
    plan = plan_rebuild(blocks, request)
    publish_report("rebuild-plan", cluster, rebuild_plan_report(plan), f"rebuild of {node}")
    if plan.overwrites and not approved:
        shown = once_per_run("plan", lambda: {"way": str(plan.way), "primary": plan.primary})
        if shown != {"way": str(plan.way), "primary": plan.primary}:
            return Cancelled(
                message="nothing was changed: what is found now is not what was shown for approval"
            )
        answer = wait_for_answer(ApproveRebuild, rebuild_plan_report(plan))
        if not answer.approve or answer.directory != data_dir:
            reason = "its directory was not typed as it is" if answer.approve else "it was not approved"
            return Cancelled(message=f"nothing was changed: {reason}")
    report = rebuild(blocks, request, plan)
    publish_report("rebuild", cluster, rebuild_report(report), f"{node} follows {report.primary}")
    publish_event(
        "pgproof.replicas.rebuilt",
        cluster,
        {
            "node": report.node,
            "primary": report.primary,
            "way": str(report.way),
            "timeline": report.timeline,
            "slot": report.slot,
        },
    )
    return report.to_json()


if __name__ == "__main__":
    import sys

    rebuild_replica(sys.argv[1], sys.argv[2])
