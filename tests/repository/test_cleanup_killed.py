"""A cleanup is killed at named points: what is listed is whole, and the next one goes on."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from campaigns.chained_runs import ChainedRun, first_files
from campaigns.synthetic_runs import Files, read_files
from pgproof.actions.cleanup import carry_out, decide
from pgproof.actions.cleanup_survey import look_at
from pgproof.errors import TransientError
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from pgproof.model.retention_policy import policy_of
from pgproof.repository.catalog import committed_ids
from pgproof.repository.local import LocalBucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import RepositoryKey, Suite
from tests.support.faults import FailingBucket, run_armed

KEY = RepositoryKey(bytes(range(16)), Suite.NONE, bytes(range(32)))
AT = datetime.now(UTC) - timedelta(days=12)
POINTS = ("marked", "abandoned", "withdrawing", "packs", "small", "unmarked")


def clean(root: str, at: datetime) -> None:
    seen = look_at([Repository(LocalBucket(Path(root)), KEY, "main")], 0, Job(), clock=lambda: at)
    prepared = decide(seen, policy_of(last=1, at_least=1, pitr_days=0), "main", Job())
    carry_out(prepared, Job(), time.monotonic())


def run_of(root: Path, number: int, files: Files, calls: int | None = None) -> ChainedRun:
    bucket = LocalBucket(root)
    repository = Repository(bucket if calls is None else FailingBucket(bucket, calls), KEY, "main")
    kind = BackupType.FULL
    return ChainedRun(repository, AT + timedelta(days=number), kind, f"{number:06x}", files, 5 + number)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point(point: str, tmp_path: Path) -> None:
    contents: dict[str, Files] = {}
    for number in range(4):
        run = run_of(tmp_path, number, first_files(Random(number)), 4 if number == 2 else None)
        try:
            run.take()
        except TransientError:
            assert number == 2
        else:
            contents[run.backup_id] = run.files
    now = time.time()
    for path in tmp_path.rglob("*"):
        os.utime(path, (now - 8 * 86400, now - 8 * 86400))
    assert run_armed(f"cleanup.{point}=kill", clean, str(tmp_path), datetime.now(UTC)) == -9
    _check(tmp_path, contents)
    clean(str(tmp_path), datetime.now(UTC))
    clean(str(tmp_path), datetime.now(UTC))
    left = _check(tmp_path, contents)
    assert left == [max(contents)]
    packs = {path.parent.name for path in tmp_path.rglob("*") if path.is_file() and "packs" in path.parts}
    assert packs == set(left)


def _check(root: Path, contents: dict[str, Files]) -> list[str]:
    repository = Repository(LocalBucket(root), KEY, "main")
    found = []
    for backup_id in sorted(committed_ids(repository.bucket, repository.layout)):
        manifest = repository.read_manifest(backup_id)
        if manifest is not None:
            assert read_files(repository, manifest) == contents[backup_id]
            found.append(backup_id)
    return found
