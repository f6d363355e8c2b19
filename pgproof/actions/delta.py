"""Which pages of a backup are not yet in the directory that it is restored over; told by their keyed hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pgproof.model.filemap import FILE, FileEntry
from pgproof.model.job import Job
from pgproof.postgres.delta_directory import DeltaDirectory
from pgproof.repository.content import PackSource
from pgproof.repository.frame_stream import Batch
from pgproof.repository.packs import DIGEST_LENGTH, PAGE_TAG_LENGTH, PackIndex
from pgproof.repository.repository import Repository

_PAGES_AT_ONCE = 512


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
    source = PackSource(repository)
    places = batch.places
    total = int(places["pages"].sum(dtype=np.int64)) * page_size
    kept: list[npt.NDArray[np.void]] = []
    done = 0
    for row in places:
        job.checkpoint()
        entry = batch.files[int(row["file"])]
        if withheld(entry):
            continue
        index = source.pack(batch.owners[int(row["owner"])], int(row["pack"])).index
        kept.extend(_different(repository, directory, entry, row, index, page_size))
        done += int(row["pages"]) * page_size
        job.report("comparing", done, total)
    # Still in the order of packs and of pages in them.
    return replace(batch, places=np.array(kept, places.dtype) if kept else places[:0])


def _different(
    repository: Repository,
    directory: DeltaDirectory,
    entry: FileEntry,
    row: npt.NDArray[np.void],
    index: PackIndex,
    page_size: int,
) -> Iterator[npt.NDArray[np.void]]:
    """The parts of a run whose pages have to be written."""
    page, pages, file_page = int(row["page"]), int(row["pages"]), int(row["file_page"])
    for first in range(0, pages, _PAGES_AT_ONCE):
        count = min(_PAGES_AT_ONCE, pages - first)
        wanted = None if index.tags is None else index.tags[page + first : page + first + count]
        if wanted is None or len(wanted) != count:
            yield _part(row, first, count)  # nothing to compare with, or a damaged map: reading will tell
            continue
        data = directory.read(entry.path, (file_page + first) * page_size, count * page_size)
        data += bytes(count * page_size - len(data))
        digests = np.frombuffer(repository.hashes.page_digests(data, page_size), np.uint8)
        tags = np.ascontiguousarray(digests.reshape(-1, DIGEST_LENGTH)[:, :PAGE_TAG_LENGTH]).view("<u8")[:, 0]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], tags != wanted, [False]]).astype(np.int8)))
        for start, end in edges.reshape(-1, 2).tolist():
            yield _part(row, first + start, end - start)


def _part(row: npt.NDArray[np.void], first: int, pages: int) -> npt.NDArray[np.void]:
    part = row.copy()
    part["page"] = int(row["page"]) + first
    part["file_page"] = int(row["file_page"]) + first
    part["pages"] = pages
    return part


def _settle(
    batch: Batch, directory: DeltaDirectory, page_size: int, withheld: Callable[[FileEntry], bool]
) -> None:
    places = batch.places
    order = np.lexsort((places["file_page"], places["file"]))
    by_file = places[order]
    numbers, starts = np.unique(by_file["file"], return_index=True)
    for number, rows in zip(numbers.tolist(), np.split(by_file, starts[1:]), strict=True):
        entry = batch.files[number]
        if entry.kind != FILE or withheld(entry):
            continue
        position, zeros = 0, []
        for first, pages in zip(rows["file_page"].tolist(), rows["pages"].tolist(), strict=True):
            if first > position:
                zeros.append((position * page_size, first * page_size))
            position = first + pages
        if position * page_size < entry.size:
            zeros.append((position * page_size, entry.size))
        directory.settle(entry, zeros)
