"""Backups that build on earlier ones: only what changed is stored, each stands for itself, damage heals.

Without a server and in memory; real clusters are in tests/round_trip/test_incremental.py.
"""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pgproof.actions.choose_base import packs_known_damaged
from pgproof.errors import DataError, PreconditionError, TransientError
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.damage import damaged_packs
from pgproof.model.filemap import numbers_of
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.report import VerificationReport
from pgproof.repository.base import Base
from pgproof.repository.bucket import Bucket
from pgproof.repository.catalog import committed_ids, store_verification
from pgproof.repository.content import Content
from pgproof.repository.intake import FileIntake
from pgproof.repository.local import LocalBucket
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs, stored_frames
from pgproof.repository.sealing import Kind, RepositoryKey, Suite
from pgproof.repository.wal_writer import WalWriter
from pgproof.repository.writer import PackWriter
from tests.support.faults import FailingBucket

KEY = RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32)))
AT = datetime(2026, 11, 25, tzinfo=UTC)
PAGE = 8192
SEGMENT = 1 << 20
Files = dict[bytes, bytes]


def id_of(number: int, kind: BackupType = BackupType.INCREMENTAL) -> str:
    return f"20261125T21{number // 60:02d}{number % 60:02d}Z-{kind}-3fa91c"


def back_up(bucket: Bucket, backup_id: str, files: Files, base: Manifest | None) -> Manifest:
    """What take_backup does to the storage, in its order."""
    repository = Repository(bucket, KEY, "main")
    known = stored_frames(repository, interrupted_runs(repository), PAGE, Job())
    repository.create_json(
        Kind.INTENT, repository.layout.intent(backup_id), {"format": 1, "backup": backup_id}
    )
    ours = (backup_id, *known.owners)
    compares = base is not None
    with PackWriter(repository, backup_id, PAGE, 3, known, Job(), compares=compares) as packs:
        if base is None:
            stored = feed(FileIntake(repository, packs, ours, PAGE), files)
        else:
            damaged = packs_known_damaged(repository, base)
            with Base(repository, base, len(ours), damaged) as old:
                stored = feed(FileIntake(repository, packs, (*ours, *old.owners), PAGE, old), files)
    with WalWriter(repository, 1, Lsn(0), SEGMENT, 3) as wal:
        wal.write(Lsn(0), memoryview(bytes(SEGMENT)))
    wal.check()
    manifest = Manifest(
        backup_id=backup_id,
        cluster="main",
        type=BackupType.INCREMENTAL if base else BackupType.FULL,
        method="physical",
        parent_id=base.backup_id if base else None,
        started_at=AT,
        finished_at=AT,
        size_bytes=stored.size_bytes,
        stored_bytes=stored.stored_bytes,
        files=stored.files,
        start_lsn=Lsn(0),
        stop_lsn=Lsn(100),
        timeline=1,
        wal_segment_size=SEGMENT,
        system_identifier="7",
        server_version="18.6",
        block_size=PAGE,
        data_checksums=True,
        change_detection="compare" if base else "none",
        maps=stored.maps,
        packs=stored.packs,
    )
    repository.commit(manifest)
    return manifest


def feed(intake: FileIntake, files: Files):  # type: ignore[no-untyped-def]
    for path, content in files.items():
        intake.begin(path, len(content), 0o600)
        for at in range(0, len(content), 32768):
            intake.data(memoryview(content)[at : at + 32768])
    return intake.finish(Job())


def read(bucket: Bucket, backup_id: str) -> Files:
    repository = Repository(bucket, KEY, "main")
    manifest = repository.read_manifest(backup_id)
    assert manifest is not None
    content = Content(repository)
    return {
        entry.path: content.read(segment, entry, PAGE)
        for segment in repository.segments(manifest)
        for entry in segment.files
    }


def stored_pages(bucket: Bucket, backup_id: str) -> int:
    repository = Repository(bucket, KEY, "main")
    packs = repository.pack_objects(backup_id).values()
    return sum(repository.open_pack(info).index.page_count for info in packs)


def changed(before: Files, after: Files) -> int:
    """How many pages are not those of the same place before."""
    count = 0
    for path, content in after.items():
        old = before.get(path, b"")
        for at in range(0, len(content), PAGE):
            count += content[at : at + PAGE].ljust(PAGE, b"\0") != old[at : at + PAGE].ljust(PAGE, b"\0") or (
                at >= len(old)
            )
    return count


def some_files(chance: random.Random) -> Files:
    files = {
        b"base/1/%d" % number: b"".join(
            chance.randbytes(32) * (PAGE // 32) for _ in range(chance.choice((1, 3, 63, 64, 65, 200)))
        )
        for number in range(12)
    }
    return files | {b"PG_VERSION": b"18\n", b"empty": b"", b"global/1": chance.randbytes(PAGE * 2 + 100)}


def edited(files: Files, chance: random.Random) -> Files:
    """Pages written anew, files that grow, shrink, come and go."""
    after = dict(files)
    for path in chance.sample(sorted(after), chance.randrange(1, 8)):
        content = bytearray(after[path])
        how = chance.randrange(5)
        if how == 0:
            del after[path]
        elif how == 1:
            after[path] = bytes(content) + chance.randbytes(chance.choice((1, PAGE, 70 * PAGE)))
        elif how == 2:
            after[path] = bytes(content[: len(content) // 2])
        else:
            for _ in range(chance.randrange(1, 30)):
                at = chance.randrange(len(content) // PAGE + 1) * PAGE
                content[at : at + PAGE] = chance.randbytes(PAGE)[: len(content[at : at + PAGE])]
            after[path] = bytes(content)
    if chance.random() < 0.5:
        after[b"base/1/new%d" % chance.randrange(99)] = chance.randbytes(chance.choice((100, PAGE * 66)))
    names = sorted(after)
    chance.shuffle(names)
    return {name: after[name] for name in names}


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_stores_what_changed_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    bucket, files = memory_bucket(), some_files(chance)
    base = back_up(bucket, id_of(0, BackupType.FULL), files, None)
    history = {base.backup_id: files}
    full = base
    for number in range(1, 9):
        before, files = history[base.backup_id], edited(files, chance)
        manifest = back_up(bucket, id_of(number), files, base)
        history[manifest.backup_id] = files
        assert stored_pages(bucket, manifest.backup_id) == changed(before, files)
        # A differential one builds on the full one, whatever was in between.
        base = full if chance.random() < 0.3 else manifest
    for backup_id, wanted in history.items():
        assert read(bucket, backup_id) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_removing_any_backup_leaves_the_others_whole(seed: int) -> None:
    chance = random.Random(seed)
    bucket, files = memory_bucket(), some_files(chance)
    manifests = [back_up(bucket, id_of(0, BackupType.FULL), files, None)]
    history = [files]
    for number in range(1, 6):
        files = edited(files, chance)
        manifests.append(back_up(bucket, id_of(number), files, manifests[-1]))
        history.append(files)
    left = list(zip(manifests, history, strict=True))
    while left:
        remove(bucket, left.pop(chance.randrange(len(left)))[0], [manifest for manifest, _files in left])
        for manifest, wanted in left:
            assert read(bucket, manifest.backup_id) == wanted


def remove(bucket: Bucket, gone: Manifest, kept: list[Manifest]) -> None:
    """The manifest first, then the packs and maps that no other manifest names."""
    layout = Repository(bucket, KEY, "main").layout
    bucket.delete(layout.manifest(gone.backup_id))
    for owner in gone.packs:
        needed = {n for manifest in kept for n in numbers_of(manifest.packs.get(owner, b""))}
        for info in list(bucket.list(layout.packs_of(owner))):
            if int(info.key.removeprefix(layout.packs_of(owner))[:8]) not in needed:
                bucket.delete(info.key)
    names = {ref.hash for manifest in kept for ref in manifest.maps}
    for ref in gone.maps:
        if ref.hash not in names:
            bucket.delete(layout.map(ref.hash))


def test_what_a_verification_named_is_stored_again() -> None:
    chance = random.Random(5)
    bucket, files = memory_bucket(), some_files(chance)
    full = back_up(bucket, id_of(0, BackupType.FULL), files, None)
    repository = Repository(bucket, KEY, "main")
    (info,) = repository.pack_objects(full.backup_id).values()
    data = bytearray(bucket.read(info.key))
    data[len(data) // 2] ^= 1
    bucket.delete(info.key)
    bucket.create(info.key, bytes(data))
    # The index is whole: nothing tells, until somebody looks.
    second = back_up(bucket, id_of(1), files, full)
    assert stored_pages(bucket, second.backup_id) == 0
    with pytest.raises(DataError) as damage:
        read(bucket, second.backup_id)
    report = VerificationReport(
        second.backup_id,
        VerifyLevel.FRAMES,
        ok=False,
        proven=False,
        started_at=AT,
        seconds=1,
        bytes_read=1,
        damage=(str(damage.value),),
        damaged_packs=tuple(f"packs/{owner}/{n:08d}" for owner, n in damaged_packs([str(damage.value)])),
    )
    store_verification(repository, report)

    third = back_up(bucket, id_of(2), files, second)

    assert full.backup_id not in third.packs
    assert read(bucket, third.backup_id) == files


@pytest.mark.parametrize("kind", ["packs/", "maps/"])
def test_missing_objects_of_the_base_are_stored_again(kind: str) -> None:
    chance = random.Random(6)
    bucket, files = memory_bucket(), some_files(chance)
    full = back_up(bucket, id_of(0, BackupType.FULL), files, None)
    gone = next(iter(bucket.list(f"clusters/main/{kind}")))
    bucket.delete(gone.key)
    second = back_up(bucket, id_of(1), files, full)
    assert read(bucket, second.backup_id) == files
    assert stored_pages(bucket, second.backup_id) > 0


def test_an_interrupted_run_is_gone_on_with() -> None:
    """The plug is pulled after each change: the next run stores no page again that is there."""
    chance = random.Random(7)
    files = some_files(chance)
    after = {path: chance.randbytes(len(content)) for path, content in files.items()}
    for calls in itertools.count():
        bucket = memory_bucket()
        full = back_up(bucket, id_of(0, BackupType.FULL), files, None)
        try:
            back_up(FailingBucket(bucket, calls, last_takes_effect=True), id_of(1), after, full)
        except TransientError:
            done = False
        else:
            done = True
        there = stored_pages(bucket, id_of(1))
        if not done and id_of(1) not in committed_ids(bucket, Repository(bucket, KEY, "main").layout):
            second = back_up(bucket, id_of(2), after, full)
            assert stored_pages(bucket, id_of(2)) + there == changed(files, after)
            assert read(bucket, second.backup_id) == after
        assert read(bucket, full.backup_id) == files
        if done:
            break
    assert calls >= 4


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_map_of_nothing_but_empty_files_is_stored_anew(damage: str, work_dir: Path) -> None:
    """Its hash does not change from backup to backup, as it names no pack: every later backup would fail."""
    bucket = LocalBucket(work_dir)
    files: Files = {f"base/5/{number}".encode(): b"" for number in range(30)}
    first = back_up(bucket, id_of(0, BackupType.FULL), files, None)
    key = f"clusters/main/maps/{first.maps[0].hash}"
    path, data = work_dir / key, bytearray(bucket.read(key))
    data[200] ^= 1
    path.write_bytes({"flipped": bytes(data), "cut": bytes(data[:100]), "empty": b""}[damage])
    with pytest.raises(DataError):
        read(bucket, first.backup_id)
    second = back_up(bucket, id_of(1, BackupType.FULL), files, None)
    assert second.maps == first.maps
    assert read(bucket, first.backup_id) == read(bucket, second.backup_id) == files


class _NoDelete:
    """A store whose credentials may not delete."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def delete(self, key: str) -> None:
        raise PreconditionError("the store refuses", hint="grant it", key=key)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._bucket, verb)


def test_where_nothing_may_be_deleted_the_damaged_map_is_named(work_dir: Path) -> None:
    bucket = LocalBucket(work_dir)
    files: Files = {b"base/5/1": b"", b"base/5/2": b""}
    first = back_up(bucket, id_of(0, BackupType.FULL), files, None)
    key = f"clusters/main/maps/{first.maps[0].hash}"
    (work_dir / key).write_bytes(b"rotten")
    with pytest.raises(DataError, match="does not let it be replaced") as refused:
        back_up(_NoDelete(bucket), id_of(1, BackupType.FULL), files, None)
    assert refused.value.context["key"] == key
    bucket.delete(key)
    back_up(bucket, id_of(2, BackupType.FULL), files, None)
    assert read(bucket, first.backup_id) == files
