"""The process is killed during a restore: what lies there then does not start, or it is all there."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from tests.repository.places import new_repository, starts
from tests.support import machine
from tests.support.faults import run_armed
from tests.support.postgres import Cluster

KILLED = -signal.SIGKILL
_COUNT = "SELECT count(*), sum(hashtext(f::text)) FROM facts f"


@pytest.fixture(scope="module")
def stored() -> Iterator[tuple[BackupConfig, str]]:
    """A repository with one backup, and what its table holds."""
    with Cluster(18, initdb_args=("--wal-segsize=1",)) as cluster:
        cluster.psql("CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 1000) g")
        place = machine.new_dir("repo")
        config = new_repository(place / "repo")
        take_backup(cluster.config(), config, BackupType.FULL, Job())
        rows = cluster.psql(_COUNT)
    yield config, rows
    shutil.rmtree(place)


def restore(config: BackupConfig, target: Path, recover: bool) -> None:
    restore_cluster(config, "latest", target, tablespaces={}, recover=recover, owner=None, job=Job())


# The first calls, one in the middle of the files, and every call near the end, where it begins to start.
BEFORE_THE_CONTROL_FILE = [
    *("restore.roots", "restore.directory@3", "restore.open", "restore.open@300", "restore.write@20"),
    *("restore.write@300", "restore.sync", "restore.sync@2", "restore.sync.file"),
]


@pytest.mark.parametrize("recover", [True, False])
@pytest.mark.parametrize("point", BEFORE_THE_CONTROL_FILE)
def test_a_restore_killed_while_it_writes(
    stored: tuple[BackupConfig, str], work_dir: Path, point: str, recover: bool
) -> None:
    config, rows = stored
    target = work_dir / "data"
    assert run_armed(f"{point}=kill", restore, config, target, recover) == KILLED
    if point == "restore.sync.file" and not recover:
        _holds(target, rows)  # pg_control was the last: the server's own start recovers it
    else:
        assert not starts(target)


# Here pg_control is there, and recovery has not ended: settings that no server starts with stop it.
@pytest.mark.parametrize("point", ["server.launched", "server.starting", "server.starting@2"])
def test_a_restore_killed_while_it_recovers(
    stored: tuple[BackupConfig, str], work_dir: Path, point: str
) -> None:
    config, _rows = stored
    target = work_dir / "data"
    assert run_armed(f"{point}=kill", restore, config, target, True) == KILLED
    _wait_for_the_orphan(target)
    assert not starts(target)


@pytest.mark.parametrize("point", ["server.open", "restore.remove", "restore.remove@4"])
def test_a_restore_killed_when_recovery_is_done(
    stored: tuple[BackupConfig, str], work_dir: Path, point: str
) -> None:
    config, _rows = stored
    target = work_dir / "data"
    assert run_armed(f"{point}=kill", restore, config, target, True) == KILLED
    _wait_for_the_orphan(target)
    # All rows may be there, but not yet the cluster's own settings and links: see `forbid_start`.
    assert not starts(target)


def test_a_restore_without_recovery_starts_and_recovers(
    stored: tuple[BackupConfig, str], work_dir: Path
) -> None:
    config, rows = stored
    restore(config, work_dir / "data", False)
    _holds(work_dir / "data", rows)


def test_all_calls_of_a_restore_are_known(stored: tuple[BackupConfig, str], work_dir: Path) -> None:
    """No later call exists of the ones that are tried up to their last."""
    config, rows = stored
    rules = "restore.sync@5=kill,restore.sync.file@2=kill,restore.remove@5=kill"
    assert run_armed(rules, restore, config, work_dir / "data", True) == 0
    _holds(work_dir / "data", rows)


def _holds(target: Path, rows: str) -> None:
    with Cluster.adopt(target) as cluster:
        assert cluster.psql(_COUNT) == rows


def _wait_for_the_orphan(target: Path) -> None:
    """The scratch server dies with the process that started it."""
    machine.wait_until(lambda: not _servers_on(target), "the scratch server to end")


def _servers_on(target: Path) -> list[int]:
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                command = (directory / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if bytes(target) in command:
                found.append(int(directory.name))
    return found
