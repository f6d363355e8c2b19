"""The contents of a backup's files, read back from wherever their pages lie."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from pgproof.errors import DataError
from pgproof.model.filemap import ZEROS, FileEntry, Segment, printable
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.pack_reader import PackReader
from pgproof.repository.repository import Repository

_OPEN_PACKS = 8
_LARGEST_WHOLE = 64 << 20


class PackSource:
    """Opens packs by owner and number; lists each owner's packs once. Not for several threads."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._objects: dict[str, dict[int, list[ObjectInfo]]] = {}
        self._open: OrderedDict[tuple[str, int], PackReader] = OrderedDict()

    def versions(self, owner: str, number: int) -> list[ObjectInfo]:
        """The objects of a pack, the newest first."""
        if owner not in self._objects:
            self._objects[owner] = self._repository.pack_versions(owner)
        found = self._objects[owner].get(number)
        if found is None:
            context = self._repository.layout.pack_context(owner, number)
            raise DataError("a pack is missing", key=f"{context}-*")
        return found

    def pack(self, owner: str, number: int) -> PackReader:
        reader = self._open.pop((owner, number), None)
        if reader is None:
            newest, *older = self.versions(owner, number)
            reader = self._repository.open_pack(newest, older)
        self._open[owner, number] = reader
        while len(self._open) > _OPEN_PACKS:
            self._open.popitem(last=False)
        return reader


class Content:
    """Reads single files; a whole backup is read by frames in pack order elsewhere."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._source = PackSource(repository)
        self._last: tuple[PackReader, int, bytes] | None = None

    def read(self, segment: Segment, entry: FileEntry, page_size: int) -> bytes:
        """A whole file; only for small ones, so that a larger one is a DataError."""
        if entry.size > _LARGEST_WHOLE:
            raise DataError("a file is larger than it can be", file=printable(entry.path), bytes=entry.size)
        return b"".join(data for _page, data in self.pages(segment, entry, page_size, 64))[: entry.size]

    def pages(
        self, segment: Segment, entry: FileEntry, page_size: int, most: int
    ) -> Iterator[tuple[int, bytes]]:
        """Pieces of at most `most` whole pages with the number of their first page, in order."""
        try:
            for run in segment.runs_of(entry):
                file_page, left, at = int(run["file_page"]), int(run["pages"]), int(run["pack_page"])
                while left:
                    if run["owner"] == ZEROS:
                        pages, data = min(left, most), bytes(min(left, most) * page_size)
                    else:
                        owner = segment.owners[int(run["owner"])]
                        pages, data = self._piece(owner, int(run["pack"]), at, min(left, most), page_size)
                    yield file_page, data
                    file_page, left, at = file_page + pages, left - pages, at + pages
        except DataError as error:
            raise DataError(
                error.message, hint=error.hint, **error.context, file=printable(entry.path)
            ) from error

    def _piece(self, owner: str, pack: int, page: int, most: int, page_size: int) -> tuple[int, bytes]:
        reader = self._source.pack(owner, pack)
        first_pages = reader.index.first_pages
        frame = int(np.searchsorted(first_pages, page, "right")) - 1
        if not 0 <= frame < len(reader.index.codecs) or reader.index.page_size != page_size:
            raise DataError("a map names a page that its pack does not have", pack=pack, page=page)
        if self._last is None or self._last[0] is not reader or self._last[1] != frame:
            self._last = (reader, frame, reader.frame(frame, self._repository.hashes))
        skip = page - int(first_pages[frame])
        pages = min(most, int(first_pages[frame + 1]) - page)
        return pages, self._last[2][skip * page_size : (skip + pages) * page_size]
