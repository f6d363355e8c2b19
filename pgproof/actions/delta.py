"""Which pages of a backup are not yet in the directory that it is restored over; told by their keyed hashes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pgproof.model.filemap import FILE, FileEntry
from pgproof.model.job import Job
from pgproof.postgres.delta_directory import DeltaDirectory
from pgproof.repository.content import PackSource
from pgproof.repository.frame_slots import DIGEST_LENGTH
from pgproof.repository.frame_stream import Batch, by_pack
from pgproof.repository.packs import PAGE_TAG_LENGTH, PackIndex
from pgproof.repository.repository import Repository

_PAGES_AT_ONCE = 512
_Places = npt.NDArray[np.void]


def only_changed(
    repository: Repository,
    batch: Batch,
    directory: DeltaDirectory,
    page_size: int,
    withheld: Callable[[FileEntry], bool],
    job: Job,
) -> Batch:
    """Settle the batch's files, and leave of its places those whose pages differ from what is there.

    A page is as it should be if its tag is the one that was stored with it; times and sizes prove nothing.
    """
    _settle(batch, directory, page_size, withheld)
    comparison = _Comparison(repository, batch, directory, page_size, withheld)
    source = PackSource(repository)
    total = int(batch.places["pages"].sum(dtype=np.int64)) * page_size
    threads = os.cpu_count() or 1
    coming: deque[Future[_Places]] = deque()
    kept: list[_Places] = []
    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="pgproof-delta") as pool:
        try:
            for rows in by_pack(batch.places):
                job.checkpoint()
                owner, number = batch.owners[int(rows[0]["owner"])], int(rows[0]["pack"])
                index = source.pack(owner, number).index
                coming.append(pool.submit(comparison.different, rows, index))
                if len(coming) > threads:
                    kept.append(coming.popleft().result())
                done += int(rows["pages"].sum(dtype=np.int64)) * page_size
                job.report("comparing", done, total)
            # Still in the order of packs and of pages in them.
            kept += [each.result() for each in coming]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return replace(batch, places=np.concatenate(kept, dtype=batch.places.dtype) if kept else batch.places)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Of the pages of a batch with what is in the directory; used by several threads."""

    repository: Repository
    batch: Batch
    directory: DeltaDirectory
    page_size: int
    withheld: Callable[[FileEntry], bool]

    def different(self, rows: _Places, index: PackIndex) -> _Places:
        """The parts of some runs in one pack whose pages have to be written."""
        found = [
            (owner, pack, page + first, pages, file, file_page + first)
            for owner, pack, page, run, file, file_page in rows.tolist()
            if not self.withheld(self.batch.files[file])
            for first, pages in self._stretches(self.batch.files[file], page, run, file_page, index)
        ]
        return np.array(found, rows.dtype)

    def _stretches(
        self, entry: FileEntry, page: int, pages: int, file_page: int, index: PackIndex
    ) -> Iterator[tuple[int, int]]:
        size = self.page_size
        for first in range(0, pages, _PAGES_AT_ONCE):
            count = min(_PAGES_AT_ONCE, pages - first)
            wanted = None if index.tags is None else index.tags[page + first : page + first + count]
            if wanted is None or len(wanted) != count:
                yield first, count  # nothing to compare with, or a damaged map: reading will tell
                continue
            data = self.directory.read(entry.path, (file_page + first) * size, count * size)
            data += bytes(count * size - len(data))
            digests = np.frombuffer(self.repository.hashes.page_digests(data, size), np.uint8)
            tags = np.ascontiguousarray(digests.reshape(-1, DIGEST_LENGTH)[:, :PAGE_TAG_LENGTH]).view("<u8")
            differ = tags[:, 0] != wanted
            if differ.any():
                edges = np.flatnonzero(np.diff(np.concatenate([[False], differ, [False]]).astype(np.int8)))
                for start, end in edges.reshape(-1, 2).tolist():
                    yield first + start, end - start


def _settle(
    batch: Batch, directory: DeltaDirectory, page_size: int, withheld: Callable[[FileEntry], bool]
) -> None:
    places = batch.places
    by_file = places[np.lexsort((places["file_page"], places["file"]))]
    edges = np.flatnonzero(np.diff(by_file["file"].astype(np.int64))) + 1
    for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(by_file)], strict=True):
        rows = by_file[start:end]
        entry = batch.files[int(rows[0]["file"])] if len(rows) else None
        if entry is None or entry.kind != FILE or withheld(entry):
            continue
        position, zeros = 0, []
        for first, pages in zip(rows["file_page"].tolist(), rows["pages"].tolist(), strict=True):
            if first > position:
                zeros.append((position * page_size, first * page_size))
            position = first + pages
        if position * page_size < entry.size:
            zeros.append((position * page_size, entry.size))
        directory.settle(entry, zeros)
