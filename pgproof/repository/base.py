"""What a backup may build on: where an earlier one has each page, and the tag that tells whether it changed.

Maps and pack indexes are read as the files come, and few are kept: memory is bounded whatever the cluster's size.
What of the earlier backup is damaged or missing counts as changed, so that the new backup heals it.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Container
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.model.filemap import ZEROS, FileEntry, Runs, Segment, numbers_of
from pgproof.model.manifest import Manifest
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)

NOWHERE = 0xFFFFFFFF
_SEGMENT_BYTES = 32 << 20
_TAG_BYTES = 32 << 20
_READ_AHEAD = 3
_Words = npt.NDArray[np.uint32]
_Tags = npt.NDArray[np.uint64]
PackName = tuple[str, int]


class OldPages(NamedTuple):
    """Where some pages of a file lie, page by page: the owner's number (NOWHERE for none, ZEROS for pages of zeros,
    which lie nowhere), pack, page; and tags."""

    owner: _Words
    pack: _Words
    page: _Words
    tags: _Tags


class OldRun(NamedTuple):
    """Pages of a file that lie behind one another in a pack, and their tags."""

    owner: int
    pack: int
    page: int
    tags: _Tags


class OldFile:
    """One file of the earlier backup; `length` is its number of pages."""

    def __init__(self, base: Base, segment: Segment, entry: FileEntry, owners: list[int]) -> None:
        self.path = entry.path
        self._base = base
        self._runs = segment.runs_of(entry)
        self._firsts = self._runs["file_page"]
        self._owners = owners
        self.length = int(self._runs["pages"].sum(dtype=np.int64))

    def all_runs(self) -> Runs:
        """Every run of the file, with owners by their numbers here; ZEROS stays."""
        runs = self._runs.copy()
        numbers = np.array([*self._owners, 0], np.uint32)
        real = runs["owner"] != ZEROS
        runs["owner"][real] = numbers[runs["owner"][real]]
        return runs

    def run_of(self, first: int, count: int) -> OldRun | None:
        """The pages from `first` on if they lie behind one another: the common case, and many times cheaper."""
        at = int(self._firsts.searchsorted(first, "right")) - 1
        if at < 0:
            return None
        run_first, run_pages, run_owner, pack, pack_page = self._runs[at].item()
        if first + count > run_first + run_pages or run_owner == ZEROS:
            return None
        owner, page = self._owners[run_owner], pack_page + first - run_first
        tags = self._base.tags(owner, pack)
        if tags is None or page + count > len(tags):
            return None
        return OldRun(owner, pack, page, tags[page : page + count])

    def pages(self, first: int, count: int) -> OldPages:
        """The pages from `first` on; those that the file did not have are NOWHERE."""
        old = OldPages(
            np.full(count, NOWHERE, np.uint32),
            np.zeros(count, np.uint32),
            np.zeros(count, np.uint32),
            np.zeros(count, np.uint64),
        )
        at = max(int(np.searchsorted(self._firsts, first, "right")) - 1, 0)
        for run_first, run_pages, run_owner, pack, pack_page in self._runs[at : at + count].tolist():
            if run_first >= first + count:
                break
            begin, end = max(run_first, first), min(run_first + run_pages, first + count)
            if begin >= end:
                continue
            if run_owner == ZEROS:
                old.owner[begin - first : end - first] = ZEROS
                old.tags[begin - first : end - first] = self._base.zero_tag
                continue
            owner = self._owners[run_owner]
            tags = self._base.tags(owner, pack)
            start = pack_page + begin - run_first
            if tags is None or start + end - begin > len(tags):
                continue
            rows = slice(begin - first, end - first)
            old.owner[rows], old.pack[rows] = owner, pack
            old.page[rows] = np.arange(start, start + end - begin, dtype=np.uint32)
            old.tags[rows] = tags[start : start + end - begin]
        return old


class Base:
    """The files of the backup `manifest`. Owner n of `owners` has the number `first_owner` + n.

    `damaged` names packs that must not be built on. Use as a context manager, from one thread.
    """

    def __init__(
        self, repository: Repository, manifest: Manifest, first_owner: int, damaged: Container[PackName] = ()
    ) -> None:
        self.owners = tuple(sorted(manifest.packs))
        self.given_up: set[str] = set()
        self._repository = repository
        self._manifest = manifest
        self._numbers = {owner: first_owner + n for n, owner in enumerate(self.owners)}
        self._named = {
            self._numbers[owner]: set(numbers_of(bitmap)) for owner, bitmap in manifest.packs.items()
        }
        self._first_owner = first_owner
        self._damaged = damaged
        self._firsts = [ref.first for ref in manifest.maps]
        self._segments: OrderedDict[int, tuple[Segment | None, dict[bytes, FileEntry], list[int]]] = (
            OrderedDict()
        )
        self._segment_bytes = 0
        self._objects: dict[int, dict[int, list[ObjectInfo]]] = {}
        self._coming: dict[tuple[int, int], Future[_Tags | None]] = {}
        self._tags: OrderedDict[tuple[int, int], _Tags | None] = OrderedDict()
        self._tag_bytes = 0
        digest = repository.hashes.page_digests(bytes(manifest.block_size), manifest.block_size)
        self.zero_tag = np.frombuffer(digest, "<u8", 1)[0]
        self._reader = ThreadPoolExecutor(_READ_AHEAD + 1, thread_name_prefix="pgproof-base")

    def file(self, path: bytes) -> OldFile | None:
        """The file as the earlier backup has it, or None."""
        at = bisect_right(self._firsts, path) - 1
        if at < 0:
            return None
        segment, entries, owners = self._segment(at)
        entry = entries.get(path)
        return OldFile(self, segment, entry, owners) if segment is not None and entry is not None else None

    def tags(self, owner: int, pack: int) -> _Tags | None:
        """The tags of a pack's pages, or None if it is damaged. The packs behind it are read ahead."""
        name = owner, pack
        if name in self._tags:
            self._tags.move_to_end(name)
            return self._tags[name]
        self._fetch(owner, pack)
        for following in range(pack + 1, pack + 1 + _READ_AHEAD):
            if following in self._named[owner] and len(self._coming) <= _READ_AHEAD:
                self._fetch(owner, following)
        tags = self._tags[name] = self._coming.pop(name).result()
        self._tag_bytes += _size(tags)
        while self._tag_bytes > _TAG_BYTES and len(self._tags) > 1:
            self._tag_bytes -= _size(self._tags.popitem(last=False)[1])
        return tags

    def _fetch(self, owner: int, pack: int) -> None:
        if (owner, pack) in self._tags or (owner, pack) in self._coming:
            return
        if owner not in self._objects:
            self._objects[owner] = self._list(owner)
        self._coming[owner, pack] = self._reader.submit(self._read, owner, pack)

    def _list(self, owner: int) -> dict[int, list[ObjectInfo]]:
        name = self.owners[owner - self._first_owner]
        try:
            return self._repository.pack_versions(name)
        except DataError as error:
            self._give_up(f"{self._repository.layout.packs_of(name)}*", error)
            return {}

    def _read(self, owner: int, pack: int) -> _Tags | None:
        name = self.owners[owner - self._first_owner]
        context = self._repository.layout.pack_context(name, pack)
        versions = self._objects[owner].get(pack)
        if versions is None or (name, pack) in self._damaged:
            self._give_up(context, DataError("missing or known to be damaged"))
            return None
        try:
            reader = self._repository.open_pack(versions[0], versions[1:])
            return reader.tags() if reader.index.page_size == self._manifest.block_size else None
        except DataError as error:
            self._give_up(context, error)
            return None

    def _segment(self, at: int) -> tuple[Segment | None, dict[bytes, FileEntry], list[int]]:
        found = self._segments.pop(at, None)
        if found is None:
            found = self._load(at)
            self._segment_bytes += _weight(found[0])
        self._segments[at] = found
        while self._segment_bytes > _SEGMENT_BYTES and len(self._segments) > 1:
            _at, (segment, _entries, _owners) = self._segments.popitem(last=False)
            self._segment_bytes -= _weight(segment)
        return found

    def _load(self, at: int) -> tuple[Segment | None, dict[bytes, FileEntry], list[int]]:
        ref = self._manifest.maps[at]
        try:
            segment = self._repository.segment(ref, self._manifest.block_size)
        except DataError as error:
            self._give_up(self._repository.layout.map(ref.hash), error)
            return None, {}, []
        # A map names no owner that its manifest does not list: checked, because both come from the store.
        if not all(owner in self._numbers for owner in segment.owners):
            self._give_up(self._repository.layout.map(ref.hash), DataError("names packs of no known backup"))
            return None, {}, []
        numbers = [self._numbers[owner] for owner in segment.owners]
        return segment, {entry.path: entry for entry in segment.files}, numbers

    def _give_up(self, key: str, error: DataError) -> None:
        if key not in self.given_up:
            self.given_up.add(key)
            _log.warning("not built on: %s: %s", key, error.message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)


def _size(tags: _Tags | None) -> int:
    return 1000 if tags is None else 1000 + tags.nbytes


def _weight(segment: Segment | None) -> int:
    """About how much memory a decoded segment takes."""
    return 1000 if segment is None else segment.runs.nbytes + 400 * len(segment.files)
