"""Whether a scheduled run has become pointless.

After an outage of the workers Prefect replays every run that was missed, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.types import DateTime

_STILL_COUNTS = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED]


def why_skip(scheduled: datetime, now: datetime, newer: Sequence[datetime], allowed: timedelta) -> str | None:
    """Say why a run scheduled for `scheduled` should not start any more, or None if it should.

    `newer` holds the times of later runs of the same kind; only those already due count.
    `allowed` of zero puts no limit on the delay.
    """
    due = [moment for moment in newer if scheduled < moment <= now]
    if due:
        return f"the run scheduled for {max(due):%Y-%m-%d %H:%M} UTC takes its place"
    late = now - scheduled
    if allowed and late > allowed:
        return f"it starts {late.total_seconds() / 3600:.1f} h late; the next scheduled run will follow"
    return None


def reason_to_skip(max_lateness_hours: float) -> str | None:
    """Look the current run up and say why it should not start, or None if it should.

    Only a run that a schedule made, and that starts for the first time, is ever skipped: a person
    who starts or repeats one means it.
    """
    run_id = runtime.flow_run.id
    if not run_id or not runtime.deployment.id:
        return None
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(run_id)
        scheduled = run.expected_start_time
        if not run.auto_scheduled or run.run_count > 1 or scheduled is None or run.deployment_id is None:
            return None
        now = DateTime.now("UTC")
        others = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
                expected_start_time=FlowRunFilterExpectedStartTime(after_=scheduled, before_=now),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_STILL_COUNTS)),
            )
        )
    newer = [other.expected_start_time for other in others if _same_kind(run, other)]
    return why_skip(
        scheduled, now, [moment for moment in newer if moment], timedelta(hours=max_lateness_hours)
    )


def _same_kind(run: FlowRun, other: FlowRun) -> bool:
    # One deployment may hold several schedules: an hourly increment does not replace a full backup.
    return other.id != run.id and other.auto_scheduled and other.parameters == run.parameters
