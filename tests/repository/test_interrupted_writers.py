"""The plug is pulled after each change of the storage: there is a whole backup or none, and a repetition succeeds.

Without a server and in memory, so that every place can be tried; whole runs are killed in test_crash.py.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from pgproof.errors import ConflictError, DataError, TransientError
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.repository.bucket import Bucket
from pgproof.repository.catalog import list_backups
from pgproof.repository.content import Content
from pgproof.repository.intake import FileIntake
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs, stored_frames
from pgproof.repository.sealing import Kind, RepositoryKey, Suite
from pgproof.repository.wal_writer import WalWriter
from pgproof.repository.writer import PackWriter
from tests.support.faults import FailingBucket, LostAnswerBucket

KEY = RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32)))
AT = datetime(2026, 11, 23, tzinfo=UTC)
FILES = {
    b"PG_VERSION": b"18\n",
    b"base/1/2": b"page" * 5000,
    b"empty": b"",
    b"global/pg_control": b"c" * 8192,
}
SEGMENT = 1 << 20


def _id(number: int) -> str:
    return f"20261123T2130{number:02d}Z-full-3fa91c"


def write(bucket: Bucket, backup_id: str) -> None:
    """What take_backup does to the storage, in its order."""
    repository = Repository(bucket, KEY, "main")
    known = stored_frames(repository, interrupted_runs(repository), 8192, Job())
    repository.create_json(
        Kind.INTENT, repository.layout.intent(backup_id), {"format": 1, "backup": backup_id}
    )
    with PackWriter(repository, backup_id, 8192, 3, known, Job()) as packs:
        intake = FileIntake(repository, packs, (backup_id, *known.owners), 8192)
        for path, content in FILES.items():
            intake.begin(path, len(content), 0o600)
            if content:
                intake.data(memoryview(content))
        files = intake.finish(Job())
    with WalWriter(repository, 1, Lsn(0), SEGMENT, 3) as wal:
        wal.write(Lsn(0), memoryview(bytes(SEGMENT)))
    wal.check()
    if wal.durable != Lsn(SEGMENT):
        raise AssertionError("the WAL is not durable, and nobody said so")
    repository.commit(
        Manifest(
            backup_id=backup_id,
            cluster="main",
            type=BackupType.FULL,
            method="physical",
            parent_id=None,
            started_at=AT,
            finished_at=AT,
            size_bytes=files.size_bytes,
            stored_bytes=files.stored_bytes,
            files=files.files,
            start_lsn=Lsn(0),
            stop_lsn=Lsn(100),
            timeline=1,
            wal_segment_size=SEGMENT,
            system_identifier="7",
            server_version="18.6",
            block_size=8192,
            data_checksums=True,
            change_detection="none",
            maps=files.maps,
            packs=files.packs,
        )
    )


def read(bucket: Bucket) -> dict[str, dict[bytes, bytes]]:
    """Every listed backup with the contents of its files."""
    repository = Repository(bucket, KEY, "main")
    found = {}
    for info in list_backups(repository):
        assert info.status == "ok"
        manifest = repository.read_manifest(info.backup_id)
        assert manifest is not None
        assert repository.open_wal(manifest.wal_segments[0]).index.plain_size == SEGMENT
        content = Content(repository)
        found[info.backup_id] = {
            entry.path: content.read(segment, entry, 8192)
            for segment in repository.segments(manifest)
            for entry in segment.files
        }
    return found


@pytest.mark.parametrize("last_takes_effect", [False, True])
def test_the_plug_is_pulled_after_each_change(last_takes_effect: bool) -> None:
    bucket = memory_bucket()
    expected: dict[str, dict[bytes, bytes]] = {}
    for calls in itertools.count():
        backup_id = _id(calls)
        failing = FailingBucket(bucket, calls, last_takes_effect=last_takes_effect)
        try:
            write(failing, backup_id)
        except TransientError:
            done = False
        else:
            done = True
        found = read(bucket)
        assert found.pop(backup_id, FILES) == FILES
        assert found == expected
        if done:
            break
        expected = read(bucket)
        write(bucket, _id(calls + 30))
        expected[_id(calls + 30)] = FILES
        assert read(bucket) == expected
    assert calls >= 5


def test_every_answer_is_lost() -> None:
    """A client that repeats by itself is told "it exists" by its own success."""
    bucket = memory_bucket()
    write(LostAnswerBucket(bucket), _id(1))
    assert read(bucket) == {_id(1): FILES}


def test_a_run_that_was_given_up_cannot_commit() -> None:
    bucket = memory_bucket()
    repository = Repository(bucket, KEY, "main")
    repository.create_json(
        Kind.MANIFEST, repository.layout.manifest(_id(1)), {"format": 1, "abandoned": True}
    )
    with pytest.raises(ConflictError):
        write(bucket, _id(1))
    assert read(bucket) == {}


def test_a_second_server_on_the_same_timeline_is_refused() -> None:
    bucket = memory_bucket()
    repository = Repository(bucket, KEY, "main")
    for content, refused in ((bytes(SEGMENT), False), (bytes(SEGMENT), False), (b"x" * SEGMENT, True)):
        with WalWriter(repository, 1, Lsn(0), SEGMENT, 3) as wal:
            wal.write(Lsn(0), memoryview(content))
        if refused:
            with pytest.raises(ConflictError, match="two servers"):
                wal.check()
            assert wal.durable == Lsn(0)
        else:
            wal.check()
            assert wal.durable == Lsn(SEGMENT)


def test_a_map_under_a_name_that_holds_something_else_is_never_reused() -> None:
    bucket = memory_bucket()
    write(bucket, _id(1))
    for info in list(bucket.list("clusters/main/maps/")):
        bucket.delete(info.key)
        bucket.create(info.key, b"rotten")
    repository = Repository(bucket, KEY, "main")
    manifest = repository.read_manifest(_id(1))
    assert manifest is not None
    with pytest.raises(DataError, match="clusters/main/maps/"):
        list(repository.segments(manifest))
