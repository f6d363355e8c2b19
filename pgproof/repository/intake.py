"""Takes files as a backup brings them, cuts them into frames and remembers where their pages went.

Large files have frames of their own, so that an unchanged file gives the same frames whatever came before
it; small ones share frames. Columns, not objects: a file costs its path and some twenty bytes, a run twenty.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import crc32c
import numpy as np

from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.filemap import (
    DIRECTORY,
    FILE,
    RUN_TYPE,
    Runs,
    SegmentBuilder,
    bitmap_of,
    check_path,
    cuts_before,
    printable,
)
from pgproof.model.job import Job
from pgproof.model.manifest import MapRef
from pgproof.repository.packs import FRAME_SIZE
from pgproof.repository.repository import Repository
from pgproof.repository.resume import OWN, Place
from pgproof.repository.writer import PackWriter

_COLUMNS = ("file", "file_page", "pages", "owner", "pack", "pack_page")
_LEAST_SHARED = 128 << 10
_FILES_PER_CUT = 16


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """What a run has stored: the map's segments, for each owner the packs that these name as a bitmap, and
    sizes in bytes. `reused_bytes` is the plain size of frames that an interrupted run had stored already."""

    maps: tuple[MapRef, ...]
    packs: dict[str, bytes]
    size_bytes: int
    stored_bytes: int
    reused_bytes: int
    files: int


class FileIntake:
    """Feed it files one after another: `begin`, any number of `data`, `end`.

    `owners` are the runs whose packs may be named: this one, and those of the writer's known frames.
    """

    def __init__(
        self, repository: Repository, writer: PackWriter, owners: tuple[str, ...], page_size: int
    ) -> None:
        self._repository = repository
        self._writer = writer
        self._owners = owners
        self._page_size = page_size
        self._paths: list[bytes] = []
        self._kinds = array("B")
        self._sizes = array("Q")
        self._modes = array("H")
        self._crcs = array("I")
        self._runs = {name: array("I") for name in _COLUMNS}
        self._reused_pages = 0
        # The last run of each file whose frames are still on their way, by file number.
        self._open_runs: dict[int, int] = {}
        self._small = bytearray()
        self._small_files: list[tuple[int, int]] = []
        self._frame = bytearray()
        self._left = 0
        self._page = 0
        self._crc = 0

    def directory(self, path: bytes, mode: int) -> None:
        self._add(path, DIRECTORY, 0, mode)

    def begin(self, path: bytes, size: int, mode: int) -> None:
        self._add(path, FILE, size, mode)
        self._left, self._page, self._crc = size, 0, 0
        self._frame = bytearray()
        if size == 0:
            self._end()

    def data(self, piece: memoryview) -> None:
        """Content of the file that was begun; its last piece ends it."""
        self._crc = crc32c.crc32c(piece, self._crc)
        self._left -= len(piece)
        if self._left < 0:
            raise DataError("a file has more bytes than announced", path=printable(self._paths[-1]))
        while piece:
            room = FRAME_SIZE - len(self._frame)
            self._frame += piece[:room]
            piece = piece[room:]
            if len(self._frame) == FRAME_SIZE:
                self._put_own_frame()
        if self._left == 0:
            self._end()

    def checksum_of(self) -> dict[bytes, tuple[int, int]]:
        """Size and CRC32C of every file, by path."""
        files = range(len(self._paths))
        return {self._paths[n]: (self._sizes[n], self._crcs[n]) for n in files if self._kinds[n] == FILE}

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes)

    def finish(self, job: Job) -> StoredFiles:
        """Make everything durable, then the map. Nothing names the packs before they are stored."""
        self._flush_small()
        packs = self._writer.finish()
        failpoint("map.begun")
        maps, map_bytes = self._store_maps(job)
        return StoredFiles(
            maps=tuple(maps),
            packs=self._named_packs(),
            size_bytes=self.size_bytes,
            stored_bytes=sum(packs.values()) + map_bytes,
            reused_bytes=self._reused_pages * self._page_size,
            files=sum(kind == FILE for kind in self._kinds),
        )

    def _add(self, path: bytes, kind: int, size: int, mode: int) -> None:
        if self._left:
            raise DataError("a file ended before its announced size", path=printable(self._paths[-1]))
        check_path(path)
        self._paths.append(path)
        self._kinds.append(kind)
        self._sizes.append(size)
        self._modes.append(mode)
        self._crcs.append(0)

    def _end(self) -> None:
        self._crcs[-1] = self._crc
        rest = len(self._frame)
        if not rest:
            return
        self._frame += bytes(-rest % self._page_size)
        if self._page:
            self._put_own_frame()
            return
        if len(self._small) + len(self._frame) > FRAME_SIZE or self._cuts_here():
            self._flush_small()
        self._small += self._frame
        self._small_files.append((len(self._paths) - 1, len(self._frame) // self._page_size))
        self._frame = bytearray()

    def _put_own_frame(self) -> None:
        number, first, pages = len(self._paths) - 1, self._page, len(self._frame) // self._page_size
        self._writer.put(self._frame, lambda place: self._placed(number, first, pages, place))
        self._page += pages
        self._frame = bytearray()

    def _flush_small(self) -> None:
        if not self._small:
            return
        members, self._small_files = self._small_files, []

        def placed(place: Place) -> None:
            for number, pages in members:
                self._placed(number, 0, pages, place)
                place = place._replace(page=place.page + pages)

        self._writer.put(self._small, placed)
        self._small = bytearray()

    def _cuts_here(self) -> bool:
        """Whether a shared frame ends before the current file: the path says so, so that a file that comes, goes
        or grows changes one frame and not all that follow."""
        return len(self._small) >= _LEAST_SHARED and self._path_hash(self._paths[-1])[0] % _FILES_PER_CUT == 0

    def _placed(self, file: int, file_page: int, pages: int, place: Place) -> None:
        runs = self._runs
        last = self._open_runs.get(file)
        if place.owner != OWN:
            self._reused_pages += pages
        if (
            last is not None
            and (runs["owner"][last], runs["pack"][last]) == (place.owner, place.pack)
            and runs["pack_page"][last] + runs["pages"][last] == place.page
        ):
            runs["pages"][last] += pages
        else:
            self._open_runs[file] = len(runs["file"])
            row = (file, file_page, pages, *place)
            for column, value in zip(runs.values(), row, strict=True):
                column.append(value)
        if (file_page + pages) * self._page_size >= self._sizes[file]:
            del self._open_runs[file]

    def _store_maps(self, job: Job) -> tuple[list[MapRef], int]:
        columns = {
            name: np.frombuffer(values, np.uint32) if values else np.empty(0, np.uint32)
            for name, values in self._runs.items()
        }
        order = np.argsort(columns["file"], kind="stable")
        table = np.zeros(len(order), RUN_TYPE)
        for name in _COLUMNS[1:]:
            table[name] = columns[name][order]
        files = columns["file"][order]
        starts = np.searchsorted(files, np.arange(len(self._paths)), "left")
        ends = np.searchsorted(files, np.arange(len(self._paths)), "right")

        refs: list[MapRef] = []
        stored = 0
        builder = SegmentBuilder()
        for number in sorted(range(len(self._paths)), key=self._paths.__getitem__):
            path = self._paths[number]
            if len(builder) and (builder.full or cuts_before(self._path_hash(path))):
                stored += self._store_map(builder, refs)
                builder = SegmentBuilder()
                job.checkpoint()
            runs: Runs = table[starts[number] : ends[number]]
            builder.add(
                path, self._kinds[number], self._sizes[number], self._modes[number], runs, self._owners
            )
        if len(builder):
            stored += self._store_map(builder, refs)
        return refs, stored

    def _named_packs(self) -> dict[str, bytes]:
        owners, packs = (np.frombuffer(self._runs[name], np.uint32) for name in ("owner", "pack"))
        return {
            owner: bitmap_of(np.unique(packs[owners == number]).tolist())
            for number, owner in enumerate(self._owners)
            if np.any(owners == number)
        }

    def _store_map(self, builder: SegmentBuilder, refs: list[MapRef]) -> int:
        name, stored = self._repository.create_map(builder.encode())
        failpoint("map.stored")
        refs.append(MapRef(name, builder.first, len(builder), builder.bytes, builder.pages))
        return stored

    def _path_hash(self, path: bytes) -> bytes:
        return self._repository.hashes.frame_hash(path)
