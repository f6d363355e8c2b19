"""Reads the files of a logical backup, each chunk checked before it is given out; for several threads."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from pgproof.errors import DataError
from pgproof.model.chunks import contents
from pgproof.model.dump_files import check_name, directory_of
from pgproof.model.filemap import FILE, ZEROS, FileEntry, Segment, printable
from pgproof.model.job import Job
from pgproof.model.manifest import LOGICAL, Manifest
from pgproof.repository.content import PackSource
from pgproof.repository.pack_reader import PackReader
from pgproof.repository.repository import Repository

_SEGMENTS = 4
_READ_AT_ONCE = 4 << 20


@dataclass(frozen=True, slots=True)
class DumpFile:
    """A file of a dump: its name in its directory, its path in the backup, and the size of its pages, which is more
    than that of its content."""

    name: bytes
    path: bytes
    stored_size: int


class DumpReader:
    """The files of `manifest`, whose method must be logical. Damage is a DataError that names file and object."""

    def __init__(self, repository: Repository, manifest: Manifest, job: Job) -> None:
        if manifest.method != LOGICAL:
            raise DataError("a physical backup has no dump", backup=manifest.backup_id)
        self.manifest = manifest
        self._repository = repository
        self._job = job
        self._lock = threading.Lock()
        self._source = PackSource(repository)
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._firsts = [ref.first for ref in manifest.maps]

    def files(self, oid: int) -> Iterator[DumpFile]:
        """The files that pg_dump wrote for the database, in the order of their paths."""
        prefix = directory_of(oid) + b"/"
        for number in range(self._segment_with(prefix), len(self._firsts)):
            if self._firsts[number] > prefix and not self._firsts[number].startswith(prefix):
                return
            for entry in self._segment(number).files:
                if entry.path.startswith(prefix):
                    name = entry.path[len(prefix) :]
                    check_name(name)
                    if entry.kind != FILE:
                        raise DataError("a dump has something that is no file", file=printable(entry.path))
                    yield DumpFile(name, entry.path, entry.size)

    def read(self, path: bytes) -> Iterator[bytes]:
        """The content of a file, a chunk at a time."""
        segment, entry = self._find(path)
        try:
            yield from contents(self._pages(segment, entry), self.manifest.block_size)
        except DataError as error:
            raise DataError(
                error.message, hint=error.hint, **{**error.context, "file": printable(path)}
            ) from error

    def read_whole(self, path: bytes, most: int) -> bytes:
        """The content of a small file; DataError if it has more than `most` bytes."""
        found = bytearray()
        for chunk in self.read(path):
            found += chunk
            if len(found) > most:
                raise DataError("a file of a dump is larger than it can be", file=printable(path), most=most)
        return bytes(found)

    def _find(self, path: bytes) -> tuple[Segment, FileEntry]:
        if self._firsts:
            segment = self._segment(self._segment_with(path))
            at = bisect_left(segment.files, path, key=attrgetter("path"))
            if at < len(segment.files) and (entry := segment.files[at]).path == path and entry.kind == FILE:
                return segment, entry
        raise DataError("a backup lacks a file", file=printable(path), backup=self.manifest.backup_id)

    def _segment_with(self, path: bytes) -> int:
        return max(0, bisect_right(self._firsts, path) - 1)

    def _segment(self, number: int) -> Segment:
        with self._lock:
            segment = self._segments.pop(number, None)
            if segment is None:
                ref = self.manifest.maps[number]
                segment = self._repository.segment(ref, self.manifest.block_size, self.manifest.backup_id)
            self._segments[number] = segment
            while len(self._segments) > _SEGMENTS:
                self._segments.popitem(last=False)
            return segment

    def _pages(self, segment: Segment, entry: FileEntry) -> Iterator[memoryview]:
        size = self.manifest.block_size
        if entry.size % size:
            raise DataError("a file of a dump does not end with a page")
        for run in segment.runs_of(entry):
            at, left = int(run["pack_page"]), int(run["pages"])
            if run["owner"] == ZEROS:
                raise DataError("a file of a dump has a hole")
            pack = self._pack(segment.owners[int(run["owner"])], int(run["pack"]))
            for first, plain in self._frames(pack, at, left):
                skip = max(0, at - first) * size
                yield memoryview(plain)[skip : (at + left - first) * size]

    def _frames(self, pack: PackReader, page: int, pages: int) -> Iterator[tuple[int, bytes]]:
        """The frames that hold these pages, each with its first page; neighbours are read at once."""
        index = pack.index
        if index.page_size != self.manifest.block_size or page + pages > index.page_count:
            raise DataError("a map names pages that its pack does not have", page=page)
        frame = int(np.searchsorted(index.first_pages, page, "right")) - 1
        last = int(np.searchsorted(index.first_pages, page + pages, "left"))
        while frame < last:
            enough = np.searchsorted(index.offsets, index.offsets[frame] + _READ_AT_ONCE, "right") - 1
            end = min(last, max(frame + 1, int(enough)))
            sealed = memoryview(pack.read_frames(frame, end - frame))
            origin = int(index.offsets[frame])
            for number in range(frame, end):
                self._job.checkpoint()
                start, stop = int(index.offsets[number]) - origin, int(index.offsets[number + 1]) - origin
                plain = pack.open_frame(number, sealed[start:stop], self._repository.hashes)
                yield int(index.first_pages[number]), plain
            frame = end

    def _pack(self, owner: str, number: int) -> PackReader:
        with self._lock:
            return self._source.pack(owner, number)
