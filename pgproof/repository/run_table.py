"""Where the pages of every file went, as a backup finds it out: rows of six numbers, in any order.

Rows beyond a bounded number wait in a file without a name, sorted; then one file's rows are found by bisection.
"""

from __future__ import annotations

import mmap
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pgproof.model.filemap import RUN_TYPE, ZEROS, Runs, distinct
from pgproof.repository.in_file import forget, in_file

ROWS_IN_MEMORY = 1 << 19
_FORGET_EVERY = 16 << 20
# So few runs are cheaper one by one than by numpy.
_FEW = 8
_COLUMNS = 6
_FILE, _FILE_PAGE, _PAGES, _OWNER, _PACK, _PACK_PAGE = range(_COLUMNS)
_RUN_NAMES = ("file_page", "pages", "owner", "pack", "pack_page")
_Table = npt.NDArray[np.uint32]
_NOTHING: _Table = np.empty((_COLUMNS, 0), np.uint32)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Columns of rows that are sorted by file and page; `first` and `last` are file numbers.

    `starts`, if there is one, says where the rows of each file between them begin, and those of the last one end.
    """

    columns: _Table
    first: int
    last: int
    memory: mmap.mmap | None = None
    starts: npt.NDArray[np.int64] | None = None

    def rows_of(self, file: int) -> _Table:
        if self.starts is not None:
            at = file - self.first
            start, end = self.starts[at], self.starts[at + 1]
        else:
            start, end = np.searchsorted(self.columns[_FILE], [file, file + 1])
        return self.columns[:, start:end]

    def forget(self) -> None:
        if self.memory is not None:
            forget(self.memory)


class RunTable:
    """Add runs, then `finish`, then ask for the rows of each file. Owners are numbers that the caller gives."""

    def __init__(self, rows_in_memory: int = ROWS_IN_MEMORY) -> None:
        self._rows = array("I")
        self._most = rows_in_memory * _COLUMNS
        # Where the last row of each owner begins: what follows it without a break makes it longer.
        self._last: dict[int, int] = {}
        self._chunks: list[_Chunk] = []
        self._read = 0
        self._packs: dict[int, set[int]] = {}
        self._pages: dict[int, int] = {}

    def add(self, file: int, file_page: int, pages: int, owner: int, pack: int, pack_page: int) -> None:
        rows = self._rows
        self._pages[owner] = self._pages.get(owner, 0) + pages
        at = self._last.get(owner)
        if (
            at is not None
            and rows[at] == file
            and rows[at + _PACK] == pack
            and rows[at + _FILE_PAGE] + rows[at + _PAGES] == file_page
            and rows[at + _PACK_PAGE] + rows[at + _PAGES] == pack_page
        ):
            rows[at + _PAGES] += pages
            return
        self._packs.setdefault(owner, set()).add(pack)
        if len(rows) >= self._most:
            self._spool()
            rows = self._rows
        self._last[owner] = len(rows)
        rows.extend((file, file_page, pages, owner, pack, pack_page))

    def extend(self, file: int, runs: Runs) -> None:
        """Add many runs of one file at once; their owners are the caller's numbers, or ZEROS."""
        if len(runs) <= _FEW:
            for run in runs.tolist():
                self.add(file, *run)
            return
        if len(self._rows) >= self._most:
            self._spool()
        table = np.empty((len(runs), _COLUMNS), np.uint32)
        table[:, _FILE] = file
        for name, column in zip(_RUN_NAMES, range(_FILE_PAGE, _COLUMNS), strict=True):
            table[:, column] = runs[name]
        self._rows.frombytes(table.tobytes())
        for owner in distinct(runs["owner"]):
            its = runs["owner"] == owner
            self._pages[owner] = self._pages.get(owner, 0) + int(runs["pages"][its].sum(dtype=np.int64))
            self._packs.setdefault(owner, set()).update(distinct(runs["pack"][its]))

    def finish(self) -> None:
        if self._rows:
            self._chunks.append(_chunk(self._take_rows()))

    def packs(self, owner: int) -> list[int]:
        """The packs of this owner that any row names, ascending."""
        return sorted(self._packs.get(owner, ()))

    def pages(self, owner: int) -> int:
        """How many pages lie in this owner's packs."""
        return self._pages.get(owner, 0)

    def rows_of(self, file: int) -> Runs:
        """The runs of one file, in order of its pages."""
        parts = [chunk.rows_of(file) for chunk in self._chunks if chunk.first <= file <= chunk.last]
        table = parts[0] if len(parts) == 1 else np.concatenate([_NOTHING, *parts], axis=1)
        self._read += table.nbytes
        if self._read > _FORGET_EVERY:
            self._read = 0
            for chunk in self._chunks:
                chunk.forget()
        if len(parts) > 1:
            table = table[:, np.argsort(table[_FILE_PAGE], kind="stable")]
        return _as_runs(_joined(table))

    def _take_rows(self) -> _Table:
        rows = np.frombuffer(self._rows, np.uint32).reshape(-1, _COLUMNS).T
        self._rows, self._last = array("I"), {}
        return rows[:, np.lexsort((rows[_FILE_PAGE], rows[_FILE]))]

    def _spool(self) -> None:
        rows = self._take_rows()
        memory = in_file([rows], "the map of the backup")
        mapped = np.frombuffer(memory or b"", np.uint32).reshape(rows.shape)
        self._chunks.append(_chunk(mapped, memory))


def _chunk(rows: _Table, memory: mmap.mmap | None = None) -> _Chunk:
    first, last = int(rows[_FILE, 0]), int(rows[_FILE, -1])
    starts = None
    if memory is None and last - first < 2 * rows.shape[1]:
        # Cheaper than a search for each file; not of what waits in a file, so that memory stays bounded.
        starts = np.searchsorted(rows[_FILE], np.arange(first, last + 2, dtype=np.uint32))
    return _Chunk(rows, first, last, memory, starts)


def _joined(table: _Table) -> _Table:
    """Rows that continue each other as one."""
    if table.shape[1] < 2:
        return table
    before, after = table[:, :-1], table[:, 1:]
    continues = (
        (before[_OWNER] == after[_OWNER])
        & (before[_PACK] == after[_PACK])
        & ((before[_PACK_PAGE] + before[_PAGES] == after[_PACK_PAGE]) | (before[_OWNER] == ZEROS))
    )
    starts = np.flatnonzero(np.concatenate([[True], ~continues]))
    joined = np.array(table[:, starts])
    joined[_PAGES] = np.add.reduceat(table[_PAGES], starts)
    return joined


def _as_runs(table: _Table) -> Runs:
    runs = np.empty(table.shape[1], RUN_TYPE)
    for name, column in zip(_RUN_NAMES, range(_FILE_PAGE, _COLUMNS), strict=True):
        runs[name] = table[column]
    return runs
