"""Where the files of a dump are cut, and the records that hold the pieces (docs/format.md, section 6).

A cut is decided by the bytes around it, so rows that come or go move no cut but those beside them, and what did not
change is found again wherever it lies. Only ends of rows are looked at: COPY writes one row a line.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError

RECORD_SIZE = 512 << 10
_LENGTH = struct.Struct("<I")
HEAD_LENGTH = _LENGTH.size
LEAST = 16 << 10
MOST = RECORD_SIZE - HEAD_LENGTH
# Behind the least size a chunk goes on for this much on average.
_WANTED = 48 << 10
# Bytes on each side of an end of row that decide; the beginning of a row usually holds its key.
_AROUND = 16
# What is to be read before a cut can be decided: the bytes behind the last possible one.
LOOK_AHEAD = MOST + _AROUND
_NEWLINE = 10
# How far is looked for a cut at a time.
_STRETCH = 32 << 10
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)


def cut(data: memoryview, *, final: bool) -> int:
    """How many bytes of `data`, which begins at a cut, make the next chunk.

    `final` says that nothing follows; else there must be LOOK_AHEAD bytes, because what follows decides as well.
    """
    size = len(data)
    assert final or size >= LOOK_AHEAD, "not enough to decide"
    if size <= LEAST:
        return size
    most = min(size, MOST)
    best, best_score = most, np.inf
    before = _last_end(data[:LEAST])
    for start in range(LEAST, most, _STRETCH):
        stretch = data[start : min(start + _STRETCH, most)]
        ends = np.flatnonzero(np.frombuffer(stretch, np.uint8) == _NEWLINE) + (start + 1)
        # The end of the file is a cut anyway.
        ends = ends[:-1] if len(ends) and ends[-1] == size else ends
        if not len(ends):
            continue
        # As a fraction of 1, in proportion to how likely a row of this length is to be the place.
        scores = _hashes(data, ends) * _WANTED / np.diff(ends, prepend=before)
        below = np.flatnonzero(scores < 1.0)
        if len(below):
            return int(ends[below[0]])
        # Of equal ones the last: rows that are all the same make large chunks.
        least = len(scores) - 1 - int(np.argmin(scores[::-1]))
        if scores[least] <= best_score:
            best, best_score = int(ends[least]), float(scores[least])
        before = int(ends[-1])
    return most if size <= MOST else best


def _last_end(data: memoryview) -> int:
    """Where the last row that ends in `data` ends."""
    return bytes(data).rfind(b"\n") + 1


def _hashes(data: memoryview, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """From 0 up to 1 for each end of row, by the bytes around it; behind the end of the file are zeros."""
    origin = int(ends[0]) - _AROUND
    around = bytes(data[origin : int(ends[-1]) + _AROUND]).ljust(int(ends[-1]) + _AROUND - origin, b"\0")
    words = np.ndarray((len(around) - 7,), "<u8", around, strides=(1,))
    sums = np.zeros(len(ends), np.uint64)
    for number, multiplier in enumerate(_ODD):
        # Sums and products of 64 bits wrap.
        sums = (sums ^ words[ends - ends[0] + 8 * number]) * multiplier
        sums ^= sums >> np.uint64(31)
    sums = (sums + _ODD[0]) * _ODD[1]
    sums ^= sums >> np.uint64(29)
    sums *= _ODD[2]
    fractions: npt.NDArray[np.float64] = (sums >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return fractions


def put_record(data: memoryview, room: memoryview, page_size: int) -> int:
    """Write `data` as a record into `room`; returns how many pages it takes."""
    end = HEAD_LENGTH + len(data)
    pages = -(-end // page_size)
    _LENGTH.pack_into(room, 0, len(data))
    room[HEAD_LENGTH:end] = data
    room[end : pages * page_size] = bytes(pages * page_size - end)
    return pages


def contents(pages: Iterable[bytes | memoryview], page_size: int) -> Iterator[bytes]:
    """The data of a file's records, whose pages come in pieces of whole pages.

    Raises DataError for records that no writer would have written.
    """
    held = b""
    for piece in pages:
        held = bytes(piece) if not held else held + bytes(piece)
        at = 0
        while at + HEAD_LENGTH <= len(held):
            end, whole = _bounds(held, at, page_size)
            if whole > len(held):
                break
            if any(held[end:whole]):
                raise DataError("a record of a dump has something behind its end")
            yield held[at + HEAD_LENGTH : end]
            at = whole
        held = held[at:]
    if held:
        raise DataError("a dump's file is cut short")


def _bounds(held: bytes, at: int, page_size: int) -> tuple[int, int]:
    """Where the data of the record at `at` ends, and its last page."""
    (length,) = _LENGTH.unpack_from(held, at)
    if not 1 <= length <= MOST:
        raise DataError("a record of a dump has an impossible length", bytes=length)
    end = at + HEAD_LENGTH + length
    return end, at - (-(HEAD_LENGTH + length) // page_size) * page_size
