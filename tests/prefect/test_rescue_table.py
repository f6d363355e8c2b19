"""The flow `rescue-table`: the report that people read in the UI, and what its result holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from flows.rescue_table import rescue_table
from tests.support.recovery_world import RecoveryWorld


def test_the_report_shows_rows_and_nothing_else_keeps_them(
    prefect_backend: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RecoveryWorld(18) as world:
        world.cluster.psql(
            "CREATE TABLE orders (id int PRIMARY KEY, who text);"
            "INSERT INTO orders SELECT g, 'Zaphod <b>' || g FROM generate_series(1, 2000) g"
        )
        world.backup()
        before = world.cluster.insert_lsn()
        world.cluster.psql(
            "DELETE FROM orders WHERE id <= 1500; UPDATE orders SET who = 'Marvin' WHERE id = 2000"
        )
        world.switch(world.cluster)
        world.push()
        environment = {
            "PGHOST": str(world.cluster.socket_dir),
            "PGPORT": str(world.cluster.port),
            "PGUSER": "postgres",
            "BACKUP_DIR": str(world.config.backup_dir),
            "BACKUP_PASSPHRASE": str(world.config.passphrase),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = rescue_table(
            table="public.orders", repository="", to_lsn=str(before), merge="both", approved=True
        )
        assert (
            world.cluster.psql("SELECT count(*), count(*) FILTER (WHERE who ~ 'Zaphod') FROM orders")
            == "2000|2000"
        )
    assert isinstance(found, dict)
    assert (found["merge"]["inserted"], found["merge"]["updated"]) == (1500, 1)
    assert found["comparison"]["missing"] == 1500
    assert "Zaphod" not in json.dumps(found)
    artifact = Artifact.get("rescue-main")
    assert artifact is not None and isinstance(artifact.data, str)
    assert "1,500 rows missing, 1 changed, 0 new since" in artifact.data
    assert "| missing | backup | 1 | Zaphod &lt;b>1 |" in artifact.data
    assert "| changed | live | 2000 | Marvin |" in artifact.data
    stored = Path(os.environ["PREFECT_HOME"]) / "storage"
    assert not any(b"Zaphod" in path.read_bytes() for path in stored.rglob("*") if path.is_file())
