"""The flow `rebuild_replica`: it makes an old primary a replica, and publishes how."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from prefect.artifacts import Artifact

from flows.rebuild_replica import rebuild_replica
from tests.support import machine
from tests.support.postgres import ClusterFactory
from tests.support.replicas import replicated
from tests.support.streaming import promote


def test_an_old_primary_is_rebuilt(
    prefect_backend: None, cluster_factory: ClusterFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replicated(cluster_factory, 18, replicas=1)
    old, new = world.primary, world.replicas["replica1"]
    promote(new)
    old.psql("CREATE TABLE lost AS SELECT 1")
    new.psql("CREATE TABLE kept AS SELECT 8 AS eight")
    monkeypatch.setenv("PGHOST", str(old.socket_dir))
    monkeypatch.setenv("PGPORT", str(old.port))
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("READ_REPLICA_HOSTS", f"{new.socket_dir}:{new.port}")
    pg_ctl = shlex.join(machine.as_service_user([str(old.bin / "pg_ctl"), "-D", str(old.data_dir)]))
    monkeypatch.setenv("REPLICA_START_COMMAND", f"{pg_ctl} start -W -l {old.data_dir}/again.log")
    monkeypatch.setenv("PATH", f"{old.bin}:/usr/bin:/bin")
    try:
        found = rebuild_replica(
            "primary", str(old.data_dir), server="", replicas="", repository="", cluster="shop", approved=True
        )
        assert isinstance(found, dict)
        assert (found["way"], found["primary"]) == ("rewind", f"{new.socket_dir}:{new.port}")
        machine.wait_until(lambda: old.psql("SELECT eight FROM kept") == "8", "the replica to follow")
        for name, words in (("rebuild-plan-shop", "bytes of WAL"), ("rebuild-shop", "rewound by pg_rewind")):
            artifact = Artifact.get(name)
            assert artifact is not None and words in str(artifact.data)
    finally:
        subprocess.run(["/bin/sh", "-c", f"{pg_ctl} stop -m immediate"], capture_output=True, check=False)
