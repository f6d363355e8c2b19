"""The process is killed after each storage call: what is listed is whole, and the next run succeeds."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pgproof import failpoints
from pgproof.actions import manage_keys
from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import BackupConfig, BackupType, ChangeDetection, PostgresConfig, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import BackupInfo
from pgproof.repository.catalog import list_backups
from tests.repository.places import new_repository
from tests.support.faults import run_armed
from tests.support.postgres import Cluster

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    with Cluster(18, initdb_args=("--wal-segsize=1",)) as cluster:
        cluster.psql("CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 1000) g")
        yield cluster


@pytest.fixture(scope="module")
def summarizing() -> Iterator[Cluster]:
    settings = {"summarize_wal": True, "autovacuum": False}
    with Cluster(18, initdb_args=("--wal-segsize=1",), settings=settings) as cluster:
        cluster.psql("CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 1000) g")
        yield cluster


def add_to(postgres: PostgresConfig, config: BackupConfig) -> BackupInfo:
    return take_backup(postgres, config, BackupType.INCREMENTAL, Job())


def back_up(postgres: PostgresConfig, config: BackupConfig) -> str:
    return take_backup(postgres, config, BackupType.FULL, Job()).backup_id


def listed(config: BackupConfig) -> list[str]:
    found = list_backups(open_repository(config))
    assert all(info.status == "ok" for info in found)
    return [info.backup_id for info in found]


def whole(config: BackupConfig, backup_id: str, level: VerifyLevel = VerifyLevel.FRAMES) -> bool:
    return verify_backup(config, backup_id, level, Job()).ok


def test_a_backup_killed_after_each_storage_call(source: Cluster, work_dir: Path) -> None:
    config = new_repository(work_dir / "repo")
    expected: list[str] = []
    left_behind: list[str] = []
    for number in itertools.count(1):
        status = run_armed(f"bucket.*@{number}=kill", back_up, source.config(), config)
        now = listed(config)
        new = [backup_id for backup_id in now if backup_id not in expected]
        assert len(new) <= 1, "a killed run left more than itself"
        for backup_id in new:
            assert whole(config, backup_id)
            left_behind.append(backup_id)
        expected = now
        if status == 0:
            break
        assert status == KILLED
        expected.append(back_up(source.config(), config))
        assert listed(config) == expected
    assert number > 30, "the failpoints were not passed"
    # The kills at the manifest and after it leave backups; these really start.
    assert len(left_behind) > 1
    assert whole(config, left_behind[0], VerifyLevel.START)
    assert all(whole(config, backup_id) for backup_id in expected)


@pytest.mark.parametrize("way", ChangeDetection)
def test_an_incremental_killed_after_storage_calls(
    summarizing: Cluster, work_dir: Path, way: ChangeDetection
) -> None:
    """Whatever is left is whole, the base stays whole, and the next run succeeds, in the way that was asked for."""
    config = new_repository(work_dir / "repo", change_detection=way)
    back_up(summarizing.config(), config)
    ended = False
    for number in itertools.count(3, 13):
        summarizing.psql(f"UPDATE facts SET md5 = 'a' WHERE g % {number} = 0")
        before = listed(config)
        status = run_armed(f"bucket.*@{number}=kill", add_to, summarizing.config(), config)
        new = [backup_id for backup_id in listed(config) if backup_id not in before]
        assert len(new) <= 1 and all(whole(config, backup_id) for backup_id in new)
        if status == 0:
            ended = True
            break
        assert status == KILLED
        info = add_to(summarizing.config(), config)
        assert info.change_detection == way, info.findings
    assert ended and number > 20, "the failpoints were not passed"
    ids = listed(config)
    assert all(whole(config, backup_id) for backup_id in ids)
    assert whole(config, ids[-1], VerifyLevel.START)


@pytest.mark.parametrize("point", ["base.asked", "receive.complete", "backup.mapped"])
def test_an_incremental_by_summaries_killed_on_its_way(
    summarizing: Cluster, work_dir: Path, point: str
) -> None:
    config = new_repository(work_dir / "repo", change_detection=ChangeDetection.SUMMARIES)
    full = back_up(summarizing.config(), config)
    assert run_armed(f"{point}=kill", add_to, summarizing.config(), config) == KILLED
    assert listed(config) == [full]
    info = add_to(summarizing.config(), config)
    assert info.change_detection == "summaries" and whole(config, info.backup_id)


def test_staging_files_of_the_dead_are_in_nobodys_way(source: Cluster, work_dir: Path) -> None:
    config = new_repository(work_dir / "repo")
    assert run_armed("bucket.create.staged@3=kill", back_up, source.config(), config) == KILLED
    repository = open_repository(config)
    staged = [path for path in (work_dir / "repo").rglob("*") if path.name.startswith(".staging-")]
    assert staged  # another thread may be in the middle of one as well
    assert not any(".staging" in info.key for info in repository.bucket.list(""))
    assert whole(config, back_up(source.config(), config))


# Before a create is also before those that are refused, of which the trial of the store makes some.
@pytest.mark.parametrize(
    ("point", "steps"), [("create.before", [1, 5, 11, 12, 13, 14, 15]), ("create.after", range(1, 8))]
)
def test_init_killed_after_each_storage_call(work_dir: Path, point: str, steps: Sequence[int]) -> None:
    for number in steps:
        config = BackupConfig(backup_dir=str(work_dir / f"{number}"), passphrase="of the operator")
        assert run_armed(f"bucket.{point}@{number}=kill", init_repository, config) == KILLED
        made = (work_dir / f"{number}" / "repository.json").exists()
        assert made == (point == "create.after" and number == steps[-1])
        if made:
            with pytest.raises(ConflictError):
                init_repository(config)
        else:
            with pytest.raises(PreconditionError, match="no repository"):
                open_repository(config)
            init_repository(config)
        open_repository(config)
    # One further call does not happen.
    config = BackupConfig(backup_dir=str(work_dir / "whole"), passphrase="of the operator")
    assert run_armed(f"bucket.{point}@{steps[-1] + 1}=kill", init_repository, config) == 0


def test_a_change_of_the_passphrase_killed_after_each_storage_call(work_dir: Path) -> None:
    report = init_repository(BackupConfig(backup_dir=str(work_dir / "repo"), passphrase="old"))

    def opens(passphrase: str | None) -> bool:
        try:
            open_repository(BackupConfig(backup_dir=str(work_dir / "repo"), passphrase=passphrase))
        except PreconditionError:
            return False
        return True

    known = "old"
    # The storage is the same before a create and staged, and after it and before the delete.
    for rule, effect in (("create.staged", False), ("create.after", True), ("delete.after", True)):
        config = BackupConfig(backup_dir=str(work_dir / "repo"), passphrase=known)
        new = f"after {rule}"
        assert run_armed(f"bucket.{rule}=kill", manage_keys.change_key, config, new) == KILLED
        assert opens(new) == effect
        assert opens(known) == (rule != "delete.after")
        known = new if effect else known
        assert opens(report.recovery_key)
    # What is left over is in nobody's way.
    config = BackupConfig(backup_dir=str(work_dir / "repo"), passphrase=known)
    manage_keys.change_key(config, "in the end")
    assert opens("in the end")


def test_the_environment_arms_a_process(work_dir: Path) -> None:
    config = new_repository(work_dir / "repo")
    program = "from pgproof.repository.local import LocalBucket; from pathlib import Path; import sys\n"
    program += "LocalBucket(Path(sys.argv[1])).create('a', b'a')"
    root = config.backup_dir or ""
    command = [sys.executable, "-c", program, root]
    environment = {**os.environ, "PGPROOF_FAILPOINTS": "bucket.create.after=kill"}
    assert subprocess.run(command, env=environment, check=False).returncode == KILLED
    assert Path(root, "a").read_bytes() == b"a"


@pytest.mark.parametrize("text", ["bucket", "bucket@0=kill", "bucket=sleep", "bucket=kill=raise"])
def test_a_rule_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(PreconditionError, match="PGPROOF_FAILPOINTS"):
        failpoints.arm(text)
