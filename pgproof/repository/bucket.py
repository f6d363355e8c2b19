"""The one door to storage: byte strings under string keys, six verbs.

Objects are created once and never overwritten, so there is no other way to write. A key's parts hold
letters, digits, `_`, `.` and `-`; no part begins with a dot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

# Packs may be larger, but are read in pieces.
MAX_WHOLE = 512 << 20


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object: `modified` is by the store's clock."""

    key: str
    size: int
    modified: datetime


class Bucket(Protocol):
    """Six verbs. A missing object is a DataError, a store that cannot answer now a TransientError,
    a store that refuses or is full a PreconditionError."""

    @property
    def location(self) -> str:
        """Where this is, fit for messages."""

    def read(self, key: str) -> bytes:
        """The whole object; DataError if it has more than MAX_WHOLE bytes."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; DataError if the object ends before."""

    def create(self, key: str, data: bytes) -> None:
        """Store durably; ConflictError if the key exists, which may also mean that an earlier try won."""

    def head(self, key: str) -> ObjectInfo | None:
        """Size and time, or None."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix` (a folder ending in `/`), in no special order; only those
        whose key is greater than `after`, if that is given."""

    def delete(self, key: str) -> None:
        """Remove; silent if already gone."""
