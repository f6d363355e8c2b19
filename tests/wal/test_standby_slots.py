"""The slot on standbys: a failover leaves no gap, and what does not work is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.actions.wal_status import wal_status
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.wal_stream import DEFAULT_SLOT, StreamOptions
from pgproof.repository.wal_archive import WalArchive
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster, ClusterFactory
from tests.support.streaming import (
    OPTIONS,
    Streamer,
    acknowledged,
    copy_of,
    promote,
    recovered,
    require_stored,
    standby_of,
    wait_for_flush,
    written,
)

# Nothing is kept but what a slot asks for.
TIGHT = {"wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "2MB"}


@pytest.fixture
def config(work_dir: Path) -> BackupConfig:
    return new_repository(work_dir / "repository")


def either(*servers: Cluster) -> PostgresConfig:
    """The primary among these, as libpq finds it."""
    ports = ",".join(str(each.port) for each in servers)
    options = {"port": ports, "target_session_attrs": "primary"}
    hosts = ",".join("127.0.0.1" for _ in servers)
    return PostgresConfig(host=hosts, user=STREAM_USER, password=STREAM_PASSWORD, options=options)


def slot_of(server: Cluster) -> str:
    return server.psql(f"SELECT slot_name FROM pg_replication_slots WHERE slot_name = '{DEFAULT_SLOT}'")


def _write(cluster: Cluster, megabytes: int) -> None:
    for _ in range(megabytes):
        cluster.psql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 1000000)); CHECKPOINT")


def _replayed(standby: Cluster, lsn: Lsn) -> None:
    machine.wait_until(
        lambda: Lsn.parse(standby.psql("SELECT pg_last_wal_replay_lsn()")) >= lsn, "the standby to replay"
    )


@pytest.mark.parametrize(("major", "kept"), [(15, True), (18, True), (18, False)])
def test_a_failover_leaves_no_gap(
    major: int, kept: bool, cluster_factory: ClusterFactory, config: BackupConfig
) -> None:
    """The streamer was away while the primary wrote much and died, and the standby has recycled all that it may."""
    old = cluster_factory(major, initdb_args=("--wal-segsize=1",), settings=TIGHT)
    with standby_of(old, "standby") as new:
        servers = either(old, new)
        with Streamer(servers, config) as streamer:
            machine.wait_until(lambda: slot_of(new) == DEFAULT_SLOT, "the slot on the standby")
            base = copy_of(old)
            _write(old, 4)
            stored = written(old)
            wait_for_flush(old, stored)
            _replayed(new, stored)
            machine.wait_until(lambda: acknowledged(new) >= stored, "the standby's slot to be moved forward")
            streamer.kill9()
        if not kept:
            new.psql(f"SELECT pg_drop_replication_slot('{DEFAULT_SLOT}')")
        old.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) g")
        _write(old, 12)
        end = written(old)
        _replayed(new, end)
        new.psql("CHECKPOINT")
        old.kill9()
        promote(new)
        new.psql("CREATE TABLE after_the_failover AS SELECT 1 AS x")
        _write(new, 4)
        with Streamer(servers, config) as streamer:
            streamer.wait_for_log("timeline=2 ")
            wait_for_flush(new, written(new))
            streamer.stop()
            assert ("GAP" in streamer.log) is not kept
        archive = WalArchive.open(open_repository(config))
        (switch,) = archive.history(2).switches
        (stretch,) = archive.inventory().coverage().of_timeline(1)
        assert (stretch.end == switch.at) is kept
        if not kept:
            return
        require_stored(config, new, 2, acknowledged(new))
        new.stop("immediate")
    with recovered(base, config, major) as server:
        assert server.psql("SELECT count(*) FROM t") == "1000"
        assert server.psql("SELECT count(*) FROM after_the_failover") == "1"


def test_what_is_wrong_with_a_standbys_slot_is_told(
    cluster_factory: ClusterFactory, config: BackupConfig
) -> None:
    primary, stranger = cluster_factory(17, settings={"wal_keep_size": "64MB"}), cluster_factory(18)
    with standby_of(primary, "standby") as standby:
        servers = either(primary, standby, stranger)
        with Streamer(servers, config, StreamOptions(create_slot=False)) as streamer:
            assert streamer.wait() == 1, "no slot, and nobody may make one"
        assert slot_of(standby) == ""
        with Streamer(either(primary), config) as streamer:
            wait_for_flush(primary, written(primary))
            streamer.stop()
        with Streamer(servers, config, StreamOptions(create_slot=False)) as streamer:
            streamer.wait_for_log("the standby has no such replication slot")
            wait_for_flush(primary, written(primary))
            assert _standby_problems(servers, config) == ["standby-slot-missing"]
            streamer.stop()
        with Streamer(servers, config, OPTIONS) as streamer:
            machine.wait_until(lambda: slot_of(standby) == DEFAULT_SLOT, "the slot on the standby")
            assert _standby_problems(servers, config) == []
            standby.stop()
            assert _standby_problems(servers, config) == ["standby-unknown"]
            streamer.wait_for_log("the slot is not kept on 127.0.0.1")
            primary.psql("SELECT pg_switch_wal()")
            wait_for_flush(primary, written(primary))
            standby.start()
            machine.wait_until(
                lambda: acknowledged(standby) >= written(primary), "the slot to be moved again"
            )
            streamer.stop()
    assert slot_of(stranger) == ""


def _standby_problems(servers: PostgresConfig, config: BackupConfig) -> list[str]:
    return [each.kind for each in wal_status(servers, config).problems if each.kind.startswith("standby")]
