"""Recovery out of the repository on real servers: everything comes back, or the server stops; it never opens
with less (F8)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import obstore
import pytest

from pgproof.actions.opening import open_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.wal_fetch import WalFetcher
from pgproof.actions.wal_push import push_wal_file
from pgproof.actions.wal_serving import wal_source
from pgproof.errors import DataError, EngineError
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_settings import without_recovery
from pgproof.model.recovery_target import BACKUP_END
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_commands import FOLDER, restore_command_by_client
from pgproof.model.wal_coverage import Promise
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import find_programs
from pgproof.postgres.scratch import Recovery
from pgproof.repository.wal_archive import WalArchive
from tests.postgres.clusters import one, scratch
from tests.support import machine
from tests.support.faults import flip_bit
from tests.support.faults import replace as replace_file
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.s3 import S3Server
from tests.wal.places import client, config_file, make_segments, program, repository_of, workers_of

USER = service_user()
ROWS = 16


@dataclass
class Ground:
    """A repository with a backup and the WAL after it, and a restored directory that was never started."""

    major: int
    config: BackupConfig
    restored: Path
    stop: Lsn

    def copy(self, place: Path) -> Path:
        shutil.copytree(self.restored, place, symlinks=True)
        machine.give_to_service(place)
        return place


@pytest.fixture(scope="module", params=[15, 17, 18])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    place = machine.new_dir("ground")
    with Cluster(
        request.param,
        initdb_args=["--wal-segsize=1"],
        settings={"wal_keep_size": "1GB", "autovacuum": False},
    ) as cluster:
        config = repository_of(cluster, place / "repo")
        cluster.psql("CREATE TABLE rows (n int)")
        for number in range(ROWS):
            cluster.psql(f"INSERT INTO rows VALUES ({number})")
            make_segments(cluster, 1)
        stop = cluster.insert_lsn()
        last = make_segments(cluster, 1)
        archive = WalArchive.open(open_repository(config))
        for path in sorted((cluster.data_dir / "pg_wal").glob("0000000100*")):
            if path.name <= last and len(path.name) == 24:
                push_wal_file(archive, path, 1)
    machine.give_to_service(place / "repo")
    restore_cluster(
        config,
        "latest",
        place / "data",
        tablespaces={},
        recover=False,
        owner=None,
        request=RecoveryRequest(BACKUP_END),
        job=Job(),
    )
    # Each test says itself how far to recover, and from where.
    settings = place / "data" / "postgresql.auto.conf"
    settings.write_bytes(without_recovery(settings.read_bytes()))
    yield Ground(request.param, config, place / "data", stop)
    shutil.rmtree(place)


def recovers(ground: Ground, data: Path, command: str) -> list[str]:
    """Recover to the end; return the rows. Raises RuntimeError if the server stops instead."""
    with Cluster.adopt(data, ground.major, settings={"restore_command": command}) as server:
        machine.wait_until(lambda: server.psql("SELECT pg_is_in_recovery()") == "f", "the end of recovery")
        return server.psql("SELECT n FROM rows ORDER BY n").split()


def never_opens(ground: Ground, data: Path, command: str) -> None:
    """The server stops in its recovery, and has begun no timeline of its own."""
    try:
        with Cluster.adopt(data, ground.major, settings={"restore_command": command}) as server:
            machine.wait_until(
                lambda: not server.running or bool(list((data / "pg_wal").glob("00000002*"))),
                "the server to decide",
            )
            log = server.log_tail(60)
    except RuntimeError as stopped:  # before it could be asked anything
        log = str(stopped)
    assert "could not restore file" in log, log
    assert "archive recovery complete" not in log and "selected new timeline" not in log
    assert not list((data / "pg_wal").glob("00000002*"))


def test_a_recovery_brings_everything_back(ground: Ground, work_dir: Path) -> None:
    data = ground.copy(work_dir / "data")
    with wal_source(ground.config, data, USER, grace=0) as source:
        assert recovers(ground, data, source.restore_command) == [str(n) for n in range(ROWS)]
    assert not (data / FOLDER).exists(), "nothing of ours stays"


@pytest.mark.parametrize("sandboxed", [True, False])
def test_a_scratch_server_recovers_where_no_interpreter_is(
    ground: Ground, work_dir: Path, sandboxed: bool
) -> None:
    data = ground.copy(work_dir / "data")
    promise = Promise(TimelineHistory(1), ground.stop)
    with (
        wal_source(ground.config, data, USER, promise=promise) as source,
        scratch(
            find_programs(ground.major, ground.config.bin_dir),
            data,
            recovery=Recovery(source.restore_command, 1),
            sandboxed=sandboxed,
        ) as server,
    ):
        assert server.end_of_recovery_lsn is not None
        assert server.end_of_recovery_lsn >= ground.stop
        assert one(server, "SELECT count(*) FROM rows") == ROWS


def test_two_recoveries_at_once(ground: Ground, work_dir: Path) -> None:
    with ExitStack() as stack:
        datas = [ground.copy(work_dir / f"{n}") for n in range(2)]
        sources = [stack.enter_context(wal_source(ground.config, data, USER, grace=0)) for data in datas]
        for data, source in zip(datas, sources, strict=True):
            assert len(recovers(ground, data, source.restore_command)) == ROWS


def test_a_server_that_runs_by_itself_starts_its_worker(ground: Ground, work_dir: Path) -> None:
    data = ground.copy(work_dir / "data")
    options = ["wal", "worker", "--config", str(config_file(ground.config, work_dir / "config.toml"))]
    command = restore_command_by_client(client(), program(options))
    assert len(recovers(ground, data, command)) == ROWS
    machine.wait_until(lambda: not workers_of(data), "the worker to follow its server")


def test_a_killed_worker_is_followed_by_another_one(ground: Ground, work_dir: Path) -> None:
    data = ground.copy(work_dir / "data")
    path = config_file(ground.config, work_dir / "config.toml")
    # Each worker but the last is killed when it has served its second file.
    armed = ["/usr/bin/env", "PGPROOF_FAILPOINTS=fetch.served@2=kill"]
    command = restore_command_by_client(
        client(), [*armed, *program(["wal", "worker", "--config", str(path), "--ahead", "0"])]
    )
    assert len(recovers(ground, data, command)) == ROWS


def test_a_stalled_store_is_waited_for(ground: Ground, work_dir: Path, s3: S3Server) -> None:
    data = ground.copy(work_dir / "data")
    bucket = s3.make_bucket(f"stalled-{ground.major}")
    config = s3.backup_config(s3_bucket=bucket, passphrase=ground.config.passphrase)
    for path in sorted(Path(ground.config.backup_dir or "").rglob("*")):
        if path.is_file():
            obstore.put(
                s3.store(bucket), str(path.relative_to(ground.config.backup_dir or "")), path.read_bytes()
            )
    with wal_source(config, data, USER, grace=0) as source, ThreadPoolExecutor(1) as pool:
        os.kill(s3.pid, signal.SIGSTOP)
        try:
            recovery = pool.submit(recovers, ground, data, source.restore_command)
            asking = data / "pg_wal" / "pgproof" / "open"
            machine.wait_until(lambda: asking.exists() and bool(waits_for_wal(data)), "a wish")
            with pytest.raises(TimeoutError):
                recovery.result(timeout=3)
            assert waits_for_wal(data)
        finally:
            os.kill(s3.pid, signal.SIGCONT)
        assert len(recovery.result(timeout=60)) == ROWS


def waits_for_wal(data: Path) -> list[int]:
    """The shells of restore_command that run in that data directory now."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            if (entry / "cwd").readlink() == data and (entry / "comm").read_text().strip() == "sh":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    "fault", ["gone", "unmounted", "damaged", "missing", "other program", "no program", "killed client"]
)
def test_whatever_breaks_the_server_never_opens(ground: Ground, work_dir: Path, fault: str) -> None:
    data, repo = ground.copy(work_dir / "data"), work_dir / "repo"
    shutil.copytree(ground.config.backup_dir or "", repo)
    machine.give_to_service(repo)
    config = replace(ground.config, backup_dir=str(repo))
    stored = sorted((repo / "clusters/main/wal/00000001").iterdir())
    victim = stored[len(stored) // 2]
    if fault in ("other program", "no program", "killed client"):
        broken = {
            "other program": ["/bin/false"],
            "no program": [str(work_dir / "nowhere" / "python")],
            "killed client": ["/bin/sh", "-c", "kill -9 $$"],
        }[fault]
        never_opens(ground, data, restore_command_by_client(broken, broken))
        return
    with wal_source(config, data, USER, grace=0) as source:
        if fault == "gone":
            repo.rename(work_dir / "away")
        elif fault == "unmounted":
            repo.rename(work_dir / "away")
            repo.mkdir()
        elif fault == "damaged":
            content = victim.read_bytes()
            replace_file(victim, flip_bit(content, len(content) // 3))
        else:
            victim.unlink()
        never_opens(ground, data, source.restore_command)
        kind: type[EngineError] = DataError if fault in ("damaged", "missing") else EngineError
        assert isinstance(source.failure, kind)


def test_a_backup_on_a_later_timeline_brings_its_history(
    cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    cluster = cluster_factory(17, initdb_args=["--wal-segsize=1"])
    cluster.stop()
    (cluster.data_dir / "recovery.signal").touch()
    with (cluster.data_dir / "postgresql.conf").open("a") as file:
        file.write("restore_command = 'exit 1'\n")
    machine.give_to_service(cluster.data_dir)
    cluster.start()
    machine.wait_until(lambda: cluster.psql("SELECT pg_is_in_recovery()") == "f", "the promotion")
    config = repository_of(cluster, work_dir / "repo")
    archive = WalArchive.open(open_repository(config))
    line = (cluster.data_dir / "pg_wal" / "00000002.history").read_bytes()
    assert archive.read_history(2) == line
    # One that was taken before history files were kept has it in its manifest alone.
    (work_dir / "repo" / archive.repository.layout.history(2)).unlink()
    found = WalFetcher(archive, grace=0).find("00000002.history")
    assert found is not None
    assert b"".join(found.chunks) == line
