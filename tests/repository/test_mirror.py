"""A mirror never tells of a backup that is not whole, and what one copy lacks or holds damaged comes from the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.wal_names import StoredRange
from pgproof.repository import layout
from pgproof.repository.bucket import Bucket
from pgproof.repository.catalog import list_backups
from pgproof.repository.content import Content
from pgproof.repository.either import EitherBucket
from pgproof.repository.escape_hatch import ensure_restore_script
from pgproof.repository.mirror import Copied, copy_missing
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_archive import WalArchive
from tests.repository.test_interrupted_writers import FILES, KEY, SEGMENT, read, write
from tests.support.faults import FailingBucket, flip_bit

IDS = [f"20261123T2130{number:02d}Z-full-3fa91c" for number in range(3)]


@pytest.fixture
def source() -> Iterator[Bucket]:
    bucket = memory_bucket()
    bucket.create("keys/0a0b0c0d", b"a slot")
    bucket.create(layout.REPOSITORY, b"a description")
    ensure_restore_script(bucket)
    Repository(bucket, KEY, "main").create_json(Kind.CLUSTER, "clusters/main/cluster", {"format": 1})
    for backup_id in IDS[:2]:
        write(bucket, backup_id)
    yield bucket


def mirror_to(source: Bucket, mirror: Bucket) -> Copied:
    return copy_missing(Repository(source, KEY, "main"), mirror, Job())


def contents(bucket: Bucket) -> dict[str, bytes]:
    return {info.key: bucket.read(info.key) for info in bucket.list("")}


def test_wal_goes_along_but_not_the_parts_of_open_segments(source: Bucket) -> None:
    repository, mirror = Repository(source, KEY, "main"), memory_bucket()
    archive = WalArchive(repository, "7", SEGMENT)
    segments = [WalSegment(1, number, SEGMENT) for number in (1, 2, 3)]
    for segment in segments[:2]:
        archive.create(StoredRange(segment, 0, SEGMENT), bytes(SEGMENT), 3)
    archive.create(StoredRange(segments[2], 0, 8192), bytes(8192), 3)
    archive.create_history(2, b"1\t0/300000\tno recovery target specified\n")
    mirror_to(source, mirror)
    left_out = contents(source).keys() - contents(mirror).keys()
    assert left_out == {repository.layout.wal_range(StoredRange(segments[2], 0, 8192))}
    there = WalArchive(Repository(mirror, KEY, "main"), "7", SEGMENT)
    assert [stored.range.segment for stored in there.inventory().pieces][1:] == segments[:2]
    assert there.history(2).begin == Lsn.parse("0/300000")


def test_every_object_is_copied_once(source: Bucket) -> None:
    mirror = memory_bucket()
    first = mirror_to(source, mirror)
    assert contents(mirror) == contents(source)
    assert first.backups == IDS[:2]
    # All but the restore program, which is not copied but stored anew.
    assert first.objects == len(contents(source)) - 1
    assert first.bytes == sum(len(data) for key, data in contents(source).items() if "without" not in key)
    assert mirror_to(source, mirror) == Copied()
    write(source, IDS[2])
    assert mirror_to(source, mirror).backups == [IDS[2]]
    assert read(mirror) == dict.fromkeys(IDS, FILES)


@pytest.mark.parametrize("last_takes_effect", [False, True])
def test_a_mirror_whose_plug_is_pulled_holds_whole_backups_and_is_caught_up(
    source: Bucket, last_takes_effect: bool
) -> None:
    whole: list[int] = []
    for calls in itertools.count():
        mirror = memory_bucket()
        try:
            mirror_to(source, FailingBucket(mirror, calls, last_takes_effect=last_takes_effect))
        except TransientError:
            done = False
        else:
            done = True
        found = read(mirror)
        assert all(files == FILES for files in found.values())
        whole.append(len(found))
        mirror_to(source, mirror)
        assert contents(mirror) == contents(source)
        if done:
            break
    assert set(whole) == {0, 1, 2}


def test_damage_does_not_spread(source: Bucket) -> None:
    pack = next(info.key for info in source.list("") if "/packs/" in info.key)
    _replace(source, pack, flip_bit(source.read(pack), 90))
    mirror = memory_bucket()
    with pytest.raises(DataError, match="damaged"):
        mirror_to(source, mirror)
    assert read(mirror) == {}


def test_another_object_under_the_same_name_is_a_conflict(source: Bucket) -> None:
    mirror = memory_bucket()
    mirror_to(source, mirror)
    manifest = Repository(source, KEY, "main").layout.manifest(IDS[0])
    pack = next(info.key for info in source.list("") if "/packs/" in info.key and IDS[0] in info.key)
    mirror.delete(manifest)
    # Listed a moment before it appears, as a store with another writer would: the create is what decides.
    _replace(mirror, pack, b"something else")
    listing = _HidesFromLists(mirror, pack)
    with pytest.raises(ConflictError, match="something else"):
        mirror_to(source, listing)


def test_a_stranger_is_not_written_to(source: Bucket) -> None:
    from pgproof.repository.unlocking import make_repository
    from tests.repository.test_interrupted_writers import AT

    ours, stranger = memory_bucket(), memory_bucket()
    for bucket in (ours, stranger):
        make_repository(bucket, None, False, AT)
    before = contents(stranger)
    with pytest.raises(PreconditionError, match="another repository"):
        mirror_to(ours, stranger)
    assert contents(stranger) == before


def test_whichever_copy_has_it_is_read(source: Bucket) -> None:
    """Each object in turn is missing or damaged, here in one copy and there in the other."""
    mirror = memory_bucket()
    mirror_to(source, mirror)
    originals = contents(source)
    cluster = [key for key in originals if key.startswith(layout.CLUSTERS)]
    for number, key in enumerate(cluster):
        hurt = source if number % 2 else mirror
        data = originals[key]
        for damaged in (None, flip_bit(data, len(data) // 2), data[:-3], b""):
            hurt.delete(key)
            if damaged is not None:
                hurt.create(key, damaged)
            repository = Repository(EitherBucket(source, mirror), KEY, "main", mirror)
            assert _read_all(repository) == dict.fromkeys(IDS[:2], FILES), (key, damaged)
        _replace(hurt, key, data)


def test_a_copy_that_is_gone_or_silent_is_in_nobodys_way(source: Bucket) -> None:
    mirror = memory_bucket()
    mirror_to(source, mirror)
    for first, second in ((FailingBucket(source, 0), mirror), (source, FailingBucket(mirror, 0))):
        repository = Repository(EitherBucket(first, second), KEY, "main", second)
        assert _read_all(repository) == dict.fromkeys(IDS[:2], FILES)
    silent = EitherBucket(FailingBucket(source, 0), FailingBucket(mirror, 0))
    with pytest.raises(TransientError):
        _read_all(Repository(silent, KEY, "main", FailingBucket(mirror, 0)))


def _read_all(repository: Repository) -> dict[str, dict[bytes, bytes]]:
    found = {}
    for info in list_backups(repository):
        assert info.status == "ok"
        manifest = repository.read_manifest(info.backup_id)
        assert manifest is not None
        for segment in manifest.wal_segments:
            reader = repository.open_wal(segment)
            assert len(reader.frame(0, repository.hashes)) == 512 << 10
        content = Content(repository)
        found[info.backup_id] = {
            entry.path: content.read(segment, entry, 8192)
            for segment in repository.segments(manifest)
            for entry in segment.files
        }
    return found


def _replace(bucket: Bucket, key: str, data: bytes) -> None:
    bucket.delete(key)
    bucket.create(key, data)


class _HidesFromLists:
    """A store in which one object appeared after everything had been listed."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self.location = bucket.location
        self.read = bucket.read
        self.read_range = bucket.read_range
        self.head = bucket.head
        self.create = bucket.create
        self.delete = bucket.delete

    def list(self, prefix: str, after: str = ""):  # type: ignore[no-untyped-def]
        return (info for info in self._bucket.list(prefix, after) if info.key != self._key)
