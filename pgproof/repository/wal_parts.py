"""The parts of a WAL segment that is not complete yet: what they hold together, and their removal.

A part has its own name, so nothing is overwritten. A longer part, and in the end the whole segment, replaces parts. They
are removed only when what replaces them was read back, and no sooner than KEEP_SECONDS after it was stored: so a list
that took less time shows the one or the other, although no store makes a list at one moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgproof.errors import ConflictError, DataError
from pgproof.model.lsn import WalSegment
from pgproof.model.wal_merging import covers, longest
from pgproof.model.wal_names import StoredRange
from pgproof.repository.repository import Repository

KEEP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Replaced:
    """Parts that may go because `by` holds their bytes, `ours` as we stored them ourselves, `theirs` to be compared."""

    by: StoredRange
    ours: tuple[StoredRange, ...]
    theirs: tuple[StoredRange, ...]


def left_over(segment: WalSegment, ranges: Iterable[StoredRange]) -> list[Replaced]:
    """What of a segment's objects was replaced by others of them, as a streamer leaves it that died."""
    known = sorted(ranges)
    found = []
    for longer in longest(known):
        parts = tuple(part for part in known if covers(longer, part))
        if parts:
            found.append(Replaced(longer, (), parts))
    return found


def known_prefix(repository: Repository, parts: Iterable[StoredRange]) -> bytes:
    """The bytes of a segment from its first on, as far as its parts reach without a hole.

    A damaged part counts as missing: what it held is received and stored again. ConflictError if parts that
    overlap differ.
    """
    known = bytearray()
    for part in sorted(parts, key=lambda each: (each.start, -each.end)):
        if part.start > len(known):
            break
        if part.end <= len(known):
            continue  # covered by a longer one; who removes it compares them
        try:
            data = _read(repository, part)
        except DataError:
            continue
        _refuse_different(repository, part, data, known[part.start :])
        known += data[len(known) - part.start :]
    return bytes(known)


def remove_parts(repository: Repository, replaced: Replaced) -> None:
    """Remove parts, once what replaces them was read back.

    Raises ConflictError if one holds other bytes, DataError if what replaces them is damaged: then nothing is removed.
    """
    data = _read(repository, replaced.by)
    for part in (*replaced.ours, *replaced.theirs):
        if not covers(replaced.by, part):
            continue  # never what the parts are replaced by
        if part in replaced.theirs:
            try:
                other = _read(repository, part)
            except DataError:
                other = b""  # damaged, or gone, and not needed any more
            at = part.start - replaced.by.start
            _refuse_different(repository, part, other, data[at : at + len(other)])
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
