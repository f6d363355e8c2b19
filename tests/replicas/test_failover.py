"""Failovers of real servers: killed, frozen out, lied about, broken off, and switched over."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from pgproof.actions.failover import failover, prepare_failover
from pgproof.actions.opening import open_repository
from pgproof.actions.recorded import list_actions
from pgproof.actions.roles import server_roles
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.failover_evidence import FailoverRequest, LastPrimary
from pgproof.model.failover_plan import Decision, Kind
from pgproof.model.failover_report import FailoverReport, Outcome
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.roles import Purpose
from pgproof.model.wal_stream import DEFAULT_SLOT
from pgproof.postgres.node_query import measure_nodes
from pgproof.replica_manager import ReplicaManager
from pgproof.repository.wal_archive import WalArchive
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.faults import run_armed
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.replicas import Replicated, replicated, stop_command
from tests.support.streaming import Streamer, require_stored, wait_for_flush, written

QUICK = {"wal_retrieve_retry_interval": "100ms"}
BEST = FailoverRequest()


def run(them: Replicated, request: FailoverRequest = BEST, **more: Any) -> FailoverReport:
    config = more.pop("config", None) or them.config(fence_command=stop_command(them.primary))
    repository = more.pop("repository", None)
    return failover(them.postgres, config, repository, request, Job(), **more)


def timelines(them: Replicated) -> dict[str, int]:
    servers = them.config().servers(them.postgres)
    return {node: getattr(each, "timeline", 0) for node, each in measure_nodes(servers).items()}


def upstream(cluster: Cluster) -> str:
    return cluster.psql("SHOW primary_conninfo")


def require_nothing_changed(them: Replicated) -> None:
    for replica in them.replicas.values():
        assert replica.psql("SELECT pg_is_in_recovery()") == "t"
        assert f"port={them.primary.port}" in upstream(replica)
        assert replica.psql("SELECT count(*) FROM pg_replication_slots") == "0"


@pytest.mark.parametrize("major", [15, 18])
def test_the_best_replica_takes_over_and_the_archive_has_no_gap(
    major: int, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    """The primary is killed; one replica is behind, one is paused, the streamer was away meanwhile."""
    them = replicated(cluster_factory, major, replicas=3, settings=QUICK)
    behind, best, paused = them.replicas.values()
    repository = new_repository(work_dir / "repository", encryption=False)
    both = PostgresConfig(
        host=f"{them.primary.socket_dir},{best.socket_dir}",
        user="postgres",
        options={"port": f"{them.primary.port},{best.port}", "target_session_attrs": "primary"},
    )
    with Streamer(both, repository) as streamer, Ledger(clients=2) as ledger:
        ledger.start(them.primary)
        ledger.wait_for(20)
        wait_for_flush(them.primary, written(them.primary))
        cut_off(behind)
        paused.psql("SELECT pg_wal_replay_pause()")
        ledger.wait_for(20)
        streamer.kill9()
        ledger.wait_for(20)
        ledger.stop()
        position = written(them.primary)
        them.wait_for_replay("replica2")
        seen = measure_nodes({"primary": them.postgres})["primary"]
        last = LastPrimary(1, position, seen.at)  # type: ignore[union-attr]
        them.primary.kill9()

        plan = prepare_failover(them.postgres, them.config(fence_command="true"), repository, BEST, last)
        plan.require()
        assert plan.node == "replica2" and plan.loss is not None
        assert plan.loss.primary_bytes == 0 and plan.loss.archive_bytes == 0
        assert "paused" in plan.verdict("replica3").reason
        assert "bytes behind replica2" in plan_of(them, FailoverRequest("replica1")).refusals[0].message

        report = run(them, repository=repository, last=last)
        assert report.ok, report
        assert (report.node, report.timeline) == ("replica2", 2)
        assert report.branched_at is not None and report.branched_at >= position
        outcomes = {each.node: each.outcome for each in report.followers}
        assert outcomes == {"replica1": Outcome.STREAMING, "replica3": Outcome.LATER}, report.followers
        assert "password=keep-me" in upstream(behind) and f"port={best.port}" in upstream(behind)
        assert "keep-me" not in json.dumps(report.to_json())
        assert DEFAULT_SLOT in best.psql(
            "SELECT slot_name FROM pg_replication_slots WHERE restart_lsn IS NOT NULL"
        )
        with best.connect() as connection:
            ledger.check(connection, position)
        paused.psql("SELECT pg_wal_replay_resume()")
        machine.wait_until(
            lambda: best.psql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "2",
            "all to stream",
        )

        best.psql("CREATE TABLE after_the_failover AS SELECT 1 AS x")
        with Streamer(both, repository) as again:
            again.wait_for_log("timeline=2 ")
            wait_for_flush(best, written(best))
            again.stop()
            assert "GAP" not in again.log
        archive = WalArchive.open(open_repository(repository))
        (switch,) = archive.history(2).switches
        assert archive.inventory().coverage().run_end(1, switch.at) == switch.at
        require_stored(repository, best, 2, written(best))


def test_what_the_archive_has_beyond_the_new_primary_is_told(
    cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    """The only replica is cut off, the streamer is not."""
    them = replicated(cluster_factory, 18, replicas=1, settings=QUICK)
    repository = new_repository(work_dir / "repository", encryption=False)
    with Streamer(them.postgres, repository) as streamer:
        cut_off(them.replicas["replica1"])
        them.primary.psql("CREATE TABLE lost AS SELECT generate_series(1, 1000) g")
        end = written(them.primary)
        wait_for_flush(them.primary, end)
        streamer.stop()
    them.primary.kill9()
    report = run(them, repository=repository)
    loss = report.plan.loss
    assert report.ok and loss is not None and loss.archive_bytes
    assert loss.archive_end == end and loss.kept + loss.archive_bytes <= end
    assert any(f"--to-lsn {end} --timeline 1" in note for note in report.notes)


def cut_off(replica: Cluster) -> None:
    """It receives nothing more, and is told of a server that is not there."""
    replica.psql("ALTER SYSTEM SET primary_conninfo = 'host=/nowhere port=1 user=postgres password=keep-me'")
    replica.psql("SELECT pg_reload_conf()")
    machine.wait_until(
        lambda: replica.psql("SELECT count(*) FROM pg_stat_wal_receiver") == "0", "it to be cut off"
    )


def plan_of(them: Replicated, request: FailoverRequest) -> Any:
    return prepare_failover(them.postgres, them.config(fence_command="true"), None, request)


def test_what_refuses_changes_nothing(cluster_factory: ClusterFactory, work_dir: Path) -> None:
    them = replicated(cluster_factory, 18, settings=QUICK)
    for config, request, words in (
        (them.config(), BEST, "the primary is alive and answers"),
        (them.config(), FailoverRequest("replica1"), "nothing would end it"),
        (them.config(), FailoverRequest("replica1", unfenced=True), "nothing would end it"),
        # It says that it did it.
        (them.config(fence_command="true"), FailoverRequest("replica1"), "still writes, although"),
        (them.config(fence_command="echo no >&2; exit 3"), FailoverRequest("replica1"), "the fence failed"),
    ):
        with pytest.raises(PreconditionError, match=words) as caught:
            run(them, request, config=config)
        assert caught.value.hint
        require_nothing_changed(them)
    with pytest.raises(PreconditionError, match="took too long"):
        run(them, FailoverRequest("replica1"), config=them.config(fence_command="sleep 60"), seconds=0.5)
    approved = Decision("replica2", Kind.SWITCHOVER)
    with pytest.raises(ConflictError, match="not what was planned"):
        run(them, FailoverRequest("replica1"), approved=approved)
    require_nothing_changed(them)
    them.primary.kill9()
    with pytest.raises(PreconditionError, match="there is no fence"):
        run(them, config=them.config())
    require_nothing_changed(them)
    report = run(them, FailoverRequest(unfenced=True), config=them.config())
    assert report.ok and report.followers[0].outcome is Outcome.STREAMING
    assert any("not fenced" in note for note in report.notes)


def test_the_fence_sees_where_and_no_secret_and_its_output_is_masked(
    cluster_factory: ClusterFactory, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    them = replicated(cluster_factory, 18, replicas=1, settings=QUICK)
    for name in ("PGPASSWORD", "BACKUP_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "OTHER_TOKEN"):
        monkeypatch.setenv(name, "swordfish")
    monkeypatch.setenv("FENCE_HINT", "plain")
    said = work_dir / "said"
    command = f"env > {shlex.quote(str(said))}; echo password swordfish; {stop_command(them.primary)}"
    report = run(them, FailoverRequest("replica1"), config=them.config(fence_command=command))
    assert report.ok
    found = dict(line.split("=", 1) for line in said.read_text().splitlines())
    assert (found["FENCE_HOST"], found["FENCE_PORT"]) == (
        str(them.primary.socket_dir),
        str(them.primary.port),
    )
    assert found["FENCE_HINT"] == "plain" and "swordfish" not in said.read_text()
    (fence,) = (each for each in report.steps if each.name == "fence primary")
    assert fence.detail == "password ***"


@pytest.mark.parametrize("major", [15, 18])
def test_a_switchover_loses_nothing(major: int, cluster_factory: ClusterFactory) -> None:
    them = replicated(cluster_factory, major, settings=QUICK)
    ledger = Ledger(clients=2, survive_crashes=True).start(them.primary)
    ledger.wait_for(20)
    report = run(them, FailoverRequest("replica1"))
    ledger.stop()
    assert report.ok and report.plan.loss is not None and report.plan.loss.guaranteed
    assert [each.ok for each in report.steps if each.name == "wait for all of its WAL"] == [True]
    commits = ledger.commits()
    with them.replicas["replica1"].connect() as connection:
        ledger.check(connection, commits[-1].after)
    assert timelines(them) == {"primary": 0, "replica1": 2, "replica2": 2}
    # A fence that kills leaves no proof that all has arrived: then the old primary is the better one.
    second = Replicated(them.replicas["replica1"], {"replica2": them.replicas["replica2"]})
    killed = second.config(fence_command=stop_command(second.primary, "kill"))
    with pytest.raises(PreconditionError, match="has not got the end"):
        run(second, FailoverRequest("replica2"), config=killed, seconds=2)
    assert second.replicas["replica2"].psql("SELECT pg_is_in_recovery()") == "t"


def test_what_was_broken_off_is_gone_on_with(cluster_factory: ClusterFactory) -> None:
    """Killed at one step after the other, each time one that the run before had not reached."""
    them = replicated(cluster_factory, 18, settings=QUICK)
    them.primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) g")
    config = them.config(fence_command=stop_command(them.primary))
    them.wait_for_replay()
    them.primary.kill9()
    for step, kind in (
        ("fenced", Kind.FAILOVER),
        ("ready", Kind.FAILOVER),
        ("promoted", Kind.FAILOVER),
        ("repointed", Kind.FINISH),
    ):
        assert prepare_failover(them.postgres, config, None, BEST).kind is kind
        assert run_armed(f"failover.{step}=kill", _failover, them.postgres, config) == -signal.SIGKILL
    report = run(them, config=config)
    assert report.ok, report
    assert report.plan.kind is Kind.FINISH
    assert [each.outcome for each in report.followers] == [Outcome.STREAMING]
    assert timelines(them) == {"primary": 0, report.node: 2, report.followers[0].node: 2}
    new = them.replicas[report.node]
    assert new.psql("SELECT count(*) FROM t") == "1000"
    assert new.psql("SELECT timeline_id FROM pg_control_checkpoint()") == "2", "pg_rewind reads it there"


def _failover(postgres: PostgresConfig, config: ReplicationConfig) -> None:
    failover(postgres, config, None, BEST, Job())


def test_one_that_has_more_than_the_new_primary_is_named_for_a_rebuild(
    cluster_factory: ClusterFactory,
) -> None:
    them = replicated(cluster_factory, 18, settings=QUICK)
    behind = them.replicas["replica1"]
    cut_off(behind)
    them.primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) g")
    them.wait_for_replay("replica2")
    them.primary.kill9()
    report = run(them, FailoverRequest("replica1", accept_loss=True))
    assert report.ok, "the failover itself counts"
    (other,) = report.followers
    assert (other.outcome, other.hint) == (Outcome.REBUILD, "pgproof replicas rebuild replica2")
    assert f"port={them.primary.port}" in upstream(them.replicas["replica2"])
    assert report.plan.loss is not None and report.plan.loss.other_bytes > 0


def test_the_command_shows_asks_promotes_and_keeps_who_did_it(
    cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    """By a role with no more rights than it needs, and a standby whose setting comes by command line."""
    them = replicated(cluster_factory, 18, replicas=3, settings=QUICK)
    fixed = them.replicas["replica2"]
    fixed.stop()
    fixed._options["primary_conninfo"] = (
        f"host={them.primary.socket_dir} port={them.primary.port} user=postgres"
    )
    fixed.start()
    repository = new_repository(work_dir / "repository", encryption=False)
    them.primary.psql("CREATE ROLE app LOGIN")
    them.wait_for_replay()
    env = {
        **machine.environment(),
        "PATH": os.environ["PATH"],
        "PGHOST": str(them.primary.socket_dir),
        "PGPORT": str(them.primary.port),
        "PGUSER": "app",
        "READ_REPLICA_HOSTS": "",
        "BACKUP_DIR": str(repository.backup_dir),
        "BACKUP_ENCRYPTION": "false",
        "BACKUP_STATE_DIR": str(work_dir / "state"),
    }
    listed = [
        f'[[replicas.replicas]]\nid = "{name}"\nhost = "{each.socket_dir}"\nport = {each.port}\n'
        for name, each in them.replicas.items()
    ]
    (work_dir / "c.toml").touch(mode=0o600)
    (work_dir / "c.toml").write_text("\n".join(listed))
    command = ["replicas", "promote", "replica1", "--config", str(work_dir / "c.toml")]
    command += ["--fence-command", stop_command(them.primary)]
    status, out = pgproof(env, *command, "--plan", "--json")
    assert status == 3, out
    refusals = json.loads(out)["refusals"]
    for grant, refusal in zip(
        ("pg_monitor", "EXECUTE ON FUNCTION pg_promote", "pg_checkpoint"), refusals, strict=True
    ):
        assert f"GRANT {grant}" in refusal["hint"]
    status, out = pgproof(env, *command, "--yes")
    assert status == 3 and "✗ the role app may not promote replica1" in out
    require_nothing_changed(them)
    server_roles(them.postgres, [Purpose.FAILOVER], apply=True)
    env["PGUSER"] = "pgproof_failover"
    them.wait_for_replay()
    status, out = pgproof(env, *command)
    assert status == 3 and "this needs a confirmation" in out and "Switchover: replica1 takes over" in out
    status, out = pgproof(env, *command, "--yes", "--json")
    assert status == 0, out
    report = json.loads(out)
    follower, other = report["followers"]
    assert follower["outcome"] == "by hand" and "command line" in follower["detail"]
    assert other["outcome"] == "streaming"
    (slots,) = (each for each in report["steps"] if each["name"] == "slots on replica1")
    assert slots["ok"] and slots["detail"] == "pgproof, replica2, replica3"
    assert report["plan"]["loss"]["nothing_acknowledged_is_lost"]
    records, _damaged = list_actions(repository)
    assert [(each.command, each.outcome) for each in records][-1] == ("replicas promote", "done")
    assert records[-1].subject == "switchover to replica1, timeline 2"
    manager = ReplicaManager(them.postgres, them.config())
    assert asyncio.run(manager.plan_failover()).kind is Kind.FINISH
    assert Lsn.parse(report["branched_at_lsn"]) >= Lsn.parse(report["promised_lsn"])


def pgproof(env: dict[str, str], *arguments: str) -> tuple[int, str]:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "pgproof.cli.main", *arguments],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + (done.stderr if "--json" not in arguments else "")
