"""Objects that are brought before they are read: the same bytes and errors as without, and no more than a few at a time."""

from __future__ import annotations

import threading

import pytest

from campaigns.small_repository import MemoryBucket
from pgproof.errors import DataError
from pgproof.repository.read_ahead import ReadAhead


class Counting(MemoryBucket):
    """Knows how often each was read, and how many were read and not taken yet at most."""

    def begin(self) -> None:
        self.reads: list[str] = []
        self.taken = self.most = 0
        self.turn = threading.Lock()

    def read(self, key: str) -> bytes:
        with self.turn:
            self.reads.append(key)
            self.most = max(self.most, len(self.reads) - self.taken)
        return super().read(key)


@pytest.mark.parametrize("count", [1, 7, 40, 3000])
def test_each_is_read_once_and_few_before_they_are_wanted(count: int) -> None:
    keys = [f"k/{number}" for number in range(count)]
    bucket = Counting({key: (key.encode(), MemoryBucket().now) for key in keys})
    bucket.begin()
    with ReadAhead(bucket, keys) as ahead:
        for key in keys:
            assert ahead.read(key) == key.encode()
            bucket.taken += 1
    assert sorted(bucket.reads) == sorted(keys)
    assert bucket.most <= 2 * 8 * 32


def test_what_is_missing_is_missing_and_a_second_look_asks_again() -> None:
    bucket = Counting()
    bucket.begin()
    bucket.put("here", b"1")
    with ReadAhead(bucket, ["gone", "here"]) as ahead:
        with pytest.raises(DataError, match="missing"):
            ahead.read("gone")
        bucket.put("gone", b"back again")
        assert (ahead.read("gone"), ahead.read("here"), ahead.read("here")) == (b"back again", b"1", b"1")
        assert ahead.head("here") == bucket.head("here")
        bucket.put("other", b"2")
        assert ahead.read("other") == b"2"


def test_out_of_order_and_left_half_way() -> None:
    keys = [f"k/{number}" for number in range(500)]
    bucket = MemoryBucket({key: (key.encode(), MemoryBucket().now) for key in keys})
    with ReadAhead(bucket, keys) as ahead:
        assert all(ahead.read(key) == key.encode() for key in reversed(keys))
    with pytest.raises(ZeroDivisionError), ReadAhead(bucket, keys) as ahead:
        ahead.read(keys[0])
        raise ZeroDivisionError
