"""Let a replica take over from the primary. Its plan waits for a person to approve it, unless the run was told otherwise."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.input import RunInput
from prefect.states import Cancelled, Failed
from pydantic import Field

from flows.support.approval import once_per_run, wait_for_answer
from flows.support.engine import engine_task, run_engine
from flows.support.failover_reports import failover_plan_report, failover_report, failover_verdict
from flows.support.publishing import publish_event, publish_report
from flows.support.run_names import run_name
from flows.support.settings import replica_manager
from pgproof.model.failover_evidence import FailoverRequest
from pgproof.model.failover_plan import Decision, FailoverPlan, Kind
from pgproof.model.failover_report import FailoverReport


class ApproveFailover(RunInput):
    """What the form in the UI asks for."""

    approve: bool = Field(default=False, description="End the old primary, and promote the node.")
    node: str = Field(default="", description="Type the name of the node that is to take over.")


def _run_name() -> str:
    return run_name("failover", of="cluster")


@engine_task("plan-failover", retries=1, delay=2)
def plan_failover(blocks: dict[str, str], request: FailoverRequest) -> FailoverPlan:
    manager = replica_manager(**blocks)
    return run_engine(lambda _progress: manager.plan_failover(request))


# Not retried: whoever reads why it stopped decides. The next run goes on where this one was.
@task(task_run_name="failover", cache_policy=NO_CACHE, persist_result=False)
def do_failover(
    blocks: dict[str, str], request: FailoverRequest, approved: Decision, seconds: float
) -> FailoverReport:
    manager = replica_manager(**blocks)
    return run_engine(
        lambda progress: manager.failover(request, approved=approved, seconds=seconds, progress=progress)
    )


@flow(name="failover", flow_run_name=_run_name, result_serializer="json", validate_parameters=True)
def failover(
    server: str = "main",
    replicas: str = "main",
    repository: str = "",
    cluster: str = "main",
    node: str = "",
    unfenced: bool = False,
    accept_loss: bool = False,
    approved: bool = False,
    wait_seconds: float = 60,
) -> dict[str, Any] | State[Any]:
    """Fence the old primary, promote a replica, lead the others over to it, and see that it holds.

    Args:
        server: Name of the PostgreSQL Server block of the primary that is, or was; empty for the worker's PG* environment.
        replicas: Name of the Read Replicas block; empty for the worker's READ_REPLICA_* environment.
        repository: Name of the Backup Repository block whose WAL the loss is measured against; empty for the worker's
            BACKUP_* environment, if it names one.
        cluster: What the cluster is called in reports and events.
        node: Who takes over; empty picks the best while the primary is dead. With a name a primary that is alive is
            switched over, which loses nothing.
        unfenced: End nothing: it is known that the old primary is gone for good.
        accept_loss: Take a replica that holds less than the best one, or is in doubt.
        approved: Do not wait for an approval.
        wait_seconds: How long each step may wait: the fence, the end of the WAL, the promotion, the others.

    Returns:
        The report's JSON description, or the state Cancelled if nobody approved it, or one named NotAsPlanned (failed) if
        the new primary writes and something else is wrong.
    """
    blocks = {"server": server, "replicas": replicas, "cluster": cluster, "repository": repository}
    request = FailoverRequest(node, unfenced, accept_loss)
    plan = plan_failover(blocks, request)
    publish_report("failover-plan", cluster, failover_plan_report(plan), plan.sentence())
    plan.require()
    first = once_per_run("decision", lambda: {"node": plan.node, "kind": str(plan.kind)})
    decision = Decision(first["node"], Kind(first["kind"]))
    if not approved:
        answer = wait_for_answer(ApproveFailover, failover_plan_report(plan))
        if not answer.approve or answer.node != decision.node:
            reason = "the node was not typed as it is" if answer.approve else "it was not approved"
            return Cancelled(message=f"nothing was changed: {reason}")
    # What is done is what was approved: anything else that is found by now is refused.
    report = do_failover(blocks, request, decision, wait_seconds)
    publish_report("failover", cluster, failover_report(report), failover_verdict(report))
    publish_event(
        "pgproof.replicas.failed-over",
        cluster,
        {
            "node": report.node,
            "kind": str(report.plan.kind),
            "timeline": report.timeline,
            "ok": report.ok,
            "branched_at": str(report.branched_at or ""),
        },
    )
    if not report.ok:
        return Failed(name="NotAsPlanned", message=f"{failover_verdict(report)}; see the report")
    return report.to_json()


if __name__ == "__main__":
    failover()
