"""The ledger's oracle notices what a bad restore does, and nothing else."""

import json
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgproof.model.lsn import Lsn
from tests.support import chains
from tests.support.chains import Commit
from tests.support.churn import Churn
from tests.support.ledger import Ledger
from tests.support.pgbench import Pgbench, initialize
from tests.support.postgres import Cluster, ClusterFactory

StartLedger = Callable[..., Ledger]

DAMAGE = {
    "a removed row": (
        "DELETE FROM ledger.entries WHERE (client, seq) = (1, 20)",
        r"1 acknowledged commits are missing at .*: client 1 seq 20 \(committed between",
    ),
    "the newest commits of a client": (
        "DELETE FROM ledger.entries WHERE client = 0 AND seq > 30",
        "acknowledged commits are missing at .*: client 0 seq 31",
    ),
    "a changed row": (
        "UPDATE ledger.entries SET payload = 'forged' WHERE (client, seq) = (1, 7)",
        "chains are broken: client 1 seq 7 does not follow seq 6",
    ),
    "a changed row with its hash": (
        "UPDATE ledger.entries SET payload = 'forged', hash = repeat('a', 64) WHERE (client, seq) = (1, 7)",
        "1 acknowledged commits have another content at .*: client 1 seq 7",
    ),
    "a wrong counter": (
        "UPDATE ledger.counters SET total = total + 1 WHERE client = 1",
        "1 counters differ from the sums: client 1",
    ),
    "a counter that is missing": (
        "DELETE FROM ledger.counters WHERE client = 1",
        "1 counters differ from the sums: client 1",
    ),
    "a deleted row that is back": (
        "INSERT INTO ledger.recent VALUES (1, 3, 'risen')",
        r"1 deleted rows are back: \(1, 3\)",
    ),
    "a row that is there twice": (
        "INSERT INTO ledger.recent SELECT * FROM ledger.recent LIMIT 1",
        "1 recent rows are doubled",
    ),
    "a recent row that is missing": (
        "DELETE FROM ledger.recent WHERE client = 1",
        "50 recent rows are missing",
    ),
}


@pytest.fixture(scope="module")
def settled() -> Iterator[tuple[Cluster, Ledger, Lsn]]:
    """A cluster with a ledger that has stopped, and its last position."""
    with Cluster() as cluster:
        with Ledger(clients=2).start(cluster) as ledger:
            while {0, 1} - {commit.client for commit in ledger.commits() if commit.seq >= 100}:
                ledger.wait_for(10)
        yield cluster, ledger, cluster.insert_lsn()


def test_a_good_cluster_passes(settled: tuple[Cluster, Ledger, Lsn]) -> None:
    cluster, ledger, lsn = settled
    with cluster.connect() as connection:
        ledger.check(connection, lsn)
        ledger.check(connection, lsn, exact=True)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_named(damage: str, settled: tuple[Cluster, Ledger, Lsn]) -> None:
    cluster, ledger, lsn = settled
    statement, message = DAMAGE[damage]
    with (
        cluster.connect() as connection,
        connection.transaction(force_rollback=True),
        pytest.raises(AssertionError, match=message),
    ):
        connection.execute(statement)
        chains.judge(connection, ledger.commits(), lsn, exact=True)


def test_commits_after_the_target_are_noticed_only_when_exact(settled: tuple[Cluster, Ledger, Lsn]) -> None:
    cluster, ledger, _ = settled
    target = ledger.commits()[50].after
    with cluster.connect() as connection:
        ledger.check(connection, target)
        with pytest.raises(AssertionError, match=f"commits after {target} are present: client"):
            ledger.check(connection, target, exact=True)


def test_the_journal_file_says_the_same(settled: tuple[Cluster, Ledger, Lsn]) -> None:
    _, ledger, _ = settled
    lines = [json.loads(line) for line in ledger.journal.read_text().splitlines()]
    in_file = [
        Commit(**{**line, "before": Lsn.parse(line["before"]), "after": Lsn.parse(line["after"])})
        for line in lines
    ]
    assert in_file == ledger.commits()


def test_a_ledger_survives_crashes_of_the_server(
    cluster_factory: ClusterFactory, ledger: StartLedger
) -> None:
    cluster = cluster_factory()
    running = ledger(cluster, survive_crashes=True)
    for _ in range(3):
        running.wait_for(50)
        cluster.kill9()
        cluster.start()
    running.wait_for(50)
    running.stop()

    with cluster.connect() as connection:
        running.check(connection, cluster.insert_lsn(), exact=True)


def test_a_running_ledger_can_be_checked(cluster_factory: ClusterFactory, ledger: StartLedger) -> None:
    cluster = cluster_factory()
    running = ledger(cluster)
    for _ in range(5):
        running.wait_for(20)
        with cluster.connect() as connection:
            running.check(connection, cluster.insert_lsn())


def test_a_server_that_loses_an_acknowledged_commit_is_noticed(
    cluster_factory: ClusterFactory, ledger: StartLedger
) -> None:
    cluster = cluster_factory()
    running = ledger(cluster, clients=1)
    running.wait_for(20)
    running.stop()
    cluster.psql("DELETE FROM ledger.entries WHERE seq > 5")

    running.start(cluster)
    with pytest.raises(AssertionError, match="the server lost acknowledged commits of client 0"):
        running.wait_for(1)
    with pytest.raises(AssertionError):
        running.stop()


def test_a_stopped_server_ends_a_ledger_that_may_not_survive_it(
    cluster_factory: ClusterFactory, ledger: StartLedger
) -> None:
    cluster = cluster_factory()
    running = ledger(cluster)
    running.wait_for(10)
    cluster.stop()
    with pytest.raises(psycopg.OperationalError):
        running.wait_for(1_000_000)
    with pytest.raises(psycopg.OperationalError):
        running.stop()


@pytest.mark.parametrize("major", [15, 17, 18])
def test_the_storm_does_each_thing_beside_other_work(
    major: int, cluster_factory: ClusterFactory, ledger: StartLedger
) -> None:
    cluster = cluster_factory(major)
    initialize(cluster)
    running = ledger(cluster)
    with Pgbench(cluster), Churn(seed=major).start(cluster) as churn:
        churn.wait_for(60)
        running.wait_for(50)
    running.stop()

    assert len(churn.done) == 13
    assert int(cluster.psql("SELECT count(*) FROM pgbench_history", "bench")) > 0
    with cluster.connect() as connection:
        running.check(connection, cluster.insert_lsn(), exact=True)
