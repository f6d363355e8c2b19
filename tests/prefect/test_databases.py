"""The flows `restore-database` and `clone`, on a real repository and server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from flows.clone import clone
from flows.restore_database import restore_database
from tests.support.recovery_world import RecoveryWorld


def test_a_database_back_and_a_masked_copy(
    prefect_backend: None, monkeypatch: pytest.MonkeyPatch, work_dir: Path
) -> None:
    with RecoveryWorld(18) as world:
        world.cluster.psql("CREATE DATABASE app")
        world.cluster.psql(
            "CREATE TABLE orders AS SELECT g AS id, 'x' AS t FROM generate_series(1, 2000) g", "app"
        )
        world.backup()
        world.cluster.psql("DROP TABLE orders", "app")
        environment = {
            "PGHOST": str(world.cluster.socket_dir),
            "PGPORT": str(world.cluster.port),
            "PGUSER": "postgres",
            "BACKUP_DIR": str(world.config.backup_dir),
            "BACKUP_PASSPHRASE": str(world.config.passphrase),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = restore_database("app", server="", repository="", to_backup_end=True, approved=True)
        assert isinstance(found, dict) and found["kept"].startswith("app_before_")
        assert world.cluster.psql("SELECT count(*) FROM orders", "app") == "2000"
        plan = Artifact.get("database-plan-main")
        assert plan is not None and "replaces a database" in str(plan.data)
        report = Artifact.get("database-main")
        assert report is not None and found["kept"] in str(report.data)
        mask = work_dir / "mask.sql"
        mask.write_text("UPDATE orders SET t = 'hidden'")
        copied = clone("app", "dev", server="", repository="", mask=str(mask))
        assert copied["masked"]
        assert world.cluster.psql("SELECT DISTINCT t FROM orders", "dev") == "hidden"
        report = Artifact.get("clone-main")
        assert report is not None and "masked before anybody could connect" in str(report.data).lower()
