"""The end of a failover: the checkpoint that a rewind waits for, a last look at everybody, and what the archive has beyond."""

from __future__ import annotations

import time

from pgproof.actions.failover_look import LOOK_SECONDS, Cluster, archived
from pgproof.actions.failover_steps import StepLog
from pgproof.actions.promote import look_at
from pgproof.actions.repoint import NewPrimary
from pgproof.errors import EngineError
from pgproof.model.failover_plan import FailoverPlan, Kind
from pgproof.model.node import NodeState, record_end
from pgproof.postgres.asking import ask
from pgproof.postgres.node_query import measure_nodes


def close_failover(
    log: StepLog, cluster: Cluster, plan: FailoverPlan, primary: NewPrimary, seconds: float
) -> None:
    """What is not as it should be is a step that says so: there is no way back."""
    _checkpoint(log, primary, seconds)
    _verify(log, cluster, plan, primary)
    _compare_with_archive(log, cluster, plan, primary)


def _checkpoint(log: StepLog, primary: NewPrimary, seconds: float) -> None:
    """pg_rewind of the old primary reads the timeline from the control file, which the first checkpoint writes."""
    at = time.monotonic()
    try:
        ask(primary.server, "CHECKPOINT", seconds=seconds, what="a checkpoint on the new primary")
    except EngineError as error:
        hint = "pg_rewind has to wait for the next one; GRANT pg_checkpoint lets us ask for it"
        log.step("checkpoint", at, ok=None, detail=error.message, hint=hint)
    else:
        log.step("checkpoint", at)


def _verify(log: StepLog, cluster: Cluster, plan: FailoverPlan, primary: NewPrimary) -> None:
    at = time.monotonic()
    now = look_at(plan.node, primary.server)
    older = plan.verdict(plan.node).timeline
    higher = now.primary and (now.timeline > older or plan.kind is Kind.FINISH)
    log.step(
        "verify the new primary",
        at,
        ok=higher,
        detail=f"{'out of' if now.primary else 'in'} recovery on timeline {now.timeline}",
    )
    at = time.monotonic()
    others = {node: cluster.servers[node] for node in plan.fence}
    answers = measure_nodes(others, LOOK_SECONDS)
    alive = [node for node, each in answers.items() if isinstance(each, NodeState) and each.primary]
    if others:
        log.step(
            "verify the fence",
            at,
            ok=not alive,
            detail=f"{', '.join(alive)} writes again" if alive else f"{', '.join(others)} writes nothing",
            hint="stop it at once" if alive else "",
        )


def _compare_with_archive(log: StepLog, cluster: Cluster, plan: FailoverPlan, primary: NewPrimary) -> None:
    """The streamer may have stored more after the plan was made: what the old primary had sent it."""
    old, branch = plan.verdict(plan.node).timeline, primary.state.branched_at
    if cluster.repository is None or plan.kind is Kind.FINISH or branch is None:
        return
    try:
        end = archived(cluster.repository).ends.get(old)
    except EngineError as error:
        log.notes.append(f"the archive could not be compared with the new timeline: {error.message}")
        return
    size = primary.state.segment_size
    if end is not None and (ahead := record_end(end, size) - record_end(branch, size)) > 0:
        log.notes.append(
            f"the archive is ahead of the new timeline by {ahead:,} bytes, up to {end} of timeline {old}; to look into "
            f"them: pgproof restore --data-dir DIR --to-lsn {end} --timeline {old}"
        )
