"""What a fleet makes of runs that do not simply end, on a real Prefect API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.logging import disable_run_logger

from flows.support.fleet_runs import FleetRuns
from pgproof.model.fleet import Target

TARGETS = [Target(name, "", "") for name in ("deleted", "slow")]


@flow(name="member")
def member(server: str = "", repository: str = "", type: str = "") -> None: ...


@pytest.fixture
def client(prefect_backend: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def _run(client: SyncPrefectClient, name: str) -> FlowRun:
    (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    return run


def test_a_run_that_was_deleted_or_takes_too_long_does_not_hold_its_fleet(client: SyncPrefectClient) -> None:
    member.to_deployment("m").apply()
    runs = FleetRuns(client, "member/m", {"type": "full"}, "key", timedelta(hours=1))
    assert [runs.start(target) for target in TARGETS] == [None, None]
    with disable_run_logger():
        assert runs.ended() == [] and runs.running == TARGETS
        client.delete_flow_run(_run(client, "deleted-full").id)
        (gone,) = runs.ended()
        assert (gone.target, gone.ok, runs.running) == ("deleted", False, TARGETS[1:])
        runs._allowed = timedelta(0)
        (slow,) = runs.ended()
    assert (slow.target, slow.state, runs.running) == ("slow", "took too long", [])
    state = _run(client, "slow-full").state
    assert state is not None and state.name in ("Cancelling", "Cancelled")
