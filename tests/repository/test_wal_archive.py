"""The archive: segments come back from parts in any cut, what is absent is proven so, what differs is a conflict."""

from __future__ import annotations

import itertools
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_names import StoredRange, parse_stored_name
from pgproof.repository.bucket import Bucket
from pgproof.repository.local import LocalBucket
from pgproof.repository.mirror import copy_missing
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.opening import open_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind, RepositoryKey, Suite
from pgproof.repository.unlocking import make_repository
from pgproof.repository.wal_archive import WalArchive
from tests.support.faults import FailingBucket, LostAnswerBucket
from tests.support.s3 import S3Server

KEY = RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32)))
SIZE = 1 << 20
SEGMENT = WalSegment(3, 0x1_0000_0000 // SIZE + 5, SIZE)
_numbers = itertools.count()


def archive_in(bucket: Bucket) -> WalArchive:
    repository = Repository(bucket, KEY, "main")
    described = {"format": 1, "system_identifier": "42", "block_size": 8192, "wal_segment_size": SIZE}
    repository.create_json(Kind.CLUSTER, repository.layout.cluster, described)
    return WalArchive.open(repository)


@pytest.fixture(params=["local", "memory", "s3"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> WalArchive:
    if request.param == "local":
        return archive_in(LocalBucket(tmp_path))
    if request.param == "memory":
        return archive_in(memory_bucket())
    server: S3Server = request.getfixturevalue("s3")
    name = server.make_bucket(f"archive-{next(_numbers)}")
    return archive_in(open_bucket(server.backup_config(s3_bucket=name)))


def store(archive: WalArchive, segment: WalSegment, data: bytes, start: int, end: int) -> int:
    return archive.create(StoredRange(segment, start, end), data[start:end], 3)


def test_a_segment_is_found_alone_among_others(archive: WalArchive) -> None:
    wal = random.Random(1).randbytes(SIZE)
    before = WalSegment(3, SEGMENT.number - 1, SIZE)
    for segment in (before, SEGMENT, SEGMENT.next()):
        store(archive, segment, wal, 0, SIZE)
    store(archive, WalSegment(4, SEGMENT.number, SIZE), wal, 0, SIZE)
    store(archive, SEGMENT, wal, 0, 100)
    archive.create_history(4, b"3\t1/600000\tpromoted\n")
    (found,) = archive.pieces_of(SEGMENT)
    assert found.range.whole, "parts that stayed behind are not looked at"
    read = archive.read_segment(SEGMENT, [found])
    assert read is not None
    assert (read.data, read.end) == (wal, SEGMENT.end)
    assert [p.range.name for p in archive.later_than(SEGMENT).pieces] == [
        f"{SEGMENT.name}.00000000-00000064",
        SEGMENT.name,
        SEGMENT.next().name,
    ]
    inventory = archive.inventory()
    assert inventory.histories == (4,)
    assert archive.inventory(3).histories == ()
    assert inventory.coverage().timelines == [3, 4]
    (run,) = inventory.coverage().of_timeline(3)
    assert (run.start, run.end) == (before.start, SEGMENT.next().end)
    assert archive.pieces_of(WalSegment(5, 1, SIZE)) == []
    archive.prove_present()


def test_the_open_segment_is_put_together_up_to_the_first_hole(archive: WalArchive) -> None:
    wal = random.Random(2).randbytes(SIZE)
    for start, end in ((600_000, 700_000), (0, 8192), (4096, 500_000), (500_000, 500_001)):
        assert store(archive, SEGMENT, wal, start, end) > 0
    assert store(archive, SEGMENT, wal, 4096, 500_000) == 0, "the same again is success"
    read = archive.read_segment(SEGMENT, archive.pieces_of(SEGMENT))
    assert read is not None
    assert read.end == SEGMENT.start + 500_001
    assert read.data == wal[:500_001] + bytes(SIZE - 500_001)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=10),
    st.integers(0, 2**32),
)
def test_parts_in_any_order_give_the_bytes_before_the_first_hole(
    cuts: list[tuple[int, int]], seed: int
) -> None:
    chance = random.Random(seed)
    archive = archive_in(memory_bucket())
    wal, there = chance.randbytes(SIZE), set()
    for start, length in cuts:
        at, end = start * 1000, min((start + length) * 1000, SIZE)
        store(archive, SEGMENT, wal, at, end)
        there |= set(range(start, start + length))
    pieces = archive.pieces_of(SEGMENT)
    chance.shuffle(pieces)
    end = next(n for n in itertools.count() if n not in there) * 1000
    read = archive.read_segment(SEGMENT, pieces)
    if end == 0:
        assert read is None
    else:
        assert read is not None
        assert (read.end, read.data) == (SEGMENT.start + end, wal[:end] + bytes(SIZE - end))


def test_parts_that_disagree_are_never_put_together() -> None:
    archive = archive_in(memory_bucket())
    wal = random.Random(3).randbytes(SIZE)
    other = wal[:5000] + bytes([wal[5000] ^ 1]) + wal[5001:]
    store(archive, SEGMENT, wal, 0, 8000)
    store(archive, SEGMENT, other, 4000, 9000)
    with pytest.raises(DataError, match="disagree"):
        archive.read_segment(SEGMENT, archive.pieces_of(SEGMENT))


def test_a_part_that_does_not_hold_what_its_name_says_is_refused() -> None:
    archive = archive_in(memory_bucket())
    key = archive.repository.layout.wal_range(StoredRange(SEGMENT, 0, 500))
    archive.create_object(key, [bytes(499)], 3)
    with pytest.raises(DataError, match="length that its name says"):
        archive.read_segment(SEGMENT, archive.pieces_of(SEGMENT))
    with pytest.raises(DataError, match="not the bytes"):
        archive.create(StoredRange(SEGMENT, 0, 500), bytes(501), 3)


def test_another_content_is_a_conflict_and_the_first_one_stays(archive: WalArchive) -> None:
    wal = random.Random(4).randbytes(SIZE)
    other = wal[:-1] + bytes([wal[-1] ^ 1])
    for start, end in ((0, SIZE), (SIZE // 2, SIZE)):
        store(archive, SEGMENT, wal, start, end)
        with pytest.raises(ConflictError, match="different WAL segment"):
            store(archive, SEGMENT, other, start, end)
    read = archive.read_segment(SEGMENT, archive.pieces_of(SEGMENT))
    assert read is not None
    assert read.data == wal


def test_histories_are_kept_once(archive: WalArchive) -> None:
    content = b"1\t0/3000000\tno recovery target specified\n"
    assert archive.read_history(2) is None
    assert archive.history(2) == TimelineHistory(2)
    assert archive.create_history(2, content)
    assert not archive.create_history(2, content), "the same again is success"
    assert archive.read_history(2) == content
    assert archive.history(2).begin == Lsn(0x3000000)
    with pytest.raises(ConflictError, match="different history"):
        archive.create_history(2, b"1\t0/4000000\tno recovery target specified\n")
    with pytest.raises(DataError, match="not well formed"):
        archive.create_history(3, b"nonsense\n")


def test_a_lost_answer_is_no_conflict() -> None:
    archive = archive_in(memory_bucket())
    archive.repository.bucket = LostAnswerBucket(archive.repository.bucket)
    wal = random.Random(5).randbytes(SIZE)
    assert store(archive, SEGMENT, wal, 0, SIZE) == 0
    assert not archive.create_history(2, b"1\t0/3000000\tx\n")


def test_what_is_not_there_proves_nothing_absent(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    archive = archive_in(LocalBucket(place))
    store(archive, SEGMENT, random.Random(6).randbytes(SIZE), 0, SIZE)
    archive.prove_present()
    shutil.rmtree(place)
    place.mkdir()  # the mount point of a disk that is gone
    assert archive.pieces_of(SEGMENT) == []
    with pytest.raises(TransientError, match="nothing can be told absent"):
        archive.prove_present()
    archive.repository.bucket = FailingBucket(memory_bucket(), 0)
    with pytest.raises(TransientError, match="plug"):
        archive.pieces_of(SEGMENT)


def test_another_clusters_repository_is_noticed() -> None:
    archive = archive_in(memory_bucket())
    stranger = WalArchive(archive.repository, "43", SIZE)
    with pytest.raises(DataError, match="another cluster"):
        stranger.prove_present()


def test_a_cluster_without_a_record_is_refused() -> None:
    with pytest.raises(PreconditionError, match="does not know this cluster"):
        WalArchive.open(Repository(memory_bucket(), KEY, "main"))


@pytest.mark.parametrize("size", [0, 100, 3 << 20, 2 << 30, "x", None])
def test_a_record_of_an_impossible_cluster_is_refused(size: object) -> None:
    repository = Repository(memory_bucket(), KEY, "main")
    described = {"format": 1, "system_identifier": "42", "wal_segment_size": size}
    repository.create_json(Kind.CLUSTER, repository.layout.cluster, described)
    with pytest.raises(DataError, match="record is damaged"):
        WalArchive.open(repository)


@pytest.mark.parametrize(
    "name",
    [
        "000000030000000100000005.00000000-00100000",
        "000000030000000100000005.00000000-00100001",
        "000000030000000100000005.00000005-00000005",
        "000000030000000100000005.00000005-00000004",
        "000000030000000100000005.0000000a-0000000f",
        "000000030000000100000005.partial",
        "000000030000000100000005.00000028.backup",
        "000000030000000100001005",
        "00000003000000010000000",
        "00000003.history",
        "",
    ],
)
def test_names_that_no_piece_has(name: str) -> None:
    assert parse_stored_name(name, SIZE) is None


def test_the_mirror_gets_the_wal_but_no_parts(tmp_path: Path) -> None:
    archive = archive_in(LocalBucket(tmp_path))
    repository = archive.repository
    make_repository(repository.bucket, None, False, datetime(2026, 1, 1, tzinfo=UTC))
    wal = random.Random(7).randbytes(SIZE)
    store(archive, SEGMENT, wal, 0, SIZE)
    store(archive, SEGMENT.next(), wal, 0, 5000)
    archive.create_history(3, b"1\t0/500000\tx\n")
    mirror = memory_bucket()
    for _ in range(2):
        copy_missing(repository, mirror, Job())
        copied = {info.key.rpartition("/")[2] for info in mirror.list(repository.layout.wal)}
        assert copied == {SEGMENT.name, "00000003.history"}
    assert mirror.read(repository.layout.segment(SEGMENT)) == repository.bucket.read(
        repository.layout.segment(SEGMENT)
    )
