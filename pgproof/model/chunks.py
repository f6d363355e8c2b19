"""Where the files of a dump are cut, and the records that hold the pieces (docs/format.md, section 6).

A cut is decided by the bytes around it, so rows that come or go move no cut but those beside them, and what did not
change is found again wherever it lies. Only ends of rows are looked at: COPY writes one row a line.
"""

from __future__ import annotations

import struct
from collections import deque
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
_STRETCH = 256 << 10
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)


def cuts(data: memoryview, *, final: bool) -> Iterator[int]:
    """Where the next chunks of `data`, which begins at a cut, end: as far as that can be decided.

    `final` says that nothing follows, and then the last is the end of `data`; else what follows decides as well about
    the last LOOK_AHEAD bytes.
    """
    size = len(data)
    likely = _LikelyEnds(data, final=final)
    at = 0
    while at < size and (final or size - at >= LOOK_AHEAD):
        most = min(size, at + MOST)
        end = likely.first(at, most)
        if end is None:
            end = most if size - at <= MOST else _least_unlikely(data, at, most)
        yield end
        at = end


class _LikelyEnds:
    """The ends of rows in `data` whose bytes say that a chunk should end there, looked for a stretch at a time."""

    def __init__(self, data: memoryview, *, final: bool) -> None:
        self._data = data
        # Behind the last one is nothing to decide: the end of the file is a cut anyway.
        self._last = len(data) - 1 if final else len(data) - _AROUND
        self._seen = LEAST
        self._before = _last_end(data[:LEAST])
        # End, weight and the end of the row before.
        self._found: deque[tuple[int, float, int]] = deque()

    def first(self, at: int, most: int) -> int | None:
        """The first that a chunk from `at` may have, up to `most`."""
        while True:
            while self._found:
                end, weight, before = self._found[0]
                if end > most:
                    return None
                self._found.popleft()
                if end <= at + LEAST:
                    continue
                # A chunk that begins within a row knows nothing of what was before.
                if before >= at or weight < end - at:
                    return end
            if self._seen >= min(most, self._last):
                return None
            self._look()

    def _look(self) -> None:
        stop = min(self._seen + _STRETCH, self._last)
        ends = _ends(self._data, self._seen, stop)
        self._seen = stop
        if not len(ends):
            return
        weights = _weights(self._data, ends)
        lengths = np.diff(ends, prepend=self._before)
        for number in np.flatnonzero(weights < lengths):
            end = int(ends[number])
            self._found.append((end, float(weights[number]), end - int(lengths[number])))
        self._before = int(ends[-1])


def _least_unlikely(data: memoryview, at: int, most: int) -> int:
    """Where a chunk ends that has no likely end: of equal ones at the last, so that rows that are all the same make
    large chunks."""
    best, best_score = most, np.inf
    before = at + _last_end(data[at : at + LEAST])
    for start in range(at + LEAST, most, _STRETCH):
        ends = _ends(data, start, min(start + _STRETCH, most))
        if not len(ends):
            continue
        scores = _weights(data, ends) / np.diff(ends, prepend=before)
        least = len(scores) - 1 - int(np.argmin(scores[::-1]))
        if scores[least] <= best_score:
            best, best_score = int(ends[least]), float(scores[least])
        before = int(ends[-1])
    return best


def _ends(data: memoryview, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Where the rows end whose last byte lies there."""
    return np.flatnonzero(np.frombuffer(data[start:stop], np.uint8) == _NEWLINE) + (start + 1)


def _last_end(data: memoryview) -> int:
    """Where the last row that ends in `data` ends."""
    return bytes(data).rfind(b"\n") + 1


def _weights(data: memoryview, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of each end of row, by the bytes around it: it is likely if its row is longer, so as often as rows are long."""
    return _hashes(data, ends) * _WANTED


def _hashes(data: memoryview, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """From 0 up to 1 for each end of row, by the bytes around it; behind the end of the file are zeros."""
    origin = int(ends[0]) - _AROUND
    length = int(ends[-1]) + _AROUND - origin
    around = data[origin : origin + length]
    if len(around) < length:
        around = memoryview(bytes(around).ljust(length, b"\0"))
    words = np.ndarray((length - 7,), "<u8", around, strides=(1,))
    places = ends - ends[0]
    sums = np.zeros(len(ends), np.uint64)
    for number, multiplier in enumerate(_ODD):
        # Sums and products of 64 bits wrap.
        sums = (sums ^ words[places + 8 * number]) * multiplier
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
            if held[end:whole] != bytes(whole - end):
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
