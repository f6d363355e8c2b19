"""Databases restored and cloned by deployments, with the form that somebody fills in before anything is replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, BackupMethod, BackupType
from tests.prefect.stack import Stack
from tests.prefect.test_deployed import PASSPHRASE, cluster, repository, stack
from tests.support import machine
from tests.support.postgres import STREAM_USER, Cluster

__all__ = ["cluster", "repository", "stack"]


def test_a_database_is_replaced_only_when_somebody_approved(
    stack: Stack, cluster: Cluster, repository: Path, work_dir: Path
) -> None:
    # An hourly backup of the whole cluster would be newer than those of this test.
    hourly = stack.get("/deployments/name/backup/hourly-incremental")["id"]
    stack.post(f"/deployments/{hourly}/pause_deployment", {})
    cluster.psql(f"ALTER ROLE {STREAM_USER} CREATEDB; CREATE DATABASE app OWNER {STREAM_USER}")
    cluster.psql(f"SET ROLE {STREAM_USER}; CREATE TABLE t AS SELECT generate_series(1, 100) n", "app")
    config = BackupConfig(
        backup_dir=str(repository), passphrase=PASSPHRASE, method=BackupMethod.LOGICAL, databases=("app",)
    )
    backup = asyncio.run(BackupManager(cluster.config(), config).create_backup(BackupType.FULL)).backup_id
    cluster.psql("DELETE FROM t WHERE n > 7", "app")
    mask = work_dir / "mask.sql"
    mask.write_text("UPDATE t SET n = 0")

    cloned = stack.start("clone/database", source="app", target="dev", mask=str(mask), backup_id=backup)
    asked = [
        stack.start("restore-database/database", database="app", backup_id=each) for each in (backup, "")
    ]
    for run in asked:
        _wait_for(stack, run, "Suspended")
    _wait_for(stack, cloned, "Completed")
    assert cluster.psql("SELECT count(*), sum(n) FROM t", "dev") == "100|0"
    assert cluster.psql("SELECT count(*) FROM t", "app") == "7", "nothing was changed yet"

    # What the UI shows, and what it sends.
    keys = stack.get(f"/flow_runs/{asked[0]}")["state"]["state_details"]["run_input_keyset"]
    form = stack.get(f"/flow_runs/{asked[0]}/input/{keys['schema']}")
    assert {"approve", "database"} <= form["properties"].keys()
    description = stack.get(f"/flow_runs/{asked[0]}/input/{keys['description']}")
    assert "replaces a database" in description and "app_before_" in description
    assert stack.answer(asked[0], approve="perhaps", database="app") == "REJECT"
    assert stack.answer(asked[0], approve=True, database="other") == "ACCEPT"
    _wait_for(stack, asked[0], "Cancelled")
    assert "not typed as it is" in stack.get(f"/flow_runs/{asked[0]}")["state"]["message"]
    assert cluster.psql("SELECT count(*) FROM t", "app") == "7"
    # What was approved is restored, although a newer backup has come in.
    asyncio.run(BackupManager(cluster.config(), config).create_backup(BackupType.FULL))
    assert stack.answer(asked[1], approve=True, database="app") == "ACCEPT"
    _wait_for(stack, asked[1], "Completed")
    assert cluster.psql("SELECT count(*) FROM t", "app") == "100"
    kept = cluster.psql("SELECT datname FROM pg_database WHERE datname ~ '^app_before_'")
    assert cluster.psql("SELECT count(*) FROM t", kept) == "7"
    assert kept in stack.artifact("database-main")


def _wait_for(stack: Stack, run: str, state: str) -> None:
    stopped = {"Suspended", "Completed", "Cancelled", "Failed", "Crashed"}
    before = "Suspended" if state != "Suspended" else ""
    machine.wait_until(
        lambda: stack.state_of(run) in stopped - {before}, f"the run to be {state}", timeout=180
    )
    assert stack.state_of(run) == state, stack.logs_of(run)
