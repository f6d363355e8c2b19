"""The parts of a WAL segment that is not complete yet: what they hold together, and their removal.

A part has its own name, so nothing is overwritten; the whole segment replaces its parts, which are removed only
when the whole one was read back.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.errors import ConflictError, DataError
from pgproof.model.lsn import WalSegment
from pgproof.model.wal_names import StoredRange
from pgproof.repository.repository import Repository


def known_prefix(repository: Repository, parts: Iterable[StoredRange]) -> bytes:
    """The bytes of a segment from its first on, as far as its parts reach without a hole.

    A damaged part counts as missing: what it held is received and stored again. ConflictError if parts that
    overlap differ.
    """
    known = bytearray()
    for part in sorted(parts):
        if part.start > len(known):
            break
        try:
            data = _read(repository, part)
        except DataError:
            continue
        _refuse_different(repository, part, data, known[part.start : part.end])
        known += data[len(known) - part.start :] if part.end > len(known) else b""
    return bytes(known)


def remove_parts(
    repository: Repository, segment: WalSegment, parts: Iterable[StoredRange], *, compare: bool
) -> None:
    """Remove the parts of a segment that is stored as a whole, once the whole was read back.

    With `compare` they are read first, too. Raises ConflictError if one holds other bytes than the segment.
    """
    whole = _read(repository, StoredRange(segment, 0, segment.size))
    for part in parts:
        if part.whole or part.segment != segment:
            continue  # never what the parts are replaced by
        if compare:
            try:
                data = _read(repository, part)
            except DataError:
                data = b""  # damaged, and not needed any more
            _refuse_different(repository, part, data, whole[part.start : part.end])
        repository.bucket.delete(repository.layout.wal_range(part))


def _read(repository: Repository, stored: StoredRange) -> bytes:
    key = repository.layout.wal_range(stored)
    info = repository.bucket.head(key)
    if info is None:
        raise DataError("a WAL object is missing", key=key)
    reader = repository.open_wal_object(info)
    data = b"".join(reader.frame(number, repository.hashes) for number in range(len(reader.index.codecs)))
    if len(data) != stored.end - stored.start:
        raise DataError("a WAL object does not hold what its name says", key=key, size=len(data))
    return data


def _refuse_different(
    repository: Repository, part: StoredRange, data: bytes, other: bytes | bytearray
) -> None:
    length = min(len(data), len(other))
    if data[:length] != other[:length]:
        raise ConflictError(
            "the repository holds two different versions of the same WAL",
            hint="two servers wrote the same timeline: find which one is right, and give the other its own --cluster",
            key=repository.layout.wal_range(part),
        )
