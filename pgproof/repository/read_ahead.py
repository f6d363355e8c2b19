"""Many small objects, brought by several requests at a time and opened by one thread.

The waiting is the store's, but opening a manifest is all work of this interpreter: threads that do it keep taking its
lock from each other, and on a busy machine need twice the time of one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from pgproof.errors import EngineError
from pgproof.repository.bucket import Bucket

_AT_ONCE = 8
_LARGEST_BATCH = 32

_Brought = dict[str, bytes | EngineError]


class ReadAhead:
    """A bucket that has asked for `keys` before they are read; to be read in about this order, each once.

    Use as a context manager, from one thread. Whatever else is read, or a second time, is asked for then.
    """

    def __init__(self, bucket: Bucket, keys: Sequence[str]) -> None:
        self._bucket = bucket
        size = min(max(len(keys) // (4 * _AT_ONCE), 1), _LARGEST_BATCH)
        self._batches: Iterator[Sequence[str]] = (keys[at : at + size] for at in range(0, len(keys), size))
        self._coming: dict[str, Future[_Brought]] = {}
        self._asked = 0
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-ahead")
        self.location = bucket.location
        self.read_range, self.head, self.list = bucket.read_range, bucket.head, bucket.list
        self.create, self.delete = bucket.create, bucket.delete

    def read(self, key: str) -> bytes:
        while self._asked < 2 * _AT_ONCE and (batch := next(self._batches, None)) is not None:
            future = self._pool.submit(self._bring, batch)
            self._coming.update(dict.fromkeys(batch, future))
            self._asked += 1
        future_of = self._coming.pop(key, None)
        if future_of is None:
            return self._bucket.read(key)
        brought = future_of.result()
        found = brought.pop(key, None)
        if not brought:
            self._asked -= 1
        if isinstance(found, EngineError):
            raise found
        return self._bucket.read(key) if found is None else found

    def _bring(self, keys: Sequence[str]) -> _Brought:
        return {key: self._one(key) for key in keys}

    def _one(self, key: str) -> bytes | EngineError:
        try:
            return self._bucket.read(key)
        except EngineError as error:
            return error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
