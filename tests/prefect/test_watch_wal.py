"""The flow `watch-wal`: a table for people, an event for each problem, and a failure that notifies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact

from flows.support.wal_reports import wal_message, wal_rows
from flows.watch_wal import watch_wal
from pgproof.actions.take_backup import take_backup
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from pgproof.model.wal_status import Problem
from tests.model.test_wal_status import FINE
from tests.repository.places import new_repository
from tests.support.postgres import STREAM_PASSWORD, ClusterFactory
from tests.support.streaming import Streamer, wait_for_flush, written


def test_the_flow_fails_while_nobody_streams(
    prefect_backend: None,
    cluster_factory: ClusterFactory,
    work_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = cluster_factory(18)
    postgres, config = cluster.tcp_config(), new_repository(work_dir / "r")
    for name, value in {
        "PGHOST": str(postgres.host),
        "PGPORT": str(postgres.port),
        "PGUSER": str(postgres.user),
        "PGPASSWORD": STREAM_PASSWORD,
        "BACKUP_DIR": str(config.backup_dir),
        "BACKUP_PASSPHRASE": str(config.passphrase),
    }.items():
        monkeypatch.setenv(name, value)
    take_backup(postgres, config, BackupType.FULL, Job())
    with Streamer(postgres, config) as streamer:
        wait_for_flush(cluster, written(cluster))
        answer: Any = watch_wal(server="", repository="")
        assert answer["ok"] and answer["restorable"]
        streamer.stop()
    state: Any = watch_wal(server="", repository="", return_state=True)
    assert state.name == "WalInDanger" and "not-streaming" in state.message
    artifact: Any = Artifact.get("wal-main")
    assert artifact.type == "table"
    assert "not-streaming" in str(artifact.data)


def test_rows_and_message_name_the_problems_first() -> None:
    problem = Problem("gap", "something is missing", "take a backup")
    broken = replace(FINE, problems=(problem,))
    rows = wal_rows(broken)
    assert rows[0] == {"What": "✗ gap", "State": "something is missing. take a backup"}
    assert wal_message(broken).splitlines()[1] == "gap: something is missing (take a backup)"
    rows = wal_rows(FINE)
    assert rows[0]["What"] == "✓ ok"
    assert {"Oldest moment", "Newest moment", "Server", "Slot pgproof", "Stored on timeline 1"} <= {
        row["What"] for row in rows
    }
