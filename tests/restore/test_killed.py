"""A restore that is killed at any moment leaves what refuses to start, or a whole cluster, and no server."""

from __future__ import annotations

import multiprocessing
import random
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from tests.postgres.clusters import processes_of
from tests.repository.places import starts
from tests.support import machine
from tests.support.faults import run_armed
from tests.support.postgres import Cluster, find_bin

_MOMENTS = 30
_COUNT = "SELECT count(*), sum(hashtext(f::text)) FROM facts f"
_forks = multiprocessing.get_context("forkserver")  # whose modules tests.support.faults loads


@pytest.fixture(scope="module")
def stored() -> Iterator[tuple[BackupConfig, str]]:
    """A repository with a backup that was taken while rows came in, and what its table holds."""
    place = machine.new_dir("killed")
    config = BackupConfig(backup_dir=str(place / "repo"), encryption=False, bin_dir=str(find_bin(18)))
    init_repository(config)
    with Cluster(18, initdb_args=("--wal-segsize=1",)) as cluster:
        cluster.psql("ALTER SYSTEM SET work_mem = '77MB'")
        cluster.psql("CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g")
        take_backup(cluster.config(), config, BackupType.FULL, Job())
        rows = cluster.psql(_COUNT)
    yield config, rows
    shutil.rmtree(place)


def _restore(config: BackupConfig, target: Path, temporary: Path) -> None:
    tempfile.tempdir = str(temporary)
    restore_cluster(config, "latest", target, tablespaces={}, recover=True, owner=None, job=Job())


def _verify(config: BackupConfig, temporary: Path) -> None:
    tempfile.tempdir = str(temporary)
    assert verify_backup(config, "latest", VerifyLevel.START, Job()).proven


def test_a_restore_killed_at_any_moment(stored: tuple[BackupConfig, str], work_dir: Path) -> None:
    config, rows = stored
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    temporary = _open_dir(work_dir / "tmp")
    for name in ("first", "second"):  # the first one also pays for the start of the fork server
        begun = time.monotonic()
        assert run_armed("", _restore, config, work_dir / name, temporary) == 0
        whole = time.monotonic() - begun
    _holds(work_dir / "second", rows)
    found = {"without pg_control": 0, "not finished": 0, "whole": 0}
    for number in range(_MOMENTS):
        target = work_dir / f"data{number}"
        process = _forks.Process(target=_restore, args=(config, target, temporary))
        process.start()
        process.join((number + chance.random()) / (_MOMENTS - 3) * whole)  # the last ones may be finished
        process.kill()
        process.join()
        finished = process.exitcode == 0
        process.close()
        _wait_for_the_servers_death(target)
        if starts(target):
            found["whole"] += 1
            _holds(target, rows)
        else:
            found["not finished" if (target / "global/pg_control").exists() else "without pg_control"] += 1
            assert not finished, f"moment {number}"
        shutil.rmtree(target, ignore_errors=True)
    print(found)
    assert run_armed("", _restore, config, work_dir / "after", temporary) == 0
    assert list(temporary.glob("pgproof-*")) == []


def test_the_next_verification_removes_what_a_killed_one_left(
    stored: tuple[BackupConfig, str], work_dir: Path
) -> None:
    config, _rows = stored
    temporary = _open_dir(work_dir / "tmp")
    assert run_armed("server.open=kill", _verify, config, temporary) == -signal.SIGKILL
    (place,) = temporary.glob("pgproof-scratch-*")
    _wait_for_the_servers_death(place / "data")
    assert len(list(temporary.iterdir())) == 2
    assert run_armed("", _verify, config, temporary) == 0
    assert list(temporary.iterdir()) == []


def _holds(target: Path, rows: str) -> None:
    with Cluster.adopt(target) as cluster:
        assert cluster.psql(_COUNT) == rows
        assert cluster.psql("SHOW work_mem") == "77MB"


def _wait_for_the_servers_death(data: Path) -> None:
    machine.wait_until(lambda: not processes_of(data), "the server to die with its parent")


def _open_dir(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o755)
    return path
