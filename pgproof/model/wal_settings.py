"""Changes of the settings that recovery depends on, found in WAL as it passes.

A server writes such a record when it starts with other settings than before (XLOG_PARAMETER_CHANGE in
src/include/catalog/pg_control.h). WAL behind one that says wal_level = minimal lacks whole tables, so that PostgreSQL refuses
to replay it. The records are found by their fixed shape and proven by their checksum; one that crosses the border of two
segments is not seen.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import crc32c

# Total length and no transaction; the place of the one before; what it is; its checksum; then the length of the data.
_RECORD = re.compile(rb"\x36\0\0\0\0\0\0\0.{8}\x60\0\0\0.{4}\xff\x1c.{28}", re.DOTALL)
_LENGTH = 54
_HEADER, _CHECKSUM = 24, 20
_LEVEL = struct.Struct("<i")
_LEVEL_AT = _HEADER + 2 + 5 * 4
_PAGE, _PAGE_HEADER = 8192, 24
MINIMAL = 0


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """Where in a segment the record begins, and the wal_level that it tells: MINIMAL or more."""

    offset: int
    wal_level: int


def settings_changes(data: bytes | bytearray, start: int = 0) -> Iterator[SettingsChange]:
    """The records in a segment's bytes, complete or not, that end behind `start`."""
    first = max(0, start // _PAGE * _PAGE - _PAGE)
    view = memoryview(data)
    for found in _RECORD.finditer(view, first):
        yield from _proven(found[0], found.start())
    for border in range(first + _PAGE, len(data), _PAGE):
        # What lies around the header of the page.
        begin = border - _LENGTH + 1
        after = border + _PAGE_HEADER
        around = bytes(view[begin:border]) + bytes(view[after : after + _LENGTH - 1])
        for found in _RECORD.finditer(around):
            if found.start() < border - begin < found.end():
                yield from _proven(found[0], begin + found.start())


def _proven(record: bytes, offset: int) -> Iterator[SettingsChange]:
    (stored,) = struct.unpack_from("<I", record, _CHECKSUM)
    if crc32c.crc32c(record[_HEADER:] + record[:_CHECKSUM]) == stored:
        yield SettingsChange(offset, _LEVEL.unpack_from(record, _LEVEL_AT)[0])
