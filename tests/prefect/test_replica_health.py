"""The flow `replica-health`: a table, a chart, events, and each alarm told once with hysteresis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from blocks import ReadReplicas
from deployments.bootstrap import blocks_from_env
from flows.replica_health import replica_health
from pgproof.model.replication_config import ReplicationConfig
from tests.support.postgres import SUPERUSER_PASSWORD, Cluster
from tests.support.receiver import receiver
from tests.support.streaming import standby_of


def test_a_dead_replica_is_told_at_the_second_look_and_its_return_too(
    prefect_backend: None, pg18: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standby_of(pg18, "health") as replica, receiver() as hook:
        for name, value in {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(pg18.port),
            "PGUSER": "postgres",
            "PGPASSWORD": SUPERUSER_PASSWORD,
            "READ_REPLICA_HOSTS": f"127.0.0.1:{replica.port}",
            "BACKUP_STATE_DIR": str(tmp_path),
        }.items():
            monkeypatch.setenv(name, value)
        place = f"127.0.0.1:{replica.port}"
        CustomWebhookNotificationBlock.model_validate(
            {"name": "replicas", "url": hook.url, "json_data": {"title": "{{subject}}", "text": "{{body}}"}}
        ).save("replicas", overwrite=True)

        def look(block: str = "custom-webhook/replicas") -> Any:
            return replica_health(
                server="", replicas="", cluster="shop", notification_block=block, return_state=True
            )

        state = look()
        assert state.is_completed() and state.result()["ok"], state.message
        lag: Any = Artifact.get("replica-lag-shop")
        assert "data:image/svg+xml" in lag.data and "Day by day" in lag.data
        replica.stop()
        assert look().name == "Completed" and hook.received == []
        state = look()
        assert (state.name, state.is_completed()) == ("ReplicasUnhealthy", True)
        assert "does not answer" in state.message
        assert look().name == "ReplicasUnhealthy"
        assert [each["title"] for each in hook.received] == [f"pgproof shop: 1 broken (node-down {place})"]
        table: Any = Artifact.get("replicas-shop")
        rows = {row["Node"]: row for row in json.loads(table.data)}
        assert table.type == "table" and rows["primary"]["Role"] == "✓ primary"
        assert rows[place]["Role"] == "✗ down" and "does not answer" in rows[place]["Problem"]
        # Without anybody to tell the run fails, and so notifies.
        state = look("")
        assert state.is_failed() and state.name == "NobodyTold" and "notification_block" in state.message
        replica.start()
        assert look().name == "ReplicasUnhealthy"
        assert look().result()["ok"]
        assert [each["title"] for each in hook.received][1:] == ["pgproof shop: recovered"]
    pg18.psql("SELECT pg_drop_replication_slot('health')")


def test_the_block_says_the_same_as_the_environment() -> None:
    environment = {
        "BACKUP_DIR": "/backups",
        "READ_REPLICA_HOSTS": "replica1:5433,[::1]:5434",
        "READ_REPLICA_USER": "reader",
        "READ_REPLICA_PASSWORD": "geheim",
        "REPLICA_MAX_LAG_SECONDS": "5",
    }
    block = blocks_from_env("main", environment)["read-replicas/main"]
    assert isinstance(block, ReadReplicas)
    assert block.config() == ReplicationConfig.from_env(environment)
    assert "read-replicas/main" not in blocks_from_env("main", {"BACKUP_DIR": "/backups"})
