"""Records that change settings are found wherever they lie, and nothing else is taken for one."""

from __future__ import annotations

import random
import struct

import crc32c
import pytest

from pgproof.model.wal_settings import MINIMAL, SettingsChange, settings_changes

_PAGE = 8192


def record(level: int = MINIMAL) -> bytes:
    body = b"\xff\x1c" + struct.pack("<6i2?2x", 100, 8, 10, 0, 64, level, False, False)
    head = struct.pack("<IIQBB2x", 54, 0, 0x1234567, 0x60, 0)
    return head + struct.pack("<I", crc32c.crc32c(body + head)) + body


def page_header(number: int) -> bytes:
    return bytes([0x18, 0xD1]) + bytes(38 if number == 0 else 22)


def pages(count: int, at: int, content: bytes) -> tuple[bytes, int]:
    """Random pages with `content` behind `at` bytes of content; and its offset."""
    chance = random.Random(at)
    stream = bytearray(chance.randbytes(count * _PAGE))
    stream[at : at + len(content)] = content
    made, taken, where = b"", 0, 0
    for number in range(count):
        header = page_header(number)
        room = _PAGE - len(header)
        if taken <= at < taken + room:
            where = len(made) + len(header) + at - taken
        made += header + bytes(stream[taken : taken + room])
        taken += room
    return made, where


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 8, 5000, 8104, 8112, 8128, 8144, 8152, 16280, 16312, 24440])
def test_a_record_is_found_across_the_border_of_pages(at: int, level: int) -> None:
    data, where = pages(4, at, record(level))
    assert list(settings_changes(data)) == [SettingsChange(where, level)]
    assert list(settings_changes(data, where)) == [SettingsChange(where, level)]
    broken = bytearray(data)
    broken[where + 30 if where % _PAGE < _PAGE - 54 else where] ^= 1
    assert list(settings_changes(bytes(broken))) == []


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    data, _where = pages(6, 100, record())
    assert list(settings_changes(data, 5 * _PAGE)) == []
