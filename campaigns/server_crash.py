"""Kill -9 and immediate stops of PostgreSQL while it is backed up.

The backup fails with an error that says what to do, or it is whole; the server comes back with every
acknowledged commit; the next backup succeeds; and what is committed restores to what the ledger knows.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg

from campaigns import crash_judge as judge
from campaigns import crash_points as points
from campaigns.campaign import Campaign
from campaigns.crash_ground import Ended, Ground, Store
from campaigns.crash_workers import on_grounds
from pgproof.cli.exits import Exit
from tests.support import machine
from tests.support.postgres import Cluster
from tests.support.s3 import S3Server

_CRASHES = 100
_ROUNDS_ON_A_GROUND = 25
_MAJORS = (18, 17, 15, 18)
_RATES = (4_000, 10_000, 20_000)  # kilobytes a second
_SECONDS = 6.0
# Where the backup stands still while the server crashes: everything up to the commit needs the server.
_POINTS = (
    *("backup.leased", "backup.connected", "backup.intended", "backup.context", "wal.slot", "wal.streaming"),
    *(
        "base.asked",
        "base.started",
        "base.archive",
        "base.data",
        "base.manifest",
        "base.copied",
        "base.ended",
    ),
    *("receive.file", "receive.complete", "wal.received", "backup.mapped", "backup.waiting", "wal.ending"),
    *("backup.enough", "backup.checked", "bucket.create.manifest.before"),
)


def run(campaign: Campaign) -> None:
    with ExitStack() as stack:
        s3 = stack.enter_context(S3Server()) if campaign.share >= 0.1 else None

        def ground_for(number: int) -> Ground:
            place = campaign.place / f"ground{number}"
            major = _MAJORS[number % len(_MAJORS)]
            return Ground(major, place, s3, survive_crashes=True, seed=campaign.seed)

        def carry_out(ground: Ground, number: int) -> Iterator[str]:
            chance = campaign.random(f"round {number}")
            return _one(ground, chance, "s3" if s3 and number % 4 == 3 else "local")

        rounds = range(campaign.times(_CRASHES, least=2))
        campaign.counts += on_grounds(rounds, _ROUNDS_ON_A_GROUND, ground_for, carry_out)
    campaign.require("crashes during a backup", _CRASHES, least=2)
    if campaign.share >= 1:
        assert campaign.counts["backups that failed"] >= _CRASHES // 2
        for how in CRASHES:
            assert campaign.counts[how] >= 10, how


def _one(ground: Ground, chance: random.Random, kind: str) -> Iterator[str]:
    """One crash of the server during a backup; yields what happened, to be counted."""
    store = ground.store(kind)
    how = chance.choice(list(CRASHES))
    if chance.random() < 0.5:
        ended = _crash_at_point(ground, store, how, chance)
        yield "crashes at named points"
    else:
        ended = _crash_at_moment(ground, store, how, chance)
        yield "crashes at random moments"
    yield "crashes during a backup"
    yield how
    yield f"on {kind}"
    _come_back(ground.cluster)
    added = judge.require_whole_catalog(store, chance, new=1)
    if ended.status == 0:
        assert added == [ended.answer["backup_id"]]
        judge.require_restorable(ground, store, added[0])
        yield "backups that succeeded all the same, and were restored"
    else:
        error = ended.answer["error"]
        assert ended.status == Exit.TRANSIENT and error["hint"], ended
        assert not added
        yield "backups that failed"
    # Every client has reconnected, and found its acknowledged commits, before it goes on.
    ground.ledger.wait_for(10)
    ground.require_no_orphans()
    backup_id = ground.run(store, "create").answer["backup_id"]
    assert judge.require_whole_catalog(store, chance, new=1) == [backup_id]
    yield "backups after a crash"
    if chance.random() < 0.3:
        judge.require_restorable(ground, store, backup_id)
        yield "backups after a crash that were restored"


def _crash_at_point(ground: Ground, store: Store, how: str, chance: random.Random) -> Ended:
    """The program waits at a named point, the server crashes, the program goes on."""
    rules = points.rules(chance.choice(_POINTS), 1, points.STOP)
    process = ground.begin(store, ["create"], rules)
    try:
        machine.wait_until(lambda: process.poll() is not None or _stopped(process.pid), "the program to stop")
        assert process.poll() is None, ground.end(process)
        CRASHES[how](ground.cluster)
    finally:
        process.send_signal(signal.SIGCONT)
    return ground.end(process)


def _crash_at_moment(ground: Ground, store: Store, how: str, chance: random.Random) -> Ended:
    rate = chance.choice(_RATES)
    moment = chance.uniform(0.3, _SECONDS)
    while True:
        process = ground.begin(store, ["create", f"--max-rate={rate}"], {})
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            CRASHES[how](ground.cluster)
            return ground.end(process)
        # It was faster than that; the next one is met earlier.
        assert process.returncode == 0, ground.end(process)
        judge.require_whole_catalog(store, chance, new=1)
        moment *= 0.7


def _kill_postmaster(cluster: Cluster) -> None:
    """Only the postmaster: its children notice, and end by themselves."""
    family = [*machine.children(cluster.pid), cluster.pid]
    os.kill(cluster.pid, signal.SIGKILL)
    machine.wait_until(lambda: not any(map(machine.is_alive, family)), "the server's processes to end")


def _kill_walsender(cluster: Cluster) -> None:
    """One process of the server, as the kernel would that is out of memory: the postmaster restarts all others."""
    with contextlib.suppress(psycopg.OperationalError), cluster.connect() as connection:
        while True:
            victims = connection.execute("SELECT pid FROM pg_stat_replication").fetchall()
            # Before the first and after the last of them it is our own, and the next look fails.
            for (pid,) in victims or connection.execute("SELECT pg_backend_pid()").fetchall():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


CRASHES: dict[str, Callable[[Cluster], None]] = {
    "kill -9 of all processes": lambda cluster: cluster.kill9(),
    "kill -9 of the postmaster": _kill_postmaster,
    "kill -9 of a walsender": _kill_walsender,
    "pg_ctl stop -m immediate": lambda cluster: cluster.stop("immediate"),
}


def _come_back(cluster: Cluster) -> None:
    if not cluster.running:
        cluster.start()

    def answers() -> bool:
        with contextlib.suppress(RuntimeError):
            return cluster.psql("SELECT 1") == "1"
        return False

    machine.wait_until(answers, "the server to recover from its crash")


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
