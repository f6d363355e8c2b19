"""Maps: which files a backup has, and in which packs their pages lie (docs/format.md, section 6).

Columnar, because a terabyte is 134 million pages: a file costs a few dozen bytes, a run twenty.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.model.manifest import is_backup_id

ZEROS = 0xFFFF
FILE, DIRECTORY = 0, 1
MAX_PATH = 4096
MAX_NAME = 255
# A writer makes at most 2,048; each takes some hundred bytes of memory.
MAX_FILES = 1 << 16
_HEAD = struct.Struct("<IIII")
# About this many files make a segment; a file with this many runs ends one.
_FILES_PER_SEGMENT = 256
_RUNS_PER_SEGMENT = 1 << 16
_FEW_RUNS = 64
# Names that are not empty and neither "." nor "..", with slashes between them.
_NAME = rb"(?!\.{1,2}(?:/|\Z))[^/\0]{1,%d}" % MAX_NAME
_PLAIN = re.compile(_NAME + rb"(?:/" + _NAME + rb")*\Z")

RUN_TYPE = np.dtype(
    [("file_page", "<u4"), ("pages", "<u4"), ("owner", "<u2"), ("pack", "<u4"), ("pack_page", "<u4")]
)
Runs = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file or directory; its runs are `runs[run_start:run_end]` of the segment."""

    path: bytes
    kind: int
    size: int
    mode: int
    run_start: int
    run_end: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A decoded map segment. `owners` are backup ids, `runs` a structured array of RUN_TYPE."""

    files: tuple[FileEntry, ...]
    owners: tuple[str, ...]
    runs: Runs

    @property
    def first(self) -> bytes:
        return self.files[0].path if self.files else b""

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    @property
    def pages(self) -> int:
        return int(self.runs["pages"].sum(dtype=np.int64))

    def runs_of(self, entry: FileEntry) -> Runs:
        return self.runs[entry.run_start : entry.run_end]


class SegmentBuilder:
    """Takes files in ascending order of their paths; `encode` gives the payload of a segment."""

    def __init__(self) -> None:
        self._files: list[tuple[bytes, int, int, int, int]] = []
        self._runs: list[Runs] = []
        self._run_count = 0
        self._owners: dict[str, int] = {}
        self.bytes = 0
        self.pages = 0

    def add(self, path: bytes, kind: int, size: int, mode: int, runs: Runs, owners: tuple[str, ...]) -> None:
        """Append a file; the owner numbers in `runs` index `owners`."""
        if len(owners) and len(runs):
            runs = runs.copy()
            before = runs["owner"].copy()
            # For the one or two runs that most files have numpy's own search would take longer than all else here.
            numbers = set(before.tolist()) if len(before) <= _FEW_RUNS else distinct(before)
            for number in sorted(numbers):
                if number != ZEROS:
                    ours = self._owners.setdefault(owners[number], len(self._owners))
                    runs["owner"][before == number] = ours
        self._runs.append(runs)
        self._run_count += len(runs)
        self._files.append((path, kind, size, mode, self._run_count))
        self.bytes += size
        self.pages += int(runs["pages"].sum(dtype=np.int64)) if len(runs) else 0

    @property
    def first(self) -> bytes:
        return self._files[0][0]

    def __len__(self) -> int:
        return len(self._files)

    @property
    def full(self) -> bool:
        return self._run_count >= _RUNS_PER_SEGMENT or len(self._files) >= 8 * _FILES_PER_SEGMENT

    def encode(self) -> bytes:
        paths = b"".join(f[0] for f in self._files)
        # With its type told, numpy does not look for one that fits every pair of them.
        runs = np.concatenate(self._runs, dtype=RUN_TYPE) if self._runs else np.empty(0, RUN_TYPE)
        owners = b"".join(bytes([len(owner)]) + owner.encode() for owner in self._owners)
        columns = [
            np.cumsum([len(f[0]) for f in self._files], dtype="<u4"),
            np.array([f[4] for f in self._files], "<u4"),
            np.array([f[2] for f in self._files], "<u8"),
            np.array([f[3] for f in self._files], "<u2"),
            np.array([f[1] for f in self._files], "u1"),
            *(np.ascontiguousarray(runs[name]) for name in RUN_TYPE.names or ()),
        ]
        head = _HEAD.pack(len(self._files), len(runs), len(self._owners), len(paths))
        return b"".join([head, owners, *(column.tobytes() for column in columns), paths])


def distinct(column: npt.NDArray[np.unsignedinteger[Any]]) -> list[int]:
    """The different values, ascending. np.unique would import numpy.ma first, which takes longer than most sorting here."""
    ordered = np.sort(column)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    values: list[int] = ordered[first].tolist()
    return values


def cuts_before(path_hash: bytes) -> bool:
    """Whether a new segment begins at the file whose path has this keyed hash."""
    return int.from_bytes(path_hash[:4], "little") % _FILES_PER_SEGMENT == 0


def decode_segment(payload: bytes, page_size: int) -> Segment:
    """Parse and check a segment. Raises DataError for anything a writer would not have written."""
    if len(payload) < _HEAD.size:
        raise DataError("a map is cut short")
    files, runs, owner_count, paths_length = _HEAD.unpack_from(payload)
    if files > MAX_FILES or owner_count > ZEROS:
        raise DataError("a map is not well formed")
    at = _HEAD.size
    owners = []
    for _ in range(owner_count):
        if at >= len(payload):
            raise DataError("a map is cut short")
        end = at + 1 + payload[at]
        owners.append(payload[at + 1 : end].decode("ascii", "replace"))
        if not is_backup_id(owners[-1]):
            raise DataError("a map names a pack of what is no backup")
        at = end
    if len(payload) != at + files * 19 + runs * RUN_TYPE.itemsize + paths_length:
        raise DataError("a map is not well formed")

    def column(dtype: str, count: int) -> npt.NDArray[np.generic]:
        nonlocal at
        found = np.frombuffer(payload, dtype, count, at)
        at += found.nbytes
        return found

    path_ends = column("<u4", files).tolist()
    run_ends = column("<u4", files).tolist()
    sizes = column("<u8", files).tolist()
    modes = column("<u2", files).tolist()
    kinds = column("u1", files).tolist()
    table = np.empty(runs, RUN_TYPE)
    for name in RUN_TYPE.names or ():
        table[name] = column(RUN_TYPE[name].str, runs)
    paths = payload[at:]

    entries: list[FileEntry] = []
    path_start = run_start = 0
    for path_end, run_end, size, mode, kind in zip(path_ends, run_ends, sizes, modes, kinds, strict=True):
        if not path_start < path_end <= paths_length or not run_start <= run_end <= runs:
            raise DataError("a map is not well formed")
        path = paths[path_start:path_end]
        check_path(path)
        if entries and path <= entries[-1].path:
            raise DataError("a map is not in order", path=printable(path))
        entries.append(FileEntry(path, kind, size, mode, run_start, run_end))
        path_start, run_start = path_end, run_end
    if path_start != paths_length or run_start != runs:
        raise DataError("a map is not well formed")
    segment = Segment(tuple(entries), tuple(owners), table)
    _check_runs(segment, page_size)
    return segment


def _check_runs(segment: Segment, page_size: int) -> None:
    """Every file's runs cover exactly its pages, in order."""
    runs, files = segment.runs, segment.files
    real = runs["owner"] != ZEROS
    if np.any(runs["owner"][real] >= len(segment.owners)) or np.any(runs["pages"] == 0):
        raise DataError("a map names a pack that it does not list")
    # One run ends where the next one begins, in its file as in this column of them all.
    ends = np.concatenate([[0], np.cumsum(runs["pages"], dtype=np.int64)])
    starts = np.array([entry.run_start for entry in files], np.int64)
    counts = np.array([entry.run_end for entry in files], np.int64) - starts
    kinds = np.array([entry.kind for entry in files], np.uint8)
    sizes = np.array([entry.size for entry in files], np.uint64)
    pages = (ends[starts + counts] - ends[starts]).astype(np.uint64)
    wanted = np.where(kinds == FILE, sizes // page_size + (sizes % page_size != 0), 0)
    astray = runs["file_page"] != ends[:-1] - np.repeat(ends[starts], counts)
    wrong = (kinds > DIRECTORY) | (pages != wanted)
    wrong[np.repeat(np.arange(len(files)), counts)[astray]] = True
    if wrong.any():
        raise DataError("a map does not cover its file", path=printable(files[int(wrong.argmax())].path))


def check_path(path: bytes) -> None:
    """Raises DataError unless `path` is relative, plain and stays below the data directory."""
    if len(path) > MAX_PATH or not _PLAIN.match(path):
        raise DataError("a path that no data directory has", path=printable(path[:200]))


def printable(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def bitmap_of(numbers: Iterator[int] | list[int]) -> bytes:
    """Bit n of byte n/8, lowest bit first, for every number."""
    found = np.fromiter(numbers, np.int64)
    if not len(found):
        return b""
    bits = np.zeros(int(found.max()) + 1, np.uint8)
    bits[found] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def numbers_of(bitmap: bytes) -> list[int]:
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()
