"""Failovers of clusters that are written to: killed, frozen and switched over, with and without synchronous replication.

A ledger knows every commit that was acknowledged. Nothing that the plan promised to keep may be missing; with synchronous
replication, and after a switchover, nothing at all may; the other standbys have the same rows.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

from campaigns.campaign import Campaign
from pgproof.actions.failover import failover, prepare_failover
from pgproof.errors import ConflictError
from pgproof.model.failover_evidence import FailoverRequest, LastPrimary
from pgproof.model.failover_plan import Decision, Kind
from pgproof.model.failover_report import FailoverReport, Outcome
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.replication_config import ReplicationConfig
from pgproof.postgres.node_query import measure_nodes
from tests.support import machine
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.replicas import Replicated, replicated, stop_command

_ROUNDS = 60
_MAJORS = (15, 18)
_WAYS = ("asynchronous", "synchronous", "switchover", "asynchronous")
_SETTINGS = {"wal_retrieve_retry_interval": "100ms"}
_NAMES = "replica1, replica2, replica3"
_ALL = Lsn(2**63)


def run(campaign: Campaign) -> None:
    for number, chance in campaign.rounds(_ROUNDS, least=2):
        turn, place = divmod(number, len(_WAYS))
        way, major = _WAYS[place], _MAJORS[(turn + place) % len(_MAJORS)]
        with ExitStack() as stack:
            them = replicated(ClusterFactory(stack), major, replicas=3, settings=_SETTINGS)
            _round(campaign, them, way, chance)
        campaign.count(f"on {major}")
        campaign.count(way)
    campaign.require("failovers", _ROUNDS, least=2)
    campaign.require("standbys led over", 2 * _ROUNDS, least=4)
    if campaign.share >= 1:
        assert campaign.counts["commits lost, none of them promised"] > 0, "no plan had anything to lose"


def _round(campaign: Campaign, them: Replicated, way: str, chance: random.Random) -> None:
    if way == "synchronous":
        _synchronous(them.primary)
    config = them.config(fence_command=stop_command(them.primary, "fast" if way == "switchover" else "kill"))
    with Ledger(clients=3, survive_crashes=True, seed=chance.randrange(1 << 30)) as ledger:
        ledger.start(them.primary)
        ledger.wait_for(chance.randrange(20, 300))
        if way == "switchover":
            report = _switch(them, config, chance)
            ledger.stop()
        else:
            with _receivers_frozen(them, 3 if way == "asynchronous" else 2, chance) as frozen:
                time.sleep(chance.uniform(0.0, 1.0))
                last = _last(them)
                # What is acknowledged from here on the plan knows nothing of.
                time.sleep(chance.uniform(0.0, 0.3))
                campaign.count(_crash(them.primary, chance))
                campaign.count("receivers frozen", len(frozen))
            report = _fail_over(campaign, them, config, last)
            ledger.stop()
        _judge(campaign, them, ledger, report, everything=way != "asynchronous")
    campaign.count("failovers")


def _synchronous(primary: Cluster) -> None:
    primary.psql(f"ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({_NAMES})'")
    primary.psql("SELECT pg_reload_conf()")
    machine.wait_until(
        lambda: primary.psql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'") == "3",
        "synchronous replication",
    )


def _switch(them: Replicated, config: ReplicationConfig, chance: random.Random) -> FailoverReport:
    node = chance.choice(list(them.replicas))
    report = failover(them.postgres, config, None, FailoverRequest(node), Job())
    assert report.node == node and report.plan.loss is not None and report.plan.loss.guaranteed
    return report


def _fail_over(
    campaign: Campaign, them: Replicated, config: ReplicationConfig, last: LastPrimary
) -> FailoverReport:
    request = FailoverRequest()
    plan = prepare_failover(them.postgres, config, None, request, last)
    plan.require()
    assert plan.kind is Kind.FAILOVER and plan.loss is not None
    asked: Decision | None = plan.decision
    if last.synchronous_standby_names:
        assert plan.loss.guaranteed, plan.loss.why
        campaign.count("plans that guaranteed that nothing is lost")
    while True:
        try:
            return failover(them.postgres, config, None, request, Job(), approved=asked, last=last)
        except ConflictError:
            # What was on its way has made another one the best.
            campaign.count("plans that were made anew behind the fence")
            asked = None


def _judge(
    campaign: Campaign, them: Replicated, ledger: Ledger, report: FailoverReport, *, everything: bool
) -> None:
    assert report.ok, report
    branch, promised = report.branched_at, report.promised
    assert branch is not None and promised is not None and report.timeline == 2
    new, commits = them.replicas[report.node], ledger.commits()
    assert new.psql("SELECT pg_is_in_recovery()") == "f"
    new.psql("CREATE TABLE after_the_failover AS SELECT 1 AS x")
    written = new.psql("SELECT pg_current_wal_flush_lsn()")
    followers = {each.node: each.outcome for each in report.followers}
    assert set(followers) == set(them.replicas) - {report.node}
    assert set(followers.values()) == {Outcome.STREAMING}, report.followers
    for node in followers:
        standby = them.replicas[node]
        machine.wait_until(
            lambda standby=standby: (
                standby.psql(  # type: ignore[misc]
                    f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
                )
                == "t"
            ),
            f"{node} to follow",
        )
        campaign.count("standbys led over")
    for server in (new, *(them.replicas[node] for node in followers)):
        with server.connect() as connection:
            ledger.check(connection, _ALL if everything else max(branch, promised))
            rows = connection.execute("SELECT client, seq FROM ledger.entries").fetchall()
    there = set(map(tuple, rows))
    lost = [each for each in commits if each.key not in there]
    assert all(each.after > promised for each in lost)
    campaign.count("commits acknowledged", len(commits))
    campaign.count("commits lost, none of them promised", len(lost))
    campaign.count("rounds that lost commits", bool(lost))
    seconds = report.unwritable_seconds or 0.0
    campaign.notes["longest without writes, seconds"] = max(
        round(seconds, 1), campaign.notes.get("longest without writes, seconds", 0.0)
    )


def _last(them: Replicated) -> LastPrimary:
    state = measure_nodes({"primary": them.postgres})["primary"]
    assert isinstance(state, NodeState) and state.position is not None
    names = them.primary.psql("SHOW synchronous_standby_names")
    return LastPrimary(1, state.position, state.at, synchronous_standby_names=names)


@contextlib.contextmanager
def _receivers_frozen(them: Replicated, most: int, chance: random.Random) -> Iterator[list[int]]:
    """So many at most receive nothing until the block ends, when what was sent to them still comes."""
    chosen = chance.sample(list(them.replicas.values()), chance.randint(0, most))
    pids = [int(each.psql("SELECT pid FROM pg_stat_wal_receiver")) for each in chosen]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _freeze(cluster: Cluster) -> None:
    """All of its processes stand still; connections to it are taken by the kernel, and get no answer."""
    os.kill(cluster.pid, signal.SIGSTOP)
    for pid in machine.children(cluster.pid):
        os.kill(pid, signal.SIGSTOP)


_CRASHES = {
    "kill -9": lambda cluster: cluster.kill9(),
    "immediate stop": lambda cluster: cluster.stop("immediate"),
    "frozen": _freeze,
}


def _crash(cluster: Cluster, chance: random.Random) -> str:
    how = chance.choice(list(_CRASHES))
    _CRASHES[how](cluster)
    return how
