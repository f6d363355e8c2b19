"""The flow `find-damage`: the table that people read in the UI, from a real repository."""

from __future__ import annotations

import pytest
from prefect.artifacts import Artifact

from flows.find_damage import find_damage
from tests.support.recovery_world import RecoveryWorld


def test_the_table_names_the_harm_and_the_restore(
    prefect_backend: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RecoveryWorld(18) as world:
        world.cluster.psql("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 2000) g")
        world.backup()
        world.cluster.psql("DELETE FROM orders WHERE id <= 1500")
        world.cluster.psql("DELETE FROM orders WHERE id <= 1600")
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
        found = find_damage(server="", repository="")
    (transaction,) = found["transactions"]
    assert transaction["harms"][0]["rows"] == 1500
    artifact = Artifact.get("damage-main")
    assert artifact is not None and isinstance(artifact.data, str)
    assert '"DELETE public.orders: 1,500 rows, in database postgres"' in artifact.data
    assert f"pgproof restore --to-lsn {transaction['restore_lsn']} --exclusive" in artifact.data
    assert "1 transaction found" in str(artifact.description)
