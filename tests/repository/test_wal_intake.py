"""WAL that is stored as it comes: what is claimed durable can be read, whatever breaks on the way."""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pgproof.errors import ConflictError, DataError, TransientError
from pgproof.model.lsn import WalSegment
from pgproof.model.wal_merging import MOST_PARTS
from pgproof.model.wal_names import StoredRange
from pgproof.repository import wal_intake, wal_inventory
from pgproof.repository.bucket import Bucket, ObjectInfo
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_held import Cadence
from pgproof.repository.wal_intake import WalIntake
from pgproof.repository.wal_parts import left_over
from tests.repository.test_wal_writer import KEY, StallingBucket
from tests.support.faults import FailingBucket, LostAnswerBucket
from tests.support.machine import wait_until

SIZE = 1 << 20
FIRST = WalSegment(1, 7, SIZE)
SYSTEM = 7_123_456_789
EAGER = Cadence(seconds=0.05, keep_seconds=0)
NEVER = Cadence(3600, 1 << 30, keep_seconds=0)
AT_ONCE = Cadence(at_once=True, keep_seconds=0)


def wal(segments: int, seed: int = 1, *, timeline: int = 1, system: int = SYSTEM) -> bytes:
    """Segments from FIRST on, each with the header of its first page and random bytes behind it."""
    chance, made = random.Random(seed), []
    for number in range(segments):
        address = FIRST.start.value + number * SIZE
        header = struct.pack("<HHIQI4xQII", 0xD116, 2, timeline, address, 0, system, SIZE, 8192)
        made.append(header + chance.randbytes(SIZE - len(header)))
    return b"".join(made)


def archive_in(bucket: Bucket) -> WalArchive:
    return WalArchive(Repository(bucket, KEY, "main"), str(SYSTEM), SIZE)


def begin(
    archive: WalArchive, cadence: Cadence = NEVER, segment: WalSegment = FIRST, **more: Any
) -> WalIntake:
    parts = [each.range for each in archive.inventory().pieces if each.range.segment == segment]
    return WalIntake(archive, segment, parts, 3, cadence, more.pop("moved", lambda: None))


def durable(intake: WalIntake) -> int:
    """How many bytes are claimed."""
    intake.check()
    front = intake.durable
    return -1 if front is None else front - FIRST.start


def readable(archive: WalArchive) -> bytes:
    """Everything in the repository from FIRST on, up to the first hole."""
    found, segment = b"", FIRST
    while (read := archive.read_segment(segment, archive.pieces_of(segment))) is not None:
        found += read.data[: read.end - segment.start]
        if read.end != segment.end:
            break
        segment = segment.next()
    return found


def names(archive: WalArchive) -> list[str]:
    return [each.range.name for each in archive.inventory().pieces]


def test_parts_become_the_whole_segment_and_go() -> None:
    archive, content = archive_in(memory_bucket()), wal(2)
    with begin(archive, EAGER) as intake:
        for end in (10_000, 10_001, 500_000):
            intake.write(intake.position, memoryview(content)[intake.position - FIRST.start : end])
            wait_until(lambda end=end: durable(intake) == end, "a part")  # type: ignore[misc]
            assert readable(archive) == content[:end]
        assert len(names(archive)) == 3
        intake.write(intake.position, memoryview(content)[500_000:])
        wait_until(lambda: durable(intake) == 2 * SIZE, "the segments")
        wait_until(lambda: len(names(archive)) == 2, "the parts to go")
    assert names(archive) == [FIRST.name, FIRST.next().name]
    assert readable(archive) == content


@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.integers(64, 400_000), max_size=10),
    st.lists(st.integers(0, 9), max_size=4),
    st.sampled_from([AT_ONCE, NEVER, Cadence(3600, 8192)]),
)
def test_any_pieces_and_restarts_give_the_same_bytes(
    lengths: list[int], restarts: list[int], cadence: Cadence
) -> None:
    archive, content, at = archive_in(memory_bucket()), wal(2, 3), 0
    with contextlib.ExitStack() as stack:
        intake, segment = stack.enter_context(begin(archive, cadence)), FIRST
        for number, length in enumerate([*lengths, 2 * SIZE]):
            end = min(at + length, len(content))
            intake.write(FIRST.start + at, memoryview(content)[at:end])
            at = end
            if number in restarts:
                assert intake.flush(30)
                stack.close()
                segment = WalSegment.containing(1, FIRST.start + at, SIZE)
                at = segment.start - FIRST.start
                intake = stack.enter_context(begin(archive, cadence, segment))
        if segment.start - FIRST.start < len(content):
            intake.write(intake.position, memoryview(content)[intake.position - FIRST.start :])
        assert intake.flush(30)
    assert readable(archive) == content
    whole = [name for name in names(archive) if "." not in name]
    assert whole == [FIRST.name, FIRST.next().name]


class _Announcing(StallingBucket):
    """Says how many creates have begun."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket)
        self.begun = 0

    def create(self, key: str, data: bytes) -> None:
        self.begun += 1
        super().create(key, data)


def test_nothing_is_claimed_before_the_store_has_it() -> None:
    bucket = _Announcing(memory_bucket())
    archive, content = archive_in(bucket), wal(4)
    moved = threading.Semaphore(0)
    with begin(archive, AT_ONCE, moved=moved.release) as intake:
        intake.write(FIRST.start, memoryview(content)[:100])
        wait_until(lambda: bucket.begun == 1, "the first PUT")
        assert durable(intake) == 0
        intake.write(FIRST.start + 100, memoryview(content)[100:300])
        bucket.gate.release()
        assert moved.acquire(timeout=10), "whoever replies is told"
        assert durable(intake) == 100, "one PUT is in flight; what came meanwhile is the next one's"
        bucket.gate.release()
        wait_until(lambda: durable(intake) == 300, "the second part")
        bucket.gate.release(100)
        intake.write(FIRST.start + 300, memoryview(content)[300:])
        wait_until(lambda: durable(intake) == 4 * SIZE, "everything")
    assert readable(archive) == content


def test_reading_pauses_while_the_store_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_intake, "_WAITING_BYTES", 2 * SIZE)
    bucket = StallingBucket(memory_bucket())
    content = wal(4)
    with begin(archive_in(bucket)) as intake:
        intake.write(FIRST.start, memoryview(content)[: 2 * SIZE])
        assert intake.has_room(0)
        intake.write(intake.position, memoryview(content)[2 * SIZE : 3 * SIZE])
        assert not intake.has_room(0)
        bucket.gate.release(3)
        assert intake.has_room(10)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("calls", range(1, 12))
def test_a_pulled_plug_leaves_what_was_claimed(calls: int, lost: bool) -> None:
    """The store fails for ever after so many changes; the process goes; another one finds and finishes it."""
    real, content = memory_bucket(), wal(2, 5)
    # The first change that fails has taken effect or not.
    failing = archive_in(FailingBucket(real, calls, last_takes_effect=lost))
    claimed = 0
    with begin(failing, AT_ONCE) as intake:
        for end in (5_000, 70_000, SIZE - 500, SIZE + 60, SIZE + 90_000, 2 * SIZE):
            intake.write(intake.position, memoryview(content)[intake.position - FIRST.start : end])
            intake.flush(0.1)
        claimed = durable(intake)
    archive = archive_in(real)
    known = readable(archive)
    assert len(known) >= claimed
    assert known == content[: len(known)]
    segment = WalSegment.containing(1, FIRST.start + min(len(known), 2 * SIZE - 1), SIZE)
    with begin(archive, AT_ONCE, segment) as intake:
        intake.write(segment.start, memoryview(content)[segment.start - FIRST.start :])
        assert intake.flush(30)
    assert readable(archive) == content


def test_lost_answers_are_success() -> None:
    archive, content = archive_in(LostAnswerBucket(memory_bucket())), wal(1)
    with begin(archive, AT_ONCE) as intake:
        for end in (10_000, SIZE):
            intake.write(intake.position, memoryview(content)[intake.position - FIRST.start : end])
            assert intake.flush(30)
    assert readable(archive) == content


class _Hiccup:
    """Refuses some creates for a moment, as a store that restarts does."""

    def __init__(self, bucket: Bucket, refusals: int) -> None:
        self._bucket = bucket
        self.left = refusals

    def create(self, key: str, data: bytes) -> None:
        if self.left:
            self.left -= 1
            raise TransientError("the store restarts", hint="wait")
        self._bucket.create(key, data)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._bucket, verb)


def test_a_store_that_comes_back_is_used_again() -> None:
    bucket = _Hiccup(memory_bucket(), 2)
    archive, content = archive_in(bucket), wal(1)
    with begin(archive, AT_ONCE) as intake:
        intake.write(FIRST.start, memoryview(content)[:5000])
        wait_until(lambda: durable(intake) == 5000, "the store to be tried again")
        assert bucket.left == 0
        assert intake.trouble is None


def _store_some(archive: WalArchive, content: bytes, *ends: int) -> None:
    with begin(archive, AT_ONCE) as intake:
        for end in ends:
            intake.write(intake.position, memoryview(content)[intake.position - FIRST.start : end])
            assert intake.flush(30)


def test_another_servers_wal_of_the_same_timeline_is_never_acknowledged() -> None:
    archive = archive_in(memory_bucket())
    _store_some(archive, wal(1, 1), 50_000, 90_000)
    other = wal(1, 2)
    with begin(archive, AT_ONCE) as intake:
        assert intake.durable is None, "nothing is claimed before the first bytes were compared"
        with pytest.raises(ConflictError, match="not the WAL that is stored"):
            intake.write(FIRST.start, memoryview(other)[:95_000])
        assert intake.durable is None
    assert readable(archive) == wal(1, 1)[:90_000]


def test_the_same_wal_goes_on_where_it_ended() -> None:
    archive, content = archive_in(memory_bucket()), wal(1)
    _store_some(archive, content, 50_000, 90_000)
    with begin(archive, AT_ONCE) as intake:
        intake.write(FIRST.start, memoryview(content)[:50_000])
        assert intake.durable is None
        intake.write(intake.position, memoryview(content)[50_000:90_000])
        assert durable(intake) == 90_000
        assert len(names(archive)) == 2, "what is stored is not stored again"
        intake.write(intake.position, memoryview(content)[90_000:])
        assert intake.flush(30)
        wait_until(lambda: names(archive) == [FIRST.name], "the parts of both lives to go")
    assert readable(archive) == content


def test_a_segment_that_differs_from_a_stored_one_is_a_conflict() -> None:
    archive = archive_in(memory_bucket())
    archive.create(StoredRange(FIRST, 0, SIZE), wal(1, 1), 3)
    with WalIntake(archive, FIRST, [], 3, NEVER, lambda: None) as intake:
        intake.write(FIRST.start, memoryview(wal(1, 2)))
        wait_until(lambda: intake.failure is not None, "the conflict")
        with pytest.raises(ConflictError, match="different WAL segment"):
            intake.check()
        assert intake.durable == FIRST.start


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_damaged_part_is_stored_again(damaged: int) -> None:
    bucket = memory_bucket()
    archive, content = archive_in(bucket), wal(1)
    _store_some(archive, content, 50_000, 90_000)
    key = archive.inventory().pieces[damaged].info.key
    rotten = bytearray(bucket.read(key))
    rotten[300] ^= 1
    bucket.delete(key)
    bucket.create(key, bytes(rotten))
    with begin(archive, AT_ONCE) as intake:
        intake.write(FIRST.start, memoryview(content)[:95_000])
        assert intake.flush(30)
        assert durable(intake) == 95_000
        intake.write(intake.position, memoryview(content)[95_000:])
        assert intake.flush(30)
        wait_until(lambda: names(archive) == [FIRST.name], "the parts to go")
    assert readable(archive) == content


def _wrong_beginnings() -> Iterator[Any]:
    yield pytest.param(wal(1, system=SYSTEM + 1), "another cluster", id="another cluster")
    yield pytest.param(wal(1, timeline=2), "what its name says", id="a later timeline")
    yield pytest.param(wal(2)[SIZE:], "what its name says", id="another segment")
    yield pytest.param(bytes(SIZE), "what its name says", id="zeros")


@pytest.mark.parametrize(("content", "message"), _wrong_beginnings())
def test_a_segment_must_begin_as_what_it_is(content: bytes, message: str) -> None:
    archive = archive_in(memory_bucket())
    with begin(archive, AT_ONCE) as intake, pytest.raises(DataError, match=message):
        intake.write(FIRST.start, memoryview(content)[:1000])
    assert names(archive) == []


def test_a_hole_in_the_stream_is_refused() -> None:
    with begin(archive_in(memory_bucket())) as intake:
        intake.write(FIRST.start, memoryview(wal(1))[:100])
        with pytest.raises(DataError, match="hole"):
            intake.write(FIRST.start + 101, memoryview(bytes(5)))


# parts of the open segment, merged


def _commits(intake: WalIntake, content: bytes, count: int, length: int = 100) -> None:
    """So many small parts, each stored before the next one comes."""
    for _ in range(count):
        at = intake.position - FIRST.start
        intake.write(intake.position, memoryview(content)[at : at + length])
        assert intake.flush(30)


def test_a_quiet_segment_is_never_many_objects() -> None:
    archive, content = archive_in(memory_bucket()), wal(1)
    with begin(archive, AT_ONCE) as intake:
        for _ in range(12):
            _commits(intake, content, 50)
            wait_until(lambda: len(names(archive)) < MOST_PARTS, "the parts to be merged")
            assert readable(archive) == content[: intake.position - FIRST.start]
        intake.write(intake.position, memoryview(content)[intake.position - FIRST.start :])
        assert intake.flush(30)
        wait_until(lambda: names(archive) == [FIRST.name], "the parts to go")
    assert readable(archive) == content


class _SlowMerge:
    """Holds back what begins where another object begins already, until the gate is opened."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._begun: set[str] = set()
        self.gate = threading.Event()
        self.held = threading.Event()

    def create(self, key: str, data: bytes) -> None:
        begin = key.partition("-")[0]
        if begin in self._begun:
            self.held.set()
            assert self.gate.wait(60)
        self._begun.add(begin)
        self._bucket.create(key, data)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._bucket, verb)


def test_no_commit_waits_for_a_merge() -> None:
    bucket = _SlowMerge(memory_bucket())
    archive, content = archive_in(bucket), wal(1)
    with begin(archive, AT_ONCE) as intake:
        _commits(intake, content, MOST_PARTS)
        assert bucket.held.wait(30)
        _commits(intake, content, 20)
        assert durable(intake) == (MOST_PARTS + 20) * 100
        bucket.gate.set()
        wait_until(lambda: len(names(archive)) < MOST_PARTS, "the merge")
        assert readable(archive) == content[: (MOST_PARTS + 20) * 100]


def test_a_merge_that_fails_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_intake, "_LONGEST_PAUSE", 0.05)
    bucket = _Hiccup(memory_bucket(), 0)
    archive, content = archive_in(bucket), wal(1)
    with begin(archive, AT_ONCE) as intake:
        _commits(intake, content, MOST_PARTS - 1)
        bucket.left = 2  # of the part and of its merge, or of a later part
        _commits(intake, content, 5)
        wait_until(lambda: len(names(archive)) < MOST_PARTS, "the merge")
    assert readable(archive) == content[: (MOST_PARTS + 4) * 100]


def test_who_listed_before_the_merge_reads_the_same() -> None:
    archive, content = archive_in(memory_bucket()), wal(1)
    with begin(archive, AT_ONCE) as intake:
        _commits(intake, content, MOST_PARTS - 1)
        listed = archive.pieces_of(FIRST)
        _commits(intake, content, 1)
        wait_until(lambda: len(names(archive)) < MOST_PARTS, "the merge")
        read = archive.read_segment(FIRST, listed)
        assert read is not None
        assert read.data[: read.end - FIRST.start] == content[: MOST_PARTS * 100]
        intake.write(intake.position, memoryview(content)[intake.position - FIRST.start :])
        assert intake.flush(30)
        wait_until(lambda: names(archive) == [FIRST.name], "the parts to go")
    read = archive.read_segment(FIRST, listed)
    assert read is not None
    assert read.data == content


def test_a_part_that_is_gone_and_was_not_replaced_is_missed() -> None:
    bucket = memory_bucket()
    archive = archive_in(bucket)
    _store_some(archive, wal(1), 50_000, 90_000)
    listed = archive.pieces_of(FIRST)
    bucket.delete(listed[1].info.key)
    with pytest.raises(DataError, match="listed is gone"):
        archive.read_segment(FIRST, listed)


def _merged_and_killed(archive: WalArchive, content: bytes) -> None:
    """What a streamer leaves that dies between storing a longer part and removing the others."""
    with begin(archive, Cadence(at_once=True, keep_seconds=3600)) as intake:
        _commits(intake, content, MOST_PARTS)
        wait_until(lambda: len(names(archive)) == MOST_PARTS + 1, "the longer part")


@pytest.mark.parametrize("damaged", [False, True])
def test_overlapping_parts_are_read_and_then_cleaned_up(damaged: bool) -> None:
    bucket = memory_bucket()
    archive, content = archive_in(bucket), wal(1)
    _merged_and_killed(archive, content)
    length = MOST_PARTS * 100
    assert readable(archive) == content[:length]
    (merged,) = [each for each in archive.pieces_of(FIRST) if each.range.length == length]
    if damaged:
        data = bucket.read(merged.info.key)
        bucket.delete(merged.info.key)
        bucket.create(merged.info.key, data[:300] + bytes([data[300] ^ 1]) + data[301:])
    old = left_over(FIRST, [each.range for each in archive.pieces_of(FIRST)])
    parts = [each.range for each in archive.pieces_of(FIRST)]
    with WalIntake(archive, FIRST, parts, 3, AT_ONCE, lambda: None, old) as intake:
        intake.write(FIRST.start, memoryview(content)[: length + 100])
        assert intake.flush(30)
        if damaged:
            assert len(names(archive)) > MOST_PARTS, "nothing may go"
        else:
            wait_until(lambda: len(names(archive)) == 2, "the short parts to go")
            assert readable(archive) == content[: length + 100]
        intake.write(intake.position, memoryview(content)[length + 100 :])
        assert intake.flush(30)
        wait_until(lambda: names(archive) == [FIRST.name], "everything but the segment to go")
    assert readable(archive) == content


def test_a_list_that_shows_no_single_moment_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow list misses the longer part, which came behind its back, and the short ones, which went before it."""
    monkeypatch.setattr(wal_inventory, "LIST_SECONDS", 0.1)
    real, content = memory_bucket(), wal(1)
    archive = archive_in(real)
    _store_some(archive, content, 1_000, 2_000)
    longer = StoredRange(FIRST, 0, 2_000)

    class _Slow:
        lists = 0

        def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
            self.lists += 1
            if self.lists > 1:
                yield from real.list(prefix, after)
                return
            first, second = sorted(real.list(prefix, after), key=lambda info: info.key)
            yield first
            archive.create(longer, content[:2_000], 3)
            time.sleep(2 * wal_inventory.LIST_SECONDS)
            real.delete(first.key)
            real.delete(second.key)

        def __getattr__(self, verb: str) -> Any:
            return getattr(real, verb)

    slow = _Slow()
    found = archive_in(slow).inventory()
    assert slow.lists == 2
    assert [each.range for each in found.pieces] == [longer]
