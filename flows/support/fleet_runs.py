"""The runs of a fleet: one of a deployment for each target, watched until it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling

from flows.support.publishing import UNREACHABLE
from pgproof.errors import PreconditionError
from pgproof.model.fleet import Target

_AT_A_TIME = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target."""

    target: str
    ok: bool
    state: str
    message: str
    seconds: float
    run_id: str


class FleetRuns:
    """Starts runs of `deployment`. `key` tells fleets apart: a repetition of one finds the runs it has started already."""

    def __init__(
        self,
        client: SyncPrefectClient,
        deployment: str,
        parameters: Mapping[str, Any],
        key: str,
        allowed: timedelta,
    ) -> None:
        self._client, self._parameters, self._key, self._allowed = client, parameters, key, allowed
        self._runs: dict[UUID, tuple[Target, float]] = {}
        try:
            self._deployment = client.read_deployment_by_name(deployment).id
        except ObjectNotFound as error:
            raise PreconditionError(
                "there is no such deployment",
                hint="run `python deployments/bootstrap.py` or `pgproof schedule`",
                deployment=deployment,
            ) from error

    @property
    def running(self) -> list[Target]:
        return [target for target, _ in self._runs.values()]

    def start(self, target: Target) -> Outcome | None:
        """Ask for a run; the outcome of a target for which Prefect refuses one."""
        try:
            run = self._client.create_flow_run_from_deployment(
                self._deployment,
                parameters={**self._parameters, "server": target.name, "repository": target.name},
                name=f"{target.name}-{self._parameters['type']}",
                idempotency_key=f"{self._key}-{target.name}",
            )
        except UNREACHABLE as error:
            return Outcome(target.name, False, "not started", str(error), 0, "")
        self._runs[run.id] = (target, time.monotonic())
        return None

    def ended(self) -> list[Outcome]:
        """Those that have ended since the last call, and those that took too long: they are cancelled."""
        found: list[Outcome] = []
        ids = list(self._runs)
        for begin in range(0, len(ids), _AT_A_TIME):
            some = FlowRunFilterId(any_=ids[begin : begin + _AT_A_TIME])
            try:
                runs = self._client.read_flow_runs(flow_run_filter=FlowRunFilter(id=some), limit=_AT_A_TIME)
                known = {run.id: run for run in runs}
                found += [outcome for id in some.any_ or () if (outcome := self._look_at(id, known.get(id)))]
            except UNREACHABLE as error:
                # The runs go on without the API; whoever is left is asked about the next time.
                get_run_logger().warning("the Prefect API does not answer: %s", error)
                return found
        return found

    def _look_at(self, run_id: UUID, run: FlowRun | None) -> Outcome | None:
        target, begun = self._runs[run_id]
        seconds = time.monotonic() - begun
        if run is None:
            del self._runs[run_id]
            return Outcome(
                target.name, False, "unknown", "somebody has deleted its run", seconds, str(run_id)
            )
        state = run.state
        if state is not None and state.is_final():
            del self._runs[run.id]
            took = run.total_run_time.total_seconds()
            return Outcome(
                target.name, state.is_completed(), state.name or "", state.message or "", took, str(run.id)
            )
        if seconds > self._allowed.total_seconds():
            self._client.set_flow_run_state(run.id, Cancelling(message="it took too long for its fleet"))
            del self._runs[run.id]
            message = f"did not end within {self._allowed}; last seen as {state.name if state else 'unknown'}"
            return Outcome(target.name, False, "took too long", message, seconds, str(run.id))
        return None
