"""A directory with its mirror behind it, for reading: what the first lacks is taken from the second."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.repository.bucket import Bucket, ObjectInfo

_log = logging.getLogger(__name__)

T = TypeVar("T")


class EitherBucket:
    """Reads from whichever has it; creates and deletes in the first alone.

    A copy that is not there, or a mirror that does not answer, is told once in the log and not asked again: each
    question would wait for its time-out.
    """

    def __init__(self, first: Bucket, second: Bucket) -> None:
        self._first = first
        self._second = second
        self._silent: set[int] = set()
        self.create = first.create
        self.delete = first.delete

    @property
    def location(self) -> str:
        return f"{self._first.location} and its mirror {self._second.location}"

    def read(self, key: str) -> bytes:
        return self._either(lambda bucket: bucket.read(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._either(lambda bucket: bucket.read_range(key, start, length))

    def head(self, key: str) -> ObjectInfo | None:
        try:
            return self._either(lambda bucket: _present(bucket, key))
        except DataError:
            return None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        found: dict[str, ObjectInfo] = {}
        failed: list[EngineError] = []
        for bucket in (self._second, self._first):
            try:
                listed = self._ask(bucket, lambda b: list(b.list(prefix, after)))
                found.update((info.key, info) for info in listed)
            except EngineError as error:
                failed.append(error)
        if len(failed) == 2:
            raise failed[-1]
        yield from found.values()

    def _either(self, question: Callable[[Bucket], T]) -> T:
        try:
            return self._ask(self._first, question)
        except EngineError as error:
            try:
                return self._ask(self._second, question)
            except EngineError:
                raise error from None

    def _ask(self, bucket: Bucket, question: Callable[[Bucket], T]) -> T:
        if id(bucket) in self._silent:
            raise TransientError("this copy of the repository does not answer", location=bucket.location)
        try:
            return question(bucket)
        except (PreconditionError, TransientError) as error:
            if bucket is self._second or isinstance(error, PreconditionError):
                self._silent.add(id(bucket))
            _log.warning("a copy of the repository is not used: %s", error)
            raise


def _present(bucket: Bucket, key: str) -> ObjectInfo:
    found = bucket.head(key)
    if found is None:
        raise DataError("an object is missing", key=key)
    return found
