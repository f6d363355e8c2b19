"""WAL on its way to the store: what is claimed durable is stored, in order and without a hole."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.errors import ConflictError, DataError
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.repository.bucket import Bucket
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import RepositoryKey, Suite
from pgproof.repository.wal_writer import WalWriter
from tests.support.machine import wait_until

KEY = RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32)))
SEGMENT = 1 << 20
START = Lsn(7 * SEGMENT)


class StallingBucket:
    """A real bucket whose creates wait until they are let through, one by one."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.gate = threading.Semaphore(0)

    def create(self, key: str, data: bytes) -> None:
        self.gate.acquire()
        self._bucket.create(key, data)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._bucket, verb)


def stored(repository: Repository, number: int) -> bytes:
    reader = repository.open_wal(WalSegment(1, number, SEGMENT))
    return b"".join(reader.frame(n, repository.hashes) for n in range(len(reader.index.codecs)))


def test_nothing_is_durable_before_the_store_has_it() -> None:
    bucket = StallingBucket(memory_bucket())
    repository = Repository(bucket, KEY, "main")
    wal = random.Random(1).randbytes(3 * SEGMENT)
    with WalWriter(repository, 1, START, SEGMENT, 3) as writer:
        writer.write(START, memoryview(wal))
        assert writer.durable == START
        assert writer.busy, "three segments wait, so reading should pause"
        for number in (1, 2, 3):
            bucket.gate.release()
            wait_until(lambda n=number: writer.durable == START + n * SEGMENT, "the front")  # type: ignore[misc]
            assert list(repository.bucket.list("clusters/main/wal/00000001/"))[number - 1 :]
        assert not writer.busy
        writer.check()
    assert b"".join(stored(repository, 7 + n) for n in range(3)) == wal


@settings(max_examples=30)
@given(st.lists(st.integers(1, 300_000), max_size=12), st.integers(0, 2**32))
def test_any_pieces_give_the_same_segments(lengths: list[int], seed: int) -> None:
    repository = Repository(memory_bucket(), KEY, "main")
    wal, at = random.Random(seed).randbytes(2 * SEGMENT + 1000), 0
    with WalWriter(repository, 1, START, SEGMENT, 1) as writer:
        for length in [*lengths, len(wal)]:
            writer.write(START + at, memoryview(wal)[at : at + length])
            at = min(at + length, len(wal))
    writer.check()
    assert writer.durable == START + 2 * SEGMENT, "an unfinished segment is not durable"
    assert stored(repository, 7) + stored(repository, 8) == wal[: 2 * SEGMENT]


def test_a_hole_is_refused() -> None:
    repository = Repository(memory_bucket(), KEY, "main")
    with WalWriter(repository, 1, START, SEGMENT, 3) as writer:
        writer.write(START, memoryview(bytes(100)))
        with pytest.raises(DataError, match="hole"):
            writer.write(START + 101, memoryview(bytes(100)))
    with pytest.raises(DataError, match="start of a segment"):
        WalWriter(repository, 1, START + 1, SEGMENT, 3)


@pytest.mark.parametrize("same", [True, False])
def test_a_segment_that_is_there_already_is_compared(same: bool) -> None:
    repository = Repository(memory_bucket(), KEY, "main")
    first = random.Random(2).randbytes(SEGMENT)
    second = first if same else first[:-1] + bytes([first[-1] ^ 1])
    for wal in (first, second):
        with WalWriter(repository, 1, START, SEGMENT, 3) as writer:
            writer.write(START, memoryview(wal))
    if same:
        writer.check()
        assert writer.durable == START + SEGMENT
        assert writer.stored_bytes == 0, "it was not stored twice"
    else:
        with pytest.raises(ConflictError, match="different WAL segment"):
            writer.check()
        assert writer.durable == START, "nothing is acknowledged that is not ours"
    assert stored(repository, 7) == first
