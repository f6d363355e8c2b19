"""Read the contents of many files in the order in which they are stored, each frame once.

The map is read a batch of segments at a time and sorted by pack, so memory is bounded whatever the cluster's
size, and a frame that many small files share is opened once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.model.filemap import ZEROS, FileEntry, printable
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.content import PackSource
from pgproof.repository.pack_reader import PackReader
from pgproof.repository.repository import Repository

_RUNS_AT_ONCE = 2_000_000
_FILES_AT_ONCE = 200_000
_READ_AT_ONCE = 4 << 20
_ALL_PAGES = 1 << 62
_PLACE_TYPE = np.dtype(
    [
        ("owner", "<u4"),
        ("pack", "<u4"),
        ("page", "<u4"),
        ("pages", "<u4"),
        ("file", "<u4"),
        ("file_page", "<u4"),
    ]
)


class PageSink(Protocol):
    """Where the pages of one pack go; used by one thread."""

    def take(self, entry: FileEntry, file_page: int, pages: memoryview) -> None:
        """Whole pages of a file, from page `file_page` on; the file's last page is padded with zeros."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Some files of a backup and where their pages lie, sorted by pack."""

    files: list[FileEntry]
    owners: list[str]
    places: npt.NDArray[np.void]


def batches(
    repository: Repository, manifest: Manifest, damaged: Callable[[DataError], None] | None = None
) -> Iterator[Batch]:
    """The whole map of a backup in batches of bounded size.

    A damaged segment goes to `damaged`, and the others are read on; without it the first one is raised.
    """
    files: list[FileEntry] = []
    owners: dict[str, int] = {}
    tables: list[npt.NDArray[np.void]] = []
    count, last = 0, b""
    for ref in manifest.maps:
        try:
            segment = repository.segment(ref, manifest.block_size, manifest.backup_id)
            if segment.first <= last:
                raise DataError("a map is not in order", key=repository.layout.map(ref.hash))
        except DataError as error:
            _report(damaged, error)
            continue
        last = segment.files[-1].path
        numbers = np.array([owners.setdefault(owner, len(owners)) for owner in segment.owners] or [0], "<u4")
        runs = segment.runs
        lengths = [entry.run_end - entry.run_start for entry in segment.files]
        table = np.empty(len(runs), _PLACE_TYPE)
        real = runs["owner"] != ZEROS
        table["owner"] = numbers[np.where(real, runs["owner"], 0)]
        for ours, theirs in (
            ("pack", "pack"),
            ("page", "pack_page"),
            ("pages", "pages"),
            ("file_page", "file_page"),
        ):
            table[ours] = runs[theirs]
        table["file"] = np.repeat(np.arange(len(files), len(files) + len(lengths)), lengths)
        tables.append(table[real])
        files.extend(segment.files)
        count += len(runs)
        if count >= _RUNS_AT_ONCE or len(files) >= _FILES_AT_ONCE:
            yield _sorted(files, owners, tables)
            files, owners, tables, count = [], {}, [], 0
    if files:
        yield _sorted(files, owners, tables)


def _sorted(files: list[FileEntry], owners: dict[str, int], tables: list[npt.NDArray[np.void]]) -> Batch:
    places = np.concatenate(tables)
    order = np.lexsort((places["page"], places["pack"], places["owner"]))
    return Batch(files, list(owners), places[order])


def by_pack(places: npt.NDArray[np.void]) -> Iterator[npt.NDArray[np.void]]:
    """The places of each pack, in order."""
    keys = places["owner"].astype(np.int64) << 32 | places["pack"].astype(np.int64)
    edges = (np.flatnonzero(np.diff(keys)) + 1).tolist()
    for start, end in zip([0, *edges], [*edges, len(places)], strict=True):
        if start < end:
            yield places[start:end]


def read_batch(
    repository: Repository,
    batch: Batch,
    block_size: int,
    sink_for: Callable[[], PageSink],
    threads: int,
    job: Job,
    damaged: Callable[[DataError], None] | None = None,
) -> Iterator[int]:
    """Bring every page of a batch to a sink; yields stored bytes read, pack by pack.

    `sink_for` makes one sink for each pack; it is used by one thread and closed. Damage, a DataError naming
    object, file and page, goes to `damaged` and the reading goes on; without it the first one is raised.
    """
    source = PackSource(repository)
    pending: set[Future[int]] = set()

    def one(versions: Sequence[ObjectInfo], rows: npt.NDArray[np.void]) -> int:
        reading = _PackReading(repository, batch, rows, block_size, job, damaged)
        return reading.run(versions, sink_for())

    with ThreadPoolExecutor(threads, thread_name_prefix="pgproof-read") as pool:
        try:
            for rows in by_pack(batch.places):
                owner, number = batch.owners[int(rows[0]["owner"])], int(rows[0]["pack"])
                try:
                    versions = source.versions(owner, number)
                except DataError as error:
                    _report(damaged, _with_victims(error, batch, rows, 0, _ALL_PAGES))
                    continue
                pending.add(pool.submit(one, versions, rows))
                while len(pending) > threads:
                    done, pending = wait(pending, 0.5, FIRST_COMPLETED)
                    job.checkpoint()
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, 0.5, FIRST_COMPLETED)
                job.checkpoint()
                yield from (future.result() for future in done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True, slots=True)
class _PackReading:
    """The reading of one pack: which of its frames hold wanted pages, and where these go."""

    repository: Repository
    batch: Batch
    rows: npt.NDArray[np.void]
    block_size: int
    job: Job
    damaged: Callable[[DataError], None] | None

    def run(self, versions: Sequence[ObjectInfo], sink: PageSink) -> int:
        try:
            try:
                reader = self.repository.open_pack(versions[0], versions[1:])
                needed = self._needed(reader, versions[0].key)
            except DataError as error:
                _report(self.damaged, _with_victims(error, self.batch, self.rows, 0, _ALL_PAGES))
                return 0
            delivery = _Delivery(self.rows, self.batch, self.block_size, sink)
            read = 0
            for first, count in stretches(needed, reader.index.offsets):
                self.job.checkpoint()
                read += self._frames(reader, first, count, delivery)
            return read
        finally:
            sink.close()

    def _needed(self, reader: PackReader, key: str) -> npt.NDArray[np.int64]:
        index, firsts = reader.index, self.rows["page"].astype(np.int64)
        ends = firsts + self.rows["pages"]
        if index.page_size != self.block_size or int(ends.max()) > index.page_count:
            raise DataError("a map names pages that its pack does not have", key=key)
        return np.flatnonzero(index.frames_of(firsts, ends))

    def _frames(self, reader: PackReader, first: int, count: int, delivery: _Delivery) -> int:
        index = reader.index
        sealed = memoryview(reader.read_frames(first, count))
        base = int(index.offsets[first])
        for frame in range(first, first + count):
            start, end = int(index.offsets[frame]) - base, int(index.offsets[frame + 1]) - base
            first_page, last_page = int(index.first_pages[frame]), int(index.first_pages[frame + 1])
            try:
                plain = reader.open_frame(frame, sealed[start:end], self.repository.hashes)
            except DataError as error:
                _report(self.damaged, _with_victims(error, self.batch, self.rows, first_page, last_page))
                continue
            delivery.frame(memoryview(plain), first_page, last_page)
        return len(sealed)


def _report(damaged: Callable[[DataError], None] | None, error: DataError) -> None:
    if damaged is None:
        raise error
    damaged(error)


class _Delivery:
    """Gives the pages of a pack's frames, in order, to the files that have them."""

    def __init__(self, rows: npt.NDArray[np.void], batch: Batch, block_size: int, sink: PageSink) -> None:
        fields = ("page", "pages", "file", "file_page")
        self._rows = list(zip(*(rows[name].tolist() for name in fields), strict=True))
        self._files = batch.files
        self._block_size = block_size
        self._sink = sink
        self._next = 0

    def frame(self, plain: memoryview, first: int, last: int) -> None:
        """`plain` holds the pack pages from `first` up to, not including, `last`."""
        size, unfinished = self._block_size, None
        number = self._next
        while number < len(self._rows):
            at, pages, file, file_page = self._rows[number]
            if at >= last:
                break
            begin, end = max(at, first), min(at + pages, last)
            if begin < end:
                piece = plain[(begin - first) * size : (end - first) * size]
                self._sink.take(self._files[file], file_page + begin - at, piece)
            if at + pages > last and unfinished is None:
                unfinished = number
            number += 1
        self._next = number if unfinished is None else unfinished


def _with_victims(
    error: DataError, batch: Batch, rows: npt.NDArray[np.void], first: int, last: int
) -> DataError:
    """The same error, with the files and pages that lie in the frame."""
    hit = rows[(rows["page"] < last) & (rows["page"].astype(np.int64) + rows["pages"] > first)]
    named = []
    for place in hit[:5]:
        begin = int(place["file_page"]) + max(first - int(place["page"]), 0)
        pages = min(int(place["page"]) + int(place["pages"]), last) - max(int(place["page"]), first)
        path = printable(batch.files[int(place["file"])].path)
        named.append(f"{path} pages {begin} to {begin + pages - 1}")
    more = f" and {len(hit) - 5} more files" if len(hit) > 5 else ""
    return DataError(error.message, hint=error.hint, **error.context, files="; ".join(named) + more)


def stretches(frames: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Neighbouring frames in pieces of a few megabytes: the first one and how many."""
    start = 0
    while start < len(frames):
        end = start + 1
        while (
            end < len(frames)
            and frames[end] == frames[end - 1] + 1
            and offsets[frames[end] + 1] - offsets[frames[start]] <= _READ_AT_ONCE
        ):
            end += 1
        yield int(frames[start]), end - start
        start = end
