"""Replicas made again on real servers: by rewind, from the repository, with nothing but WAL; and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgproof.actions.recorded import list_actions
from pgproof.actions.take_backup import take_backup
from pgproof.actions.wal_serving import config_as_toml
from pgproof.actions.wal_single import push_one
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.rebuild_evidence import Source
from pgproof.model.rebuild_plan import RebuildPlan, Way
from pgproof.model.rebuild_report import RebuildReport, RebuildRequest
from pgproof.model.replication_config import ReplicaInfo, ReplicationConfig
from pgproof.model.wal_commands import restore_command_by_client
from pgproof.postgres.rebuild_place import alone_in
from pgproof.replica_manager import ReplicaManager
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.faults import forks, run_armed
from tests.support.fingerprint import fingerprint
from tests.support.postgres import SUPERUSER, SUPERUSER_PASSWORD, Cluster, ClusterFactory
from tests.support.replicas import Replicated, replicated
from tests.support.streaming import promote
from tests.support.tcp_proxy import Flow, Network
from tests.wal.places import client, program, repository_of

OWN = "work_mem = '77MB'\n"


@pytest.fixture
def made(cluster_factory: ClusterFactory) -> Iterator[Callable[..., Replicated]]:
    """A primary and one replica with some rows; servers that a rebuild has started are ended before they go."""
    found: list[Replicated] = []

    def make(major: int = 18, *, replicas: int = 1, **options: Any) -> Replicated:
        world = replicated(cluster_factory, major, replicas=replicas, **options)
        found.append(world)
        world.primary.psql("CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g")
        world.wait_for_replay()
        return world

    yield make
    for world in found:
        for cluster in world.all.values():
            end(cluster)


def end(cluster: Cluster) -> None:
    again = cluster.log.with_name("log.again")
    print(again.read_text() if again.exists() else "")
    """Whoever started it."""
    if not cluster.running and (cluster.data_dir / "postmaster.pid").exists():
        pg_ctl = [str(cluster.bin / "pg_ctl"), "stop", "-D", str(cluster.data_dir), "-m", "immediate"]
        subprocess.run(machine.as_service_user(pg_ctl), capture_output=True)


def start_command(cluster: Cluster, **settings: str) -> str:
    """The server where its cluster has it, by pg_ctl, as a unit of the system would."""
    options = {
        "port": str(cluster.port),
        "unix_socket_directories": str(cluster.socket_dir),
        "listen_addresses": "",
        "fsync": "off",
        **settings,
    }
    text = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
    pg_ctl = [
        str(cluster.bin / "pg_ctl"),
        "start",
        "-W",
        "-D",
        str(cluster.data_dir),
        "-l",
        f"{cluster.log}.again",
    ]
    return shlex.join(machine.as_service_user([*pg_ctl, "-o", text]))


def rebuild(
    world: Replicated, node: str, config: BackupConfig | None = None, **options: Any
) -> RebuildReport:
    cluster = world.all[node]
    request = RebuildRequest(
        node, cluster.data_dir, **{"start_command": start_command(cluster), "timeout": 60, **options}
    )
    return asyncio.run(ReplicaManager(world.postgres, world.config(), config).rebuild(request))


def rebuild_apart(postgres: PostgresConfig, replication: ReplicationConfig, request: RebuildRequest) -> None:
    """In a process of its own, which is killed."""
    asyncio.run(ReplicaManager(postgres, replication).rebuild(request))


def by_command(
    world: Replicated,
    node: str,
    config: BackupConfig,
    *options: str,
    failpoints: str = "",
    replicas: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`pgproof replicas rebuild` of a Python that the replica's user can run, too; it has to fetch WAL."""
    cluster, root = world.all[node], machine.new_dir("rebuild")
    path = root / "pgproof.toml"
    places = {
        name: f'host = "{each.socket_dir}"\nport = {each.port}' for name, each in world.replicas.items()
    }
    tables = "".join(
        f'[[replicas.replicas]]\nid = "{name}"\n{text}\n' for name, text in (replicas or places).items()
    )
    place = (
        f'[postgres]\nhost = "{world.primary.socket_dir}"\nport = {world.primary.port}\nuser = "postgres"\n'
    )
    path.write_text(f"{config_as_toml(config)}{place}{tables}")
    path.chmod(0o600)
    worker = program(["wal", "worker", "--config", "pg_wal/pgproof/config.toml"])
    start = start_command(cluster, restore_command=restore_command_by_client(client(), worker))
    words = ["replicas", "rebuild", node, "--data-dir", str(cluster.data_dir), "--yes", "--json"]
    words += ["--config", str(path), "--start-command", start, "--timeout", "60", *options]
    variables = {"PGPROOF_FAILPOINTS": failpoints} if failpoints else {}
    return subprocess.run(
        program(words), capture_output=True, text=True, env=machine.environment(**variables), timeout=300
    )


def done(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def fail_over(world: Replicated) -> Cluster:
    """The replica takes over, and the old primary writes on alone."""
    new = world.replicas["replica1"]
    promote(new)
    world.primary.psql("INSERT INTO t SELECT g, 'lost' FROM generate_series(90001, 90500) g; CHECKPOINT")
    world.primary.psql("CREATE TABLE elsewhere AS SELECT g FROM generate_series(1, 3000) g")
    new.psql(
        "INSERT INTO t SELECT g, 'kept' FROM generate_series(70001, 70100) g; DELETE FROM t WHERE g <= 10"
    )
    new.psql("CHECKPOINT")
    return new


def require_follows(replica: Cluster, primary: Cluster) -> None:
    """It holds what its primary holds, and goes on to."""

    def caught_up() -> bool:
        lsn = primary.psql("SELECT pg_current_wal_flush_lsn()")
        return replica.psql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") == "t"

    machine.wait_until(caught_up, "the replica to catch up")
    assert fingerprint(replica.connect) == fingerprint(primary.connect)
    primary.psql("CREATE TABLE later AS SELECT 7 AS seven")
    machine.wait_until(caught_up, "the replica to follow")
    assert replica.psql("SELECT seven FROM later") == "7"
    assert replica.psql("SELECT pg_is_in_recovery()") == "t"


@pytest.mark.parametrize("major", [15, 18])
def test_an_old_primary_is_rewound(made: Callable[..., Replicated], major: int) -> None:
    """Killed before pg_rewind writes, or after it has, the same call goes on."""
    world = made(major, settings={"wal_keep_size": "512MB"})
    old = world.primary
    with (old.data_dir / "postgresql.conf").open("a") as file:
        file.write(OWN)
    (old.data_dir / "mine").write_text("a key")
    new = fail_over(world)
    new.psql("ALTER SYSTEM SET work_mem = '11MB'")
    (new.data_dir / "theirs").write_text("not for others")
    points = ("back",)  # in 18 it runs, and is stopped
    if major == 15:
        points = ("aside", "parked", "rewinding")
        old.kill9()
    request = RebuildRequest("primary", old.data_dir)
    tail = asyncio.run(ReplicaManager(world.postgres, world.config()).plan_rebuild(request)).tail
    assert tail is not None and tail.nbytes > 100_000  # to a page
    for point in points:
        kill = f"rebuild.{point}=kill"
        assert run_armed(kill, rebuild_apart, world.postgres, world.config(), request) == -9, point
        assert not old.data_dir.exists() or (old.data_dir / "standby.signal").exists(), point
    report = rebuild(world, "primary")
    assert report.primary == "replica1"
    assert report.slot == "old_primary"
    if major == 15:
        assert report.way is Way.REWIND
        assert report.tail is not None and report.tail.exact and abs(report.tail.nbytes - tail.nbytes) <= 8192
    else:
        assert report.way is Way.START
    require_follows(old, new)
    assert old.psql("SHOW work_mem") == "77MB"
    assert (old.data_dir / "mine").read_text() == "a key"
    assert not (old.data_dir / "theirs").exists()
    assert not old.data_dir.with_name("data.pgproof-rebuild").exists()
    assert rebuild(world, "primary").way is Way.NOTHING


def test_after_a_switchover_the_former_primary_is_started(made: Callable[..., Replicated]) -> None:
    world = made(18)
    former, new = world.primary, world.replicas["replica1"]
    former.stop()
    promote(new)
    new.psql("INSERT INTO t SELECT g, 'kept' FROM generate_series(70001, 70100) g")
    report = rebuild(world, "primary")
    assert (report.way, report.primary, report.timeline, report.tail) == (Way.START, "replica1", 2, None)
    require_follows(former, new)


def test_a_rewind_that_must_not_begin(made: Callable[..., Replicated]) -> None:
    """The role may not read the primary's files; or the server is started again once it was stopped."""
    world = made(18, settings={"wal_keep_size": "512MB"})
    old, new = world.primary, world.replicas["replica1"]
    old.psql("CREATE ROLE weak LOGIN REPLICATION PASSWORD 'weak' IN ROLE pg_monitor")
    world.wait_for_replay()
    fail_over(world)
    weak = ReplicationConfig(
        (ReplicaInfo("replica1", str(new.socket_dir), new.port, username="weak", password="weak"),)
    )
    before = contents(old.data_dir)
    for source in (None, Source.REWIND):
        request = RebuildRequest("primary", old.data_dir, source)
        with pytest.raises(PreconditionError) as raised:
            asyncio.run(ReplicaManager(world.postgres, weak).rebuild(request))
        grant = 'GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO "weak"'
        assert grant in raised.value.hint.replace("TO weak", 'TO "weak"')
    assert contents(old.data_dir) == before
    assert old.psql("SELECT count(*) FROM elsewhere") == "3000", "it still runs"
    told: list[bool] = []

    def started_again(plan: RebuildPlan) -> None:
        told.append(plan.stops)
        if not plan.stops:
            subprocess.run(["/bin/sh", "-c", start_command(old)], check=True, capture_output=True)
            machine.wait_until(lambda: (old.data_dir / "postmaster.pid").exists(), "the server")

    manager = ReplicaManager(world.postgres, world.config())
    with pytest.raises(ConflictError, match="a server was started in the directory meanwhile"):
        asyncio.run(manager.rebuild(RebuildRequest("primary", old.data_dir), planned=started_again))
    assert told == [True, False]
    machine.wait_until(lambda: answers(old), "the server that was started")
    assert not old.data_dir.with_name("data.pgproof-rebuild").exists()


def answers(cluster: Cluster) -> bool:
    with contextlib.suppress(RuntimeError):  # it recovers from the crash first
        return cluster.psql("SELECT count(*) FROM elsewhere") == "3000"
    return False


def test_the_repository_has_the_wal_that_a_rewind_needs(
    made: Callable[..., Replicated], work_dir: Path
) -> None:
    """Without it nothing is changed."""
    world = made(18)
    old = world.primary
    config = repository_of(old, work_dir / "backups")
    world.wait_for_replay()
    new = fail_over(world)
    old.stop()
    with pytest.raises(PreconditionError, match="the rewind failed, and there is no backup") as raised:
        rebuild(world, "primary")
    assert "the files are as they were" in raised.value.hint
    assert (old.data_dir / "postgresql.conf").exists()
    assert not old.data_dir.with_name("data.pgproof-rebuild").exists()
    stranger = new_repository(work_dir / "other")
    with pytest.raises(PreconditionError, match="the rewind failed, and there is no backup"):
        rebuild(world, "primary", stranger)
    report = rebuild(world, "primary", config)
    assert report.way is Way.REWIND
    require_follows(old, new)
    (record,) = list_actions(config)[0][-1:]
    assert (record.command, record.subject) == (
        "replicas rebuild",
        f"primary in {old.data_dir}: rewind, following replica1",
    )


def test_replicas_that_were_ahead_of_the_one_that_took_over(made: Callable[..., Replicated]) -> None:
    """One has replayed what the new primary never had, the other has only received it."""
    world = made(18, replicas=3, settings={"wal_keep_size": "512MB"})
    new, replayed, received = (world.replicas[name] for name in ("replica1", "replica2", "replica3"))
    received.psql("SELECT pg_wal_replay_pause()")
    new.stop()
    world.primary.psql("INSERT INTO t SELECT g, 'lost' FROM generate_series(90001, 91000) g")
    world.wait_for_replay("replica2")
    lost = world.primary.psql("SELECT pg_current_wal_flush_lsn()")
    machine.wait_until(
        lambda: received.psql(f"SELECT pg_last_wal_receive_lsn() >= '{lost}'") == "t", "the tail to arrive"
    )
    world.primary.kill9()
    new.start()
    promote(new)
    new.psql("INSERT INTO t SELECT g, 'kept' FROM generate_series(70001, 70100) g")
    for name, cluster, way in (("replica3", received, Way.START), ("replica2", replayed, Way.REWIND)):
        report = rebuild(world, name)
        assert (report.way, report.primary, report.slot) == (way, "replica1", name)
        require_follows(cluster, new)
        new.psql("DROP TABLE later")


def over_tcp(port: int) -> ReplicationConfig:
    """The replica, which is the primary now, is reached over a network that can be cut."""
    return ReplicationConfig(
        (
            ReplicaInfo(
                "replica1",
                "127.0.0.1",
                port,
                username=SUPERUSER,
                password=SUPERUSER_PASSWORD,
            ),
        )
    )


def large_failover(world: Replicated) -> tuple[Cluster, list[str]]:
    """As `fail_over`, with more to copy. Returns the files that only the new primary has, in the order of their names."""
    new = fail_over(world)
    for number in range(4):
        new.psql(
            f"CREATE TABLE late{number} AS SELECT repeat(md5(g::text), 50) FROM generate_series(1, 4000) g"
        )
    new.psql("CHECKPOINT")
    return new, sorted(new.psql(f"SELECT pg_relation_filepath('late{n}')") for n in range(4))


def conninfo(server: Cluster) -> str:
    return f"host={server.socket_dir} port={server.port} user=postgres"


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_rewind_that_is_killed_in_the_middle_leaves_nothing_to_start(
    made: Callable[..., Replicated], work_dir: Path
) -> None:
    """It cannot be relied on to work a second time: pg_rewind has overwritten WAL that it would have to read."""
    world = made(18, settings={"wal_keep_size": "512MB"})
    old = world.primary
    with (old.data_dir / "postgresql.conf").open("a") as file:
        file.write(OWN)
    new, files = large_failover(world)
    old.stop()
    aside = old.data_dir.with_name("data.pgproof-rebuild") / "data"
    with Network() as network:
        port = network.link("to the primary", new.port)
        network.set("to the primary", Flow.PASS, delay=0.02)
        request = RebuildRequest("primary", old.data_dir, primary_conninfo=conninfo(new))
        process = forks.Process(target=rebuild_apart, args=(world.postgres, over_tcp(port), request))
        process.start()
        machine.wait_until(lambda: size(aside / files[0]) > 0, "pg_rewind to write")
        process.kill()
        process.join()
    assert size(aside / files[-1]) < size(new.data_dir / files[-1]), "it was in the middle"
    assert not old.data_dir.exists()
    with pytest.raises(PreconditionError, match="there is no backup to restore instead"):
        rebuild(world, "primary")
    assert not old.data_dir.exists()
    report = done(by_command(world, "primary", repository_of(new, work_dir / "backups")))
    assert report["way"] == "restore"
    require_follows(old, new)
    assert old.psql("SHOW work_mem") == "77MB"


def test_after_a_rewind_that_fails_in_the_middle_a_backup_is_restored(
    made: Callable[..., Replicated], work_dir: Path
) -> None:
    world = made(18, settings={"wal_keep_size": "512MB"})
    old = world.primary
    config = repository_of(old, work_dir / "backups")
    new, files = large_failover(world)
    aside = old.data_dir.with_name("data.pgproof-rebuild") / "data"
    with Network() as network, ThreadPoolExecutor() as pool:
        port = network.link("to the primary", new.port)
        network.set("to the primary", Flow.PASS, delay=0.02)
        replicas = (
            f'host = "127.0.0.1"\nport = {port}\nusername = "{SUPERUSER}"\npassword = "{SUPERUSER_PASSWORD}"'
        )
        finished = pool.submit(
            by_command, world, "primary", config, "--primary", conninfo(new), replicas={"replica1": replicas}
        )
        machine.wait_until(lambda: size(aside / files[0]) > 0 or finished.done(), "pg_rewind to write")
        network.set("to the primary", Flow.CUT)
        network.set("to the primary", Flow.PASS)
        report = done(finished.result())
    assert report["way"] == "restore"
    assert "the rewind failed, so a backup was restored" in report["notes"][0]
    require_follows(old, new)


def test_one_that_cannot_be_rewound_comes_from_the_repository(
    made: Callable[..., Replicated], work_dir: Path
) -> None:
    """Killed at any point, the same command goes on."""
    world = made(15, initdb_args=("--no-data-checksums",))
    old = world.primary
    config = repository_of(old, work_dir / "backups")
    with (old.data_dir / "postgresql.conf").open("a") as file:
        file.write(OWN)
    new = fail_over(world)
    archive(old, config)  # with what the new primary never had
    archive(new, config)
    old.stop()
    kept = old.data_dir.with_name("wal")
    (old.data_dir / "pg_wal").rename(kept)
    (old.data_dir / "pg_wal").symlink_to(kept)
    refused = by_command(world, "primary", config)
    assert refused.returncode == 3 and "symbolic link" in refused.stdout, refused.stdout + refused.stderr
    assert (old.data_dir / "postgresql.conf").exists(), "nothing was moved out"
    (old.data_dir / "pg_wal").unlink()
    kept.rename(old.data_dir / "pg_wal")
    for point in ("rebuild.parked", "rebuild.restoring", "delta.removed@3", "restore.write@5"):
        killed = by_command(world, "primary", config, failpoints=f"{point}=kill")
        assert killed.returncode == -signal.SIGKILL, point + killed.stdout + killed.stderr
    assert not (old.data_dir / "global" / "pg_control").exists()
    for point in ("rebuild.ready", "rebuild.unparked@2", "rebuild.configured"):
        killed = by_command(world, "primary", config, failpoints=f"{point}=kill")
        assert killed.returncode == -signal.SIGKILL, point + killed.stdout + killed.stderr
    # All of its own was back already, and has to be moved out once more.
    killed = by_command(world, "primary", config, "--from", "repository", failpoints="rebuild.ready=kill")
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    report = done(by_command(world, "primary", config))
    assert report["way"] == "start"
    require_follows(old, new)
    assert old.psql("SHOW work_mem") == "77MB"
    report = done(by_command(world, "primary", config, "--from", "repository"))
    assert report["way"] == "restore"
    assert report["backup_id"] is not None
    assert [each["step"] for each in report["steps"]][1:4] == ["stop", "slot", "restore"]
    assert "recovery_target_timeline = 'latest'" in (old.data_dir / "postgresql.auto.conf").read_text()
    machine.wait_until(lambda: old.psql("SELECT seven FROM later") == "7", "the replica to follow")
    assert old.psql("SHOW work_mem") == "77MB"


def archive(cluster: Cluster, config: BackupConfig) -> None:
    """Bring its history files and its segments up to now into the repository."""
    name = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())")
    cluster.psql("SELECT pg_logical_emit_message(true, '', '')")
    for path in sorted(
        (cluster.data_dir / "pg_wal").iterdir(), key=lambda each: (each.suffix == "", each.name)
    ):
        if path.suffix == ".history" or (path.suffix == "" and path.is_file() and path.name <= name):
            push_one(config, path)
    machine.give_to_service(Path(config.backup_dir or ""))


def test_a_replica_whose_wal_is_gone(made: Callable[..., Replicated], work_dir: Path) -> None:
    """The repository may have it; else a newer backup does."""
    world = made(18)
    primary, replica = world.primary, world.replicas["replica1"]
    config = repository_of(primary, work_dir / "backups")
    lose_wal(world, config)
    with pytest.raises(PreconditionError, match="has to be restored, and no repository"):
        rebuild(world, "replica1")
    report = done(by_command(world, "replica1", config))
    assert report["way"] == "start"
    assert report["slot"] == "replica1"
    require_follows(replica, primary)
    lose_wal(world, None)
    missing = by_command(world, "replica1", config)
    assert missing.returncode == 3, missing.stdout
    assert "no backup of the repository leads to the primary" in missing.stdout
    take_backup(primary.config(), config, BackupType.FULL, Job())
    machine.give_to_service(work_dir / "backups")
    report = done(by_command(world, "replica1", config))
    assert report["way"] == "restore"
    require_follows(replica, primary)


def lose_wal(world: Replicated, config: BackupConfig | None) -> None:
    """The replica is away until its slot and the WAL that it needs are gone; with `config` the repository has that."""
    replica, primary = world.replicas["replica1"], world.primary
    pg_ctl = [str(replica.bin / "pg_ctl"), "stop", "-D", str(replica.data_dir), "-m", "fast"]
    subprocess.run(machine.as_service_user(pg_ctl), check=True, capture_output=True)
    machine.wait_until(lambda: not replica.running, "the replica to end")
    machine.wait_until(
        lambda: primary.psql("SELECT count(*) FROM pg_replication_slots WHERE active") == "0", "the slot"
    )
    primary.psql("SELECT pg_drop_replication_slot('replica1'); DROP TABLE IF EXISTS later")
    for _ in range(3):
        primary.psql("INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 2000) g")
        primary.psql("SELECT pg_switch_wal()")
    if config is not None:
        names = primary.psql(
            "SELECT name FROM pg_ls_waldir() WHERE name < pg_walfile_name(pg_current_wal_insert_lsn()) ORDER BY 1"
        )
        for name in names.split():
            push_one(config, primary.data_dir / "pg_wal" / name)
        machine.give_to_service(Path(config.backup_dir or ""))
    before = primary.psql("SELECT min(name) FROM pg_ls_waldir()")
    primary.psql("CHECKPOINT; CHECKPOINT")
    assert primary.psql("SELECT min(name) FROM pg_ls_waldir()") > before


def test_what_must_not_be_overwritten(
    made: Callable[..., Replicated], cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    world = made(18, replicas=2)
    primary, replica, other = world.primary, world.replicas["replica1"], world.replicas["replica2"]

    def refused(node: str, data_dir: Path, match: str, **options: Any) -> None:
        request = RebuildRequest(node, data_dir, **options)
        before = contents(data_dir)
        with pytest.raises((PreconditionError, ConflictError), match=match):
            asyncio.run(ReplicaManager(world.postgres, world.config()).rebuild(request))
        assert contents(data_dir) == before
        assert not data_dir.with_name(f"{data_dir.name}.pgproof-rebuild").exists()

    for source in (None, Source.REWIND, Source.REPOSITORY):
        refused("replica1", primary.data_dir, "directory of the primary itself", source=source)
        refused("primary", primary.data_dir, "this node is the primary itself", source=source)
        refused("replica1", other.data_dir, "is not this node", source=source)
    stranger = cluster_factory(18)
    assert primary.psql("SELECT count(*) FROM t") == "5000"
    replica.stop()
    refused("replica1", other.data_dir, "is not this node")
    refused("replica1", replica.data_dir, "follow another server", primary_conninfo=conninfo(stranger))
    refused("replica1", replica.data_dir, "follow another server", primary_conninfo=conninfo(other))
    primary.stop()
    refused("replica1", replica.data_dir, "no primary of this cluster answers")
    refused("primary", primary.data_dir, "no primary of this cluster answers")
    primary.start()
    with alone_in(replica.data_dir.parent):
        refused("replica1", replica.data_dir, "another rebuild works here")
    stranger.stop()
    refused("replica1", stranger.data_dir, "no primary of this cluster answers")
    (work_dir / "half").mkdir()
    (work_dir / "half" / "pgproof-delta-restore").write_text("123456789\n")
    refused("replica1", work_dir / "half", "no primary of this cluster answers")
    aside = replica.data_dir.with_name("data.pgproof-rebuild")
    (aside / "data").mkdir(parents=True)
    with pytest.raises(PreconditionError, match="others that an earlier rebuild had moved aside"):
        rebuild(world, "replica1")
    shutil.rmtree(aside)
    (work_dir / "full").mkdir()
    (work_dir / "full" / "thesis.txt").write_text("mine")
    refused("replica1", work_dir / "full", "does not say whose cluster")
    with primary.connect() as connection:
        replica.start()
        machine.wait_until(
            lambda: primary.psql("SELECT bool_and(active) FROM pg_replication_slots") == "t", "the slots"
        )
        refused("replica1", work_dir / "empty", "it has its files elsewhere")
        connection.execute("SELECT 1")
    assert rebuild(world, "replica1").way is Way.NOTHING


# A running server makes these anew when it likes, under the same names.
_CHANGING = ("pg_internal.init", "replorigin_checkpoint", "pg_replslot", "pg_wal", "pg_stat", "pgsql_tmp")


def contents(data_dir: Path) -> dict[str, int]:
    """Every file but what a running server changes all the time."""
    found: dict[str, int] = {}
    for path in data_dir.rglob("*"):
        if not any(part.startswith(_CHANGING) for part in path.parts):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                if path.is_file():
                    found[str(path)] = path.stat().st_ino
    return found
