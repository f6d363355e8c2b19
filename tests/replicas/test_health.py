"""How a cluster of real servers is judged: healthy, paused, dead, frozen, promoted; and the program that shows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgproof.actions.replica_status import replica_status
from pgproof.errors import Cancelled
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.replica_history import Look, look_of
from pgproof.model.replica_status import NodeStatus, ReplicaStatus, Role
from pgproof.model.replication_config import ReplicaInfo, ReplicationConfig
from tests.support import machine
from tests.support.postgres import Cluster
from tests.support.streaming import promote, standby_of

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Trio:
    """A primary and its standbys a and b."""

    primary: Cluster
    a: Cluster
    b: Cluster

    def replication(self, user: str = "postgres") -> ReplicationConfig:
        servers = {"a": self.a, "b": self.b}
        return ReplicationConfig(
            tuple(
                ReplicaInfo(name, str(each.socket_dir), each.port, username=user)
                for name, each in servers.items()
            ),
            max_lag_bytes=4 << 20,
        )

    def look(
        self, user: str = "postgres", before: tuple[Look, ...] = (), seconds: float = 5.0
    ) -> ReplicaStatus:
        postgres = self.primary.config(user=user)
        return replica_status(postgres, self.replication(user), "main", Job(), before, seconds=seconds)

    def write(self, rows: int = 1) -> None:
        self.primary.psql(f"INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, {rows})")

    def wait_for_replay(self, *standbys: Cluster) -> None:
        lsn = Lsn.parse(self.primary.psql("SELECT pg_current_wal_flush_lsn()"))
        for each in standbys:
            machine.wait_until(
                lambda each=each: Lsn.parse(each.psql("SELECT pg_last_wal_replay_lsn()")) >= lsn,  # type: ignore[misc]
                "the replay",
            )


@pytest.fixture
def trio(request: pytest.FixtureRequest) -> Iterator[Trio]:
    with ExitStack() as stack:
        primary = stack.enter_context(Cluster(getattr(request, "param", 18)))
        primary.psql("CREATE ROLE reader LOGIN; CREATE TABLE t (x text)")
        a, b = (stack.enter_context(standby_of(primary, name)) for name in ("slot_a", "slot_b"))
        found = Trio(primary, a, b)
        found.write()
        found.wait_for_replay(a, b)
        yield found


def node(status: ReplicaStatus, name: str) -> NodeStatus:
    return next(each for each in status.nodes if each.name == name)


def kinds(status: ReplicaStatus) -> set[str]:
    return {each.key for each in status.problems}


@pytest.mark.parametrize("trio", [15, 18], indirect=True)
def test_what_is_wrong_is_seen_and_nothing_else(trio: Trio) -> None:
    fine = trio.look()
    assert fine.ok, fine.problems
    assert [str(each.role) for each in fine.nodes] == ["primary", "standby", "standby"]
    a = node(fine, "a")
    assert a.lag is not None and a.lag.seconds == 0 and a.details is not None and a.details.receiving
    assert a.sender is not None and (a.sender.state, a.sender.slot) == ("streaming", "slot_a")
    assert json.loads(json.dumps(fine.to_json()))["nodes"][1]["replication"]["sync_state"] == "async"

    # Without pg_monitor less is seen, and nothing is alarmed by that.
    reader = trio.look("reader")
    assert reader.ok and node(reader, "a").details is not None
    sender = node(reader, "a").sender
    assert sender is None or sender.state is None
    assert node(reader, "a").to_json(None)["not_seen"] == ["where it streams from"]

    # b pauses, and a has what was written: its lag is what it took to replay that.
    trio.b.psql("SELECT pg_wal_replay_pause()")
    trio.write(6000)
    paused = trio.look(before=(look_of(fine),))
    assert kinds(paused) == {"replay-paused b", "lag-bytes b"}
    held = node(paused, "b").lag
    assert held is not None and held.seconds is not None and held.seconds > 0
    assert held.seconds <= (paused.at - fine.at).total_seconds() + 1
    trio.b.psql("SELECT pg_wal_replay_resume()")
    trio.wait_for_replay(trio.b)

    # a is killed: its slot keeps WAL.
    trio.a.kill9()
    trio.write(6000)
    trio.wait_for_replay(trio.b)
    dead = trio.look()
    assert kinds(dead) == {"node-down a", "slot-inactive slot_a"}
    trio.primary.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()")
    machine.wait_until(lambda: trio.primary.psql("SHOW synchronous_standby_names") == "nobody", "the setting")
    assert "sync-missing primary" in kinds(trio.look())
    trio.primary.psql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")


def test_an_idle_primary_is_no_lag_and_a_delay_on_purpose_is_none(trio: Trio) -> None:
    trio.b.psql("ALTER SYSTEM SET recovery_min_apply_delay = '1h'; SELECT pg_reload_conf()")
    machine.wait_until(lambda: trio.b.psql("SHOW recovery_min_apply_delay") == "1h", "the setting")
    # Only commits are delayed: what follows the first one stays.
    trio.write()
    trio.write(6000)
    trio.wait_for_replay(trio.a)
    found = trio.look()
    assert found.ok, found.problems
    delayed = node(found, "b")
    assert delayed.lag is not None and delayed.lag.nbytes > 4 << 20
    assert delayed.excess is not None and delayed.excess.nbytes <= 4 << 20


def test_a_frozen_replica_does_not_hold_the_look_and_a_promotion_is_judged(trio: Trio) -> None:
    os.kill(trio.b.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        frozen = trio.look(seconds=1.0)
        assert kinds(frozen) == {"node-down b"} and time.monotonic() - begun < 30
        # Who does not want to wait for it need not.
        job = Job()
        threading.Timer(0.5, job.stop.set).start()
        with pytest.raises(Cancelled):
            replica_status(trio.primary.config(), trio.replication(), "main", job, seconds=60)
    finally:
        os.kill(trio.b.pid, signal.SIGCONT)
    before = (look_of(frozen),)
    promote(trio.a)
    after = trio.look(before=before)
    assert after.primary == "a" and node(after, "primary").role is Role.STALE
    assert "stale-primary primary" in kinds(after)
    # It is not forgotten when the new primary is away.
    trio.a.stop()
    alone = trio.look(before=(look_of(after),))
    assert alone.primary is None
    assert {"no-primary", "stale-primary primary", "node-down a"} <= kinds(alone)
    # Without that memory nobody could know.
    assert trio.look().primary == "primary"


def test_another_cluster_behind_the_name_of_a_replica(pg15: Cluster, pg18: Cluster) -> None:
    replication = ReplicationConfig((ReplicaInfo("a", str(pg15.socket_dir), pg15.port),))
    assert kinds(replica_status(pg18.config(), replication, "main", Job())) == {"foreign-cluster a"}


def test_the_program_tells_by_its_exit_status_and_watches_until_it_is_stopped(
    pg18: Cluster, tmp_path: Path
) -> None:
    with standby_of(pg18, "shown") as replica:
        settings = {
            "PGHOST": str(pg18.socket_dir),
            "PGPORT": str(pg18.port),
            "PGUSER": "postgres",
            "BACKUP_STATE_DIR": str(tmp_path),
        }
        config = tmp_path / "pgproof.toml"
        config.write_text(
            f"[[replicas.replicas]]\nid = 'shown'\nhost = '{replica.socket_dir}'\nport = {replica.port}\n"
        )
        config.chmod(0o600)
        command = [sys.executable, "scripts/db_backup.py", "replicas"]
        common = ["--config", str(config)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **settings}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*command, *arguments, *common],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )

        done = run("status")
        assert done.returncode == 0 and "✓ shown" in done.stdout and "streaming" in done.stdout, done.stdout
        watched = run("watch", "--json", "--count", "2", "--interval", "0.1")
        assert [json.loads(line)["ok"] for line in watched.stdout.splitlines()] == [True, True]
        replica.stop()
        done = run("status", "--json")
        found = json.loads(done.stdout)
        assert done.returncode == 7
        assert {each["kind"] for each in found["problems"]} == {"node-down"}
        with subprocess.Popen(
            [*command, "watch", *common, "--interval", "0.2"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            # Tests that run in the background of a shell have inherited that it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            assert process.stdout is not None
            while "node-down" not in process.stdout.readline():
                pass
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            assert process.wait() == 0
    pg18.psql("SELECT pg_drop_replication_slot('shown')")
