"""The header of a WAL segment's first page (src/include/access/xlog_internal.h)."""

from __future__ import annotations

import struct

from pgproof.errors import DataError
from pgproof.model.lsn import WalSegment

# magic, info, timeline, page address, remaining length; then system identifier, segment and block size.
_LONG_HEADER = struct.Struct("<HHIQI4xQII")
FIRST_PAGE_HEADER = _LONG_HEADER.size
_LONG = 0x0002
# PostgreSQL changes the lower byte with each major version.
_MAGIC = 0xD1


def check_first_page(data: bytes, segment: WalSegment, system_identifier: str, key: str) -> None:
    """Raises DataError unless this is the beginning of this segment, of this cluster."""
    if len(data) < _LONG_HEADER.size:
        raise DataError("a WAL segment is cut short", key=key)
    magic, info, timeline, address, _left, found, size, _block = _LONG_HEADER.unpack_from(data)
    if (
        magic >> 8 != _MAGIC
        or not info & _LONG
        or address != segment.start.value
        or size != segment.size
        or timeline > segment.timeline
    ):
        raise DataError("a WAL segment does not hold what its name says", key=key)
    if str(found) != system_identifier:
        raise DataError("a WAL segment belongs to another cluster", key=key, system_identifier=found)
