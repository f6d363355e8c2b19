"""The WAL streamer under attack: killed, its store stopped, its server killed, promoted again and again.

After every attack each byte that the server was allowed to recycle is in the repository, as the server wrote
it; at the end of each ground a server that is recovered from the repository has every commit up to there.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from campaigns.campaign import Campaign
from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupConfig
from pgproof.model.wal_stream import APPLICATION_NAME, StreamOptions
from pgproof.repository.wal_archive import WalArchive
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster
from tests.support.s3 import S3Server
from tests.support.streaming import (
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

_KILLS = 100
_SERVER_CRASHES = 20
_STORE_STOPS = 12
_PROMOTIONS = 20
_ATTACKS_ON_A_GROUND = 25
_MAJORS = (18, 17, 15)
_SETTINGS = {"wal_keep_size": "4GB", "wal_sender_timeout": "5s"}
POINTS = (
    *("stream.leased", "stream.connected", "stream.identified", "stream.histories", "stream.settled"),
    *("feed.started", "feed.received", "feed.replied"),
    *("wal.part.stored", "wal.segment.sealed", "wal.segment.stored", "wal.whole.stored"),
    *("wal.tidying", "wal.tidied", "bucket.delete.wal.before", "bucket.delete.wal.after"),
    *("bucket.create.wal.before", "bucket.create.wal.after", "lease.won", "lease.held"),
)


@dataclass
class _Ground:
    """A server with a ledger that never rests, and a repository."""

    cluster: Cluster
    book: Ledger
    base: Path
    config: BackupConfig
    store: S3Server | None

    def streamer(self, chance: random.Random, rules: str = "") -> Streamer:
        options = StreamOptions(
            create_slot=True, part_seconds=chance.choice((0.05, 0.2, 1.0)), synchronous=chance.random() < 0.2
        )
        return Streamer(self.cluster.tcp_config(), self.config, options, rules)

    def require_what_was_promised(self) -> None:
        promised = acknowledged(self.cluster)
        if promised.value:
            require_stored(self.config, self.cluster, 1, promised)

    def require_everything(self, chance: random.Random) -> None:
        """A last streamer catches up; then the server is gone, and another one is made of the repository."""
        with self.streamer(chance) as streamer:
            self.book.wait_for(10)
            self.book.stop()
            end = written(self.cluster)
            wait_for_flush(self.cluster, end, 120)
            # What was replaced outlives the lists that others may be reading.
            machine.wait_until(lambda: not self._replaced_parts(), "replaced parts to be removed", 120)
            streamer.stop()
        self.require_what_was_promised()
        self.cluster.stop("immediate")
        with recovered(self.base, self.config, self.cluster.major) as server, server.connect() as connection:
            self.book.check(connection, end)

    def _replaced_parts(self) -> list[str]:
        archive = WalArchive.open(open_repository(self.config))
        ranges = [each.range for each in archive.inventory(1).pieces]
        whole = {each.segment for each in ranges if each.whole}
        return [each.name for each in ranges if not each.whole and each.segment in whole]


def run(campaign: Campaign) -> None:
    kills = campaign.times(_KILLS, least=2)
    attacks: list[Callable[[_Ground, random.Random], str]] = [_kill] * kills
    attacks += [_crash] * campaign.times(_SERVER_CRASHES, least=1)
    campaign.random("order").shuffle(attacks)
    for number, begin in enumerate(range(0, len(attacks), _ATTACKS_ON_A_GROUND)):
        with _ground(campaign, number, None) as ground:
            _attack(campaign, ground, number, attacks[begin : begin + _ATTACKS_ON_A_GROUND])
    if campaign.share >= 0.05:
        with S3Server() as store, _ground(campaign, 1000, store) as ground:
            stops = [_stop_store, _freeze_store] * (campaign.times(_STORE_STOPS, least=2) // 2)
            _attack(campaign, ground, 1000, stops)
        _promotions(campaign)
        campaign.require("promotions", _PROMOTIONS)
        campaign.require("stores stopped or frozen", _STORE_STOPS, least=2)
    campaign.require("kills of the streamer", _KILLS, least=2)
    campaign.require("kills of the server", _SERVER_CRASHES)


def _attack(
    campaign: Campaign,
    ground: _Ground,
    number: int,
    attacks: list[Callable[[_Ground, random.Random], str]],
) -> None:
    for index, attack in enumerate(attacks):
        campaign.count(attack(ground, campaign.random(f"ground {number} attack {index}")))
        ground.require_what_was_promised()
    ground.require_everything(campaign.random(f"ground {number}"))
    campaign.count("recoveries")


@contextlib.contextmanager
def _ground(campaign: Campaign, number: int, store: S3Server | None) -> Iterator[_Ground]:
    chance = campaign.random(f"ground {number}")
    with ExitStack() as stack:
        cluster = stack.enter_context(
            Cluster(_MAJORS[number % 3], initdb_args=("--wal-segsize=1",), settings=_SETTINGS)
        )
        if store is None:
            config = new_repository(campaign.place / f"repository{number}")
        else:
            place = f"s3://{store.make_bucket(f'stream-{number}')}/r"
            config = store.backup_config(repository_url=place, encryption=False)
            init_repository(config)
        base = copy_of(cluster)
        # WAL is stored from the copy on.
        with Streamer(cluster.tcp_config(), config) as streamer:
            wait_for_flush(cluster, written(cluster))
            streamer.stop()
        book = Ledger(2, pause=0.01, survive_crashes=True, seed=chance.randrange(1_000_000))
        stack.enter_context(book.start(cluster))
        yield _Ground(cluster, book, base, config, store)


def _kill(ground: _Ground, chance: random.Random) -> str:
    """At a named point, or whenever."""
    if chance.random() < 0.5:
        rules = f"{chance.choice(POINTS)}@{chance.choice((1, 1, 2, 3, 7))}=kill"
        with ground.streamer(chance, rules) as streamer:
            for _ in range(6):
                if not streamer.alive:
                    break
                ground.book.wait_for(5)
                ground.cluster.psql("SELECT pg_switch_wal()")
    else:
        with ground.streamer(chance) as streamer:
            streamer.wait_for_log("streaming WAL")
            ground.book.wait_for(chance.randrange(1, 60))
            streamer.kill9()
    return "kills of the streamer"


def _crash(ground: _Ground, chance: random.Random) -> str:
    with ground.streamer(chance) as streamer:
        streamer.wait_for_log("streaming WAL")
        ground.book.wait_for(chance.randrange(5, 40))
        ground.cluster.kill9()
        ground.cluster.start()
        ground.book.wait_for(5)
        wait_for_flush(ground.cluster, written(ground.cluster), 120)
        streamer.stop()
    return "kills of the server"


def _stop_store(ground: _Ground, chance: random.Random) -> str:
    assert ground.store is not None
    with ground.streamer(chance) as streamer:
        wait_for_flush(ground.cluster, written(ground.cluster), 120)
        ground.store.kill9()
        ground.book.wait_for(chance.randrange(20, 80))
        ground.store.start()
        wait_for_flush(ground.cluster, written(ground.cluster), 240)
        streamer.stop()
    return "stores stopped or frozen"


def _freeze_store(ground: _Ground, chance: random.Random) -> str:
    """For longer than wal_sender_timeout: the connection must stand."""
    assert ground.store is not None
    with ground.streamer(chance) as streamer:
        wait_for_flush(ground.cluster, written(ground.cluster), 120)
        before = _walsenders(ground.cluster)
        os.kill(ground.store.pid, signal.SIGSTOP)
        try:
            with contextlib.suppress(TimeoutError):
                machine.wait_until(lambda: _walsenders(ground.cluster) != before, "nothing", 12)
            assert _walsenders(ground.cluster) == before, "the connection was broken by a store that stalls"
        finally:
            os.kill(ground.store.pid, signal.SIGCONT)
        wait_for_flush(ground.cluster, written(ground.cluster), 240)
        streamer.stop()
    return "stores stopped or frozen"


def _promotions(campaign: Campaign) -> None:
    """One server is promoted again and again; the streamer follows, and is killed now and then."""
    chance = campaign.random("promotions")
    config = new_repository(campaign.place / "promotions")
    with (
        Cluster(18, initdb_args=("--wal-segsize=1",), settings=_SETTINGS) as primary,
        standby_of(primary, "standby") as server,
        ExitStack() as stack,
    ):
        base = copy_of(server)
        primary.psql("CREATE TABLE t AS SELECT 1 AS timeline")
        streamer = stack.enter_context(Streamer(server.config(), config))
        streamer.wait_for_log("streaming WAL")
        last = 1 + campaign.times(_PROMOTIONS, least=2)
        for timeline in range(2, last + 1):
            promote(server)
            server.psql(f"INSERT INTO t VALUES ({timeline})")
            if chance.random() < 0.3:
                streamer.kill9()
                streamer = stack.enter_context(Streamer(server.config(), config))
            wait_for_flush(server, written(server), 120)
            campaign.count("promotions")
            if timeline < last:
                server.stop()
                (server.data_dir / "standby.signal").touch()
                server.start()
        streamer.stop()
        archive = WalArchive.open(open_repository(config))
        assert archive.inventory().histories == tuple(range(2, last + 1))
        require_stored(config, server, last, written(server))
        server.stop("immediate")
    with recovered(base, config, 18) as copy:
        assert copy.psql("SELECT count(DISTINCT timeline), max(timeline) FROM t") == f"{last}|{last}"


def _walsenders(cluster: Cluster) -> str:
    return cluster.psql(
        f"SELECT string_agg(pid::text, ' ') FROM pg_stat_replication WHERE application_name = '{APPLICATION_NAME}'"
    )
