"""What a node says of itself, on real servers; and nodes that say nothing."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pgproof.errors import TransientError
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.postgres.node_query import measure_nodes
from tests.support import machine
from tests.support.postgres import ClusterFactory
from tests.support.streaming import promote, standby_of


@pytest.mark.parametrize("major", [15, 18])
def test_roles_positions_and_timelines_without_special_rights(
    major: int, cluster_factory: ClusterFactory
) -> None:
    primary = cluster_factory(major)
    primary.psql("CREATE ROLE reader LOGIN; CREATE TABLE t AS SELECT 1 AS x")
    with standby_of(primary, "standby") as standby:
        servers = {
            "primary": primary.config(user="reader"),
            "standby": standby.config(user="reader"),
            "nobody": standby.config(user="nobody"),
        }
        primary.psql("INSERT INTO t VALUES (2)")
        lsn = Lsn.parse(primary.psql("SELECT pg_current_wal_flush_lsn()"))
        machine.wait_until(
            lambda: Lsn.parse(standby.psql("SELECT pg_last_wal_replay_lsn()")) >= lsn, "the replay"
        )
        found = measure_nodes(servers)
        first, second = found["primary"], found["standby"]
        assert isinstance(first, NodeState) and isinstance(second, NodeState)
        assert (first.primary, second.primary) == (True, False)
        assert first.system_identifier == second.system_identifier
        assert (first.timeline, second.timeline) == (1, 1)
        assert first.version // 10_000 == major
        assert first.reached >= lsn and second.reached >= lsn
        assert first.branched_at is None
        assert isinstance(found["nobody"], Exception)
        assert "role" in str(found["nobody"])
        standby.psql("ALTER SYSTEM SET recovery_min_apply_delay = '90s'; SELECT pg_reload_conf()")
        standby.psql("SELECT pg_wal_replay_pause()")
        paused = measure_nodes({"standby": standby.config()})["standby"]
        assert isinstance(paused, NodeState)
        assert (paused.replay_paused, paused.apply_delay, paused.receiver) == (True, 90.0, "streaming")
        standby.psql("SELECT pg_wal_replay_resume()")
        promote(standby)
        promoted = measure_nodes({"standby": standby.config(user="reader")})["standby"]
        assert isinstance(promoted, NodeState)
        assert (promoted.primary, promoted.timeline) == (True, 2)
        assert promoted.branched_at is not None and promoted.branched_at >= lsn


def test_a_frozen_node_is_given_up_in_time(cluster_factory: ClusterFactory) -> None:
    primary = cluster_factory(18)
    os.kill(primary.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        found = measure_nodes({"primary": primary.tcp_config()}, seconds=0.5)["primary"]
        assert isinstance(found, TransientError)
        assert time.monotonic() - begun < 10
    finally:
        os.kill(primary.pid, signal.SIGCONT)
