"""Takes the files of a dump chunk by chunk, several at a time; each chunk is a record and a frame of its own.

A chunk that lies in a pack of the base, under whatever name and at whatever place, is not stored again.
"""

from __future__ import annotations

from array import array

from pgproof.failpoints import failpoint
from pgproof.model.chunks import put_record
from pgproof.model.filemap import DIRECTORY, FILE, check_path
from pgproof.model.job import Job
from pgproof.repository.comparing import Member
from pgproof.repository.map_store import FileColumns, StoredFiles, named_packs, store_maps
from pgproof.repository.repository import Repository
from pgproof.repository.resume import OWN
from pgproof.repository.writer import PackWriter

_MODE = 0o600
_DIRECTORY_MODE = 0o700


class ChunkIntake:
    """`owners` are the runs whose packs may be named: this one, then `interrupted` runs, then the base's."""

    def __init__(
        self,
        repository: Repository,
        writer: PackWriter,
        owners: tuple[str, ...],
        interrupted: int,
        page_size: int,
    ) -> None:
        self._repository = repository
        self._writer = writer
        self._owners = owners
        self._interrupted = interrupted
        self._page_size = page_size
        self._files = FileColumns()
        self._contents = array("Q")

    def directory(self, path: bytes) -> None:
        check_path(path)
        self._add(path, DIRECTORY, _DIRECTORY_MODE)

    def begin(self, path: bytes) -> int:
        """The number of a new file, for `put`."""
        check_path(path)
        self._add(path, FILE, _MODE)
        return len(self._contents) - 1

    def put(self, file: int, chunk: memoryview) -> None:
        """Append a chunk to a file; it may be stored somewhere already."""
        slot = self._writer.slot()
        pages = put_record(chunk, slot.content, self._page_size)
        member = Member(file, self._files.sizes[file] // self._page_size, pages)
        self._files.sizes[file] += pages * self._page_size
        self._contents[file] += len(chunk)
        self._writer.put(slot, [member])

    def size_of(self, first: int, last: int) -> int:
        """The bytes that the files from number `first` up to, not including, `last` hold."""
        return sum(self._contents[first:last])

    @property
    def files(self) -> int:
        return len(self._contents)

    def finish(self, job: Job) -> StoredFiles:
        """Make everything durable, then the map. Nothing names the packs before they are stored."""
        packs = self._writer.finish()
        failpoint("map.begun")
        runs = self._writer.runs
        maps, map_bytes = store_maps(self._repository, self._files, runs, self._owners, job)
        reused = sum(runs.pages(number) for number in range(OWN + 1, OWN + 1 + self._interrupted))
        return StoredFiles(
            maps=maps,
            packs=named_packs(runs, self._owners),
            size_bytes=sum(self._contents),
            stored_bytes=sum(packs.values()) + map_bytes,
            reused_bytes=reused * self._page_size,
            files=sum(kind == FILE for kind in self._files.kinds),
        )

    def _add(self, path: bytes, kind: int, mode: int) -> None:
        self._files.add(path, kind, 0, mode)
        self._contents.append(0)
