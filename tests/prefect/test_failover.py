"""The flow `failover`: its plan is published, what refuses fails it, and what it did is a report and an event."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State

from flows.failover import failover
from pgproof.actions.recorded import list_actions
from pgproof.errors import PreconditionError
from tests.repository.places import new_repository
from tests.support.postgres import ClusterFactory
from tests.support.replicas import replicated, stop_command


def test_a_failover_is_planned_published_and_done(
    prefect_backend: None, cluster_factory: ClusterFactory, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    them = replicated(cluster_factory, 18, settings={"wal_retrieve_retry_interval": "100ms"})
    repository = new_repository(work_dir / "repository", encryption=False)
    places = [f"{each.socket_dir}:{each.port}" for each in them.replicas.values()]
    settings = {
        "PGHOST": str(them.primary.socket_dir),
        "PGPORT": str(them.primary.port),
        "PGUSER": "postgres",
        "READ_REPLICA_HOSTS": ",".join(places),
        "BACKUP_DIR": str(repository.backup_dir),
        "BACKUP_ENCRYPTION": "false",
        "BACKUP_STATE_DIR": str(work_dir / "state"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    from_environment = {"server": "", "replicas": "", "approved": True}
    state = failover(**from_environment, return_state=True)
    assert isinstance(state, State) and state.is_failed()
    with pytest.raises(PreconditionError, match="the primary is alive and answers"):
        state.result()
    plan = Artifact.get("failover-plan-main")
    assert plan is not None and "**Refused: the primary is alive and answers: primary**" in str(plan.data)
    monkeypatch.setenv("REPLICA_FENCE_COMMAND", stop_command(them.primary))
    them.wait_for_replay()
    them.primary.kill9()
    found = failover(**from_environment)
    assert isinstance(found, dict) and found["ok"] and found["node"] in places
    assert found["followers"][0]["outcome"] == "streaming"
    report = Artifact.get("failover-main")
    assert report is not None and f"{found['node']} is the primary, on timeline 2" in str(report.data)
    records, _damaged = list_actions(repository)
    assert records[-1].command == "replicas promote" and records[-1].program.startswith("prefect failover ")
