"""The streamer on real servers: what the server may recycle is stored, whatever is killed or stalls."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.wal_merging import MOST_PARTS, longest
from pgproof.model.wal_names import StoredRange
from pgproof.model.wal_stream import APPLICATION_NAME, StreamOptions
from pgproof.repository.wal_archive import WalArchive
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.forgetful_fs import ForgetfulDisk
from tests.support.ledger import Ledger
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster, ClusterFactory
from tests.support.s3 import S3Server
from tests.support.streaming import (
    OPTIONS,
    Streamer,
    acknowledged,
    copy_of,
    flushed,
    promote,
    recovered,
    require_stored,
    standby_of,
    wait_for_flush,
    written,
)

SMALL = {"initdb_args": ("--wal-segsize=1",), "settings": {"wal_keep_size": "512MB"}}
LedgerStart = Callable[..., Ledger]

# Where a kill would show a wrong order: each lies behind something that was promised or stored.
POINTS = (
    "stream.leased",
    "stream.slotless",
    "stream.histories",
    "stream.settled",
    "feed.started",
    "feed.received@40",
    "feed.replied@5",
    "wal.part.stored@3",
    "wal.segment.sealed@4",
    "wal.segment.stored@4",
    "wal.whole.stored",
    "wal.tidying",
    "bucket.delete.wal.before@2",
    "bucket.delete.wal.after@2",
    "wal.tidied",
)


@pytest.fixture
def config(work_dir: Path) -> BackupConfig:
    return new_repository(work_dir / "repository")


@pytest.mark.parametrize("major", [15, 17, 18])
def test_killed_at_any_moment_it_has_what_it_acknowledged(
    major: int, cluster_factory: ClusterFactory, ledger: LedgerStart, config: BackupConfig
) -> None:
    cluster = cluster_factory(major, **SMALL)
    base = copy_of(cluster)
    begin = cluster.insert_lsn()
    with Streamer(cluster.tcp_config(), config) as first:
        wait_for_flush(cluster, written(cluster))
        first.stop()
    book, chance = ledger(cluster, clients=2, pause=0.01), random.Random(major)
    # Each version is killed at its share of the points, and at moments besides.
    points = [*POINTS[major % 3 :: 3], None, None]
    for point in points:
        rules = f"{point}=kill" if point else ""
        with Streamer(cluster.tcp_config(), config, rules=rules) as streamer:
            if point in ("stream.slotless",):
                streamer.kill9()
            elif point is None:
                wait_for_flush(cluster, written(cluster))
                book.wait_for(chance.randrange(1, 40))
                streamer.kill9()
            else:
                cluster.psql("SELECT pg_switch_wal()")
                machine.wait_until(lambda s=streamer: not s.alive, f"the kill at {point}")  # type: ignore[misc]
        assert require_stored(config, cluster, 1, acknowledged(cluster)) <= begin
    with Streamer(cluster.tcp_config(), config) as streamer:
        book.wait_for(20)
        book.stop()
        end = written(cluster)
        wait_for_flush(cluster, end)
        machine.wait_until(lambda: not _left_over(config), "leftover parts to go")
        streamer.stop()
    cluster.stop("immediate")
    with recovered(base, config, major) as server, server.connect() as connection:
        book.check(connection, end)


def _left_over(config: BackupConfig) -> list[str]:
    names = [each.range for each in WalArchive.open(open_repository(config)).inventory(1).pieces]
    whole = {each.segment for each in names if each.whole}
    return [each.name for each in names if not each.whole and each.segment in whole]


def test_a_store_that_stalls_does_not_break_the_connection(
    cluster_factory: ClusterFactory, ledger: LedgerStart
) -> None:
    """Longer than wal_sender_timeout, with more WAL than is held in memory (C2, C26)."""
    cluster = cluster_factory(18, settings={"wal_sender_timeout": "3s", "wal_keep_size": "512MB"})
    with S3Server() as store:
        config = _s3_repository(store, "stall")
        with Streamer(cluster.tcp_config(), config) as streamer:
            wait_for_flush(cluster, written(cluster))
            (walsender,) = _walsenders(cluster)
            os.kill(store.pid, signal.SIGSTOP)
            stalled, since = cluster.insert_lsn(), time.monotonic()
            try:
                cluster.psql(
                    "SELECT count(pg_logical_emit_message(true, 'x', repeat(md5(g::text), 30000)))"
                    " FROM generate_series(1, 200) g"
                )
                machine.wait_until(lambda: time.monotonic() > since + 8, "the store to stall")
                assert _walsenders(cluster) == [walsender], "the connection was not broken"
                assert flushed(cluster) <= stalled
                resident = _resident_megabytes(streamer.pid)
                print(f"resident while the store stalled: {resident:.0f} MB")
                assert resident < 400, "memory is bounded while the store stalls"
            finally:
                os.kill(store.pid, signal.SIGCONT)
            wait_for_flush(cluster, written(cluster), 120)
            assert _walsenders(cluster) == [walsender]
            streamer.stop()
        require_stored(config, cluster, 1, acknowledged(cluster))


def test_a_server_that_is_killed_is_streamed_again(
    cluster_factory: ClusterFactory, ledger: LedgerStart, config: BackupConfig
) -> None:
    cluster = cluster_factory(17, **SMALL)
    book = ledger(cluster, clients=2, pause=0.01, survive_crashes=True)
    with Streamer(cluster.tcp_config(), config) as streamer:
        for _ in range(2):
            book.wait_for(20)
            wait_for_flush(cluster, acknowledged(cluster) + 1)
            cluster.kill9()
            cluster.start()
            book.wait_for(5)
            wait_for_flush(cluster, written(cluster))
        streamer.stop()
        assert "the connection to the server was lost" in streamer.log or "cannot be reached" in streamer.log
    require_stored(config, cluster, 1, acknowledged(cluster))


def test_promotions_are_followed(cluster_factory: ClusterFactory, config: BackupConfig) -> None:
    """One server promoted again and again, and followed without a reconnect of ours (C10)."""
    major = random.choice([15, 17, 18])
    primary = cluster_factory(major, **SMALL)
    with standby_of(primary, "standby") as server, Streamer(server.config(), config) as streamer:
        base = copy_of(server)
        primary.psql("CREATE TABLE t AS SELECT 1 AS timeline")
        streamer.wait_for_log("streaming WAL")
        for timeline in range(2, 5):
            promote(server)
            streamer.wait_for_log(f"timeline={timeline} ")
            server.psql(f"CREATE TABLE IF NOT EXISTS t (timeline int); INSERT INTO t VALUES ({timeline})")
            end = written(server)
            wait_for_flush(server, end)
            if timeline < 4:
                server.stop()
                (server.data_dir / "standby.signal").touch()
                server.start()
                machine.wait_until(lambda: flushed(server) > Lsn(0), "the reconnect")
        streamer.stop()
        archive = WalArchive.open(open_repository(config))
        assert archive.inventory().histories == (2, 3, 4)
        # From the segment with the switch on, and nothing of the old timeline is missing before it.
        for timeline in (2, 3, 4):
            history = archive.history(timeline)
            coverage = archive.inventory().coverage()
            for switch in history.switches:
                assert coverage.of_timeline(switch.timeline)[-1].end == switch.at
            (stretch,) = coverage.of_timeline(timeline)
            assert stretch.start == history.begin.segment_start(1 << 20)
        require_stored(config, server, 4, end)
        rows = server.psql("SELECT string_agg(timeline::text, ' ' ORDER BY timeline) FROM t")
        server.stop("immediate")
    with recovered(base, config, major) as copy:
        assert copy.psql("SELECT string_agg(timeline::text, ' ' ORDER BY timeline) FROM t") == rows


def test_a_failover_fetches_the_rest_of_the_old_timeline_from_the_new_primary(
    cluster_factory: ClusterFactory, ledger: LedgerStart, config: BackupConfig
) -> None:
    """The streamer was behind or ahead when the primary died; the slot is made anew, with WAL reserved (C5, C23)."""
    old = cluster_factory(18, **SMALL)
    with standby_of(old, "standby") as new:
        base = copy_of(old)
        places = {"port": f"{old.port},{new.port}", "target_session_attrs": "primary"}
        either = PostgresConfig(
            host="127.0.0.1,127.0.0.1", user=STREAM_USER, password=STREAM_PASSWORD, options=places
        )
        book = ledger(old, clients=2, pause=0.01)
        with Streamer(either, config) as streamer:
            wait_for_flush(old, written(old))
            streamer.kill9()
        book.wait_for(40)
        book.stop()
        behind = acknowledged(old)
        end = old.insert_lsn()
        machine.wait_until(
            lambda: Lsn.parse(new.psql("SELECT pg_last_wal_receive_lsn()")) >= end, "the standby to have it"
        )
        old.kill9()
        promote(new)
        new.psql("CREATE TABLE after_the_failover AS SELECT 1 AS x")
        with Streamer(either, config) as streamer:
            streamer.wait_for_log("timeline=2 ")
            wait_for_flush(new, written(new))
            streamer.stop()
            assert "GAP" not in streamer.log
        archive = WalArchive.open(open_repository(config))
        (switch,) = archive.history(2).switches
        assert behind < end <= switch.at
        (stretch,) = archive.inventory().coverage().of_timeline(1)
        assert stretch.end == switch.at
        new.stop("immediate")
    with recovered(base, config, 18) as server, server.connect() as connection:
        book.check(connection, end)
        assert server.psql("SELECT count(*) FROM after_the_failover") == "1"


def test_what_the_old_primary_wrote_behind_the_switch_is_never_served(
    cluster_factory: ClusterFactory, config: BackupConfig
) -> None:
    """The streamer has WAL that the standby never got: it stays under its timeline (C11)."""
    old = cluster_factory(18, **SMALL)
    with standby_of(old, "standby") as new:
        base = copy_of(old)
        with Streamer(old.tcp_config(), config) as streamer:
            wait_for_flush(old, written(old))
            new.stop()
            old.psql("CREATE TABLE divergent AS SELECT generate_series(1, 20000) g")
            wait_for_flush(old, written(old))
            streamer.stop()
        tail = acknowledged(old)
        old.kill9()
        new.start()
        promote(new)
        new.psql("CREATE TABLE on_the_new_primary AS SELECT 1 AS x")
        with Streamer(new.tcp_config(), config) as streamer:
            streamer.wait_for_log("timeline=2 ")
            wait_for_flush(new, written(new))
            streamer.stop()
        archive = WalArchive.open(open_repository(config))
        (switch,) = archive.history(2).switches
        (stretch,) = archive.inventory().coverage().of_timeline(1)
        assert switch.at < tail <= stretch.end, "the tail was kept"
        new.stop("immediate")
    with recovered(base, config, 18) as server:
        assert server.psql("SELECT to_regclass('divergent'), to_regclass('on_the_new_primary')") == (
            "|on_the_new_primary"
        )


def test_two_servers_of_the_same_timeline_are_told_apart(
    cluster_factory: ClusterFactory, config: BackupConfig
) -> None:
    """Two clones promoted to timeline 2 into one repository (C12)."""
    primary = cluster_factory(18, **SMALL)
    with standby_of(primary, "one") as one, standby_of(primary, "two") as two:
        primary.stop()
        for clone in (one, two):
            promote(clone)
            clone.psql(f"CREATE TABLE t AS SELECT generate_series(1, 100) g; SELECT '{clone.port}'")
        one.psql("SELECT count(pg_logical_emit_message(true, 'x', repeat('one', 100)))")
        two.psql("SELECT count(pg_logical_emit_message(true, 'x', repeat('two', 400000)))")
        with Streamer(one.tcp_config(), config) as streamer:
            wait_for_flush(one, written(one))
            streamer.stop()
        with Streamer(two.tcp_config(), config) as streamer:
            assert streamer.wait() == 1
            assert "ConflictError" in streamer.log and "--cluster" in streamer.log
        assert acknowledged(two) < one.insert_lsn(), "nothing was acknowledged to the other one"
        require_stored(config, one, 2, acknowledged(one))


def test_a_lost_slot_is_a_gap_with_a_name(cluster_factory: ClusterFactory, config: BackupConfig) -> None:
    cluster = cluster_factory(
        18,
        initdb_args=("--wal-segsize=1",),
        settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "2MB"},
    )
    with Streamer(cluster.tcp_config(), config) as streamer:
        wait_for_flush(cluster, written(cluster))
        streamer.stop()
    for _ in range(8):
        cluster.psql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 900000)); CHECKPOINT")
    assert cluster.psql("SELECT wal_status FROM pg_replication_slots") == "lost"
    with Streamer(cluster.tcp_config(), config, StreamOptions()) as streamer:
        assert streamer.wait() == 1
        assert "keeps no WAL" in streamer.log and "--create-slot" in streamer.log
    with Streamer(cluster.tcp_config(), config) as streamer:
        streamer.wait_for_log("GAP in the WAL from")
        wait_for_flush(cluster, written(cluster))
        streamer.stop()
    archive = WalArchive.open(open_repository(config))
    (gap,) = archive.inventory().coverage().gaps(1)
    assert f"from {gap.start} of timeline 1 to {gap.end}" in streamer.log
    assert cluster.psql("SELECT wal_status FROM pg_replication_slots") == "reserved"


def test_what_is_refused(cluster_factory: ClusterFactory, config: BackupConfig) -> None:
    cluster, other = cluster_factory(18), cluster_factory(17)
    with Streamer(cluster.tcp_config(), config, StreamOptions()) as streamer:
        assert streamer.wait() == 1
        assert "no such replication slot" in streamer.log and "--create-slot" in streamer.log
    with Streamer(cluster.tcp_config(), config) as streamer:
        wait_for_flush(cluster, written(cluster))
        with Streamer(cluster.tcp_config(), config) as second:
            assert second.wait() == 1
            assert "another wal of this cluster is running" in second.log
        streamer.stop()
    with Streamer(other.tcp_config(), config) as streamer:
        assert streamer.wait() == 1
        assert "another cluster" in streamer.log
    assert other.psql("SELECT count(*) FROM pg_replication_slots") == "0"
    cluster.psql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    cluster.psql("SELECT pg_reload_conf()")
    with Streamer(cluster.tcp_config(), config) as streamer:
        assert streamer.wait() == 1
        assert "synchronous_standby_names is *" in streamer.log


def _s3_repository(store: S3Server, bucket: str) -> BackupConfig:
    place = f"s3://{store.make_bucket(f'wal-{bucket}')}/r"
    config = store.backup_config(repository_url=place, encryption=False)
    init_repository(config)
    return config


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_commit_returns_when_its_wal_is_in_the_repository(
    where: str, cluster_factory: ClusterFactory, work_dir: Path, s3: S3Server
) -> None:
    config = new_repository(work_dir / "r") if where == "local" else _s3_repository(s3, "sync")
    cluster = cluster_factory(18, settings={"wal_keep_size": "512MB"})
    cluster.psql(f"CREATE TABLE t (i int); ALTER SYSTEM SET synchronous_standby_names = '{APPLICATION_NAME}'")
    cluster.psql("SELECT pg_reload_conf()")
    took: list[float] = []
    with Streamer(cluster.tcp_config(), config, StreamOptions(create_slot=True)) as streamer:
        machine.wait_until(
            lambda: cluster.psql("SELECT string_agg(sync_state, '') FROM pg_stat_replication") == "sync",
            "the streamer to be synchronous",
        )
        archive = WalArchive.open(open_repository(config))
        with cluster.connect() as connection:
            for number in range(40):
                begun = time.monotonic()
                connection.execute("INSERT INTO t VALUES (%s)", [number])
                took.append(1000 * (time.monotonic() - begun))
                if number % 10 == 0:
                    row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
                    assert row is not None
                    assert archive.inventory(1).coverage().of_timeline(1)[-1].end >= Lsn.parse(row[0])
        streamer.kill9()
    print(f"commit on {where}: median {statistics.median(took):.1f} ms, worst {max(took):.1f} ms")
    require_stored(config, cluster, 1, acknowledged(cluster))
    cluster.psql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")


def test_a_commit_that_returned_outlives_a_power_cut(cluster_factory: ClusterFactory) -> None:
    """The power goes right behind a COMMIT, and the streamer with it: of what it had not synced, anything may be gone."""
    cluster = cluster_factory(18, settings={"wal_keep_size": "512MB"})
    cluster.psql(f"CREATE TABLE t (i int); ALTER SYSTEM SET synchronous_standby_names = '{APPLICATION_NAME}'")
    cluster.psql("SELECT pg_reload_conf()")
    with ForgetfulDisk() as disk:
        config = new_repository(disk.path / "r")
        for seed in range(5):
            with Streamer(cluster.tcp_config(), config, StreamOptions(create_slot=True)) as streamer:
                machine.wait_until(
                    lambda: (
                        cluster.psql("SELECT string_agg(sync_state, '') FROM pg_stat_replication") == "sync"
                    ),
                    "the streamer to be synchronous",
                )
                with cluster.connect() as connection:
                    for number in range(3 + 7 * seed):
                        connection.execute("INSERT INTO t VALUES (%s)", [number])
                        row = connection.execute("SELECT flush_lsn::text FROM pg_stat_replication").fetchone()
                disk.cut()
                streamer.kill9()
            disk.power_on(f"stream {seed}")
            assert row is not None
            require_stored(config, cluster, 1, Lsn.parse(row[0]))
    cluster.psql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")


def test_a_synchronous_server_leaves_few_parts(
    cluster_factory: ClusterFactory, ledger: LedgerStart, config: BackupConfig
) -> None:
    """Each commit is a part, and parts are merged; one life ends between storing a longer part and removing the others."""
    cluster = cluster_factory(17, settings={"wal_keep_size": "512MB"})
    base = copy_of(cluster)
    book = ledger(cluster, clients=1, pause=0)
    with Streamer(cluster.tcp_config(), config, rules="wal.merged=kill") as streamer:
        machine.wait_until(lambda: flushed(cluster) > Lsn(0), "the streamer")
        with _waited_for(cluster):
            machine.wait_until(lambda: not streamer.alive, "the kill")
            archive = WalArchive.open(open_repository(config))

            def parts() -> list[StoredRange]:
                return [each.range for each in archive.inventory(1).pieces if not each.range.whole]

            assert len(parts()) > len(longest(parts())), "the longer part lies beside those that it replaces"
            require_stored(config, cluster, 1, acknowledged(cluster))
            with Streamer(cluster.tcp_config(), config) as streamer:
                for _ in range(4):
                    book.wait_for(150)
                    machine.wait_until(
                        lambda: len(longest(parts())) < 2 * MOST_PARTS, "the parts to be merged"
                    )
                    require_stored(config, cluster, 1, acknowledged(cluster))
                book.stop()
                end = written(cluster)
                wait_for_flush(cluster, end)
                machine.wait_until(
                    lambda: len(parts()) == len(longest(parts())) < MOST_PARTS, "what was replaced to go"
                )
                print(f"{len(book.commits())} commits, {len(parts())} parts")
                streamer.stop()
    cluster.stop("immediate")
    with recovered(base, config, 17) as server, server.connect() as connection:
        book.check(connection, end)


@contextlib.contextmanager
def _waited_for(cluster: Cluster) -> Iterator[None]:
    """Commits wait for the streamer, as long as the block lasts."""
    cluster.psql(
        f"ALTER SYSTEM SET synchronous_standby_names = '{APPLICATION_NAME}'; SELECT pg_reload_conf()"
    )
    try:
        yield
    finally:
        cluster.psql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")


def _walsenders(cluster: Cluster) -> list[str]:
    return cluster.psql(
        f"SELECT pid FROM pg_stat_replication WHERE application_name = '{OPTIONS.application_name}'"
    ).split()


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
