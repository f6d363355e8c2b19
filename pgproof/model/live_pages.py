"""Which pages of packs are named by any of many maps: intervals, merged as they come. Pure.

Memory goes by how scattered the pages are and not by how many maps name them: 24 bytes an interval, five times that while they
are merged.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from pgproof.model.filemap import ZEROS, Segment

_TYPE = np.dtype([("owner", "<u4"), ("pack", "<u4"), ("first", "<i8"), ("end", "<i8")])
# Merged when so many have come on top of what is there.
_AT_ONCE = 2_000_000
_Table = npt.NDArray[np.void]
Pages = npt.NDArray[np.int64]


class LivePages:
    """Takes maps; tells for packs of `owners` which intervals of pages any of them names."""

    def __init__(self, owners: Collection[str], at_once: int = _AT_ONCE) -> None:
        self._numbers = {owner: number for number, owner in enumerate(sorted(owners))}
        self._at_once = at_once
        self._merged = np.empty(0, _TYPE)
        self._coming: list[_Table] = []
        self._count = 0

    def add(self, segment: Segment) -> None:
        wanted = np.array([owner in self._numbers for owner in segment.owners], np.bool_)
        if not wanted.any():
            return
        runs = segment.runs[segment.runs["owner"] != ZEROS]
        runs = runs[wanted[runs["owner"]]]
        numbers = np.array([self._numbers.get(owner, 0) for owner in segment.owners], np.uint32)
        table = np.empty(len(runs), _TYPE)
        table["owner"], table["pack"] = numbers[runs["owner"]], runs["pack"]
        table["first"] = runs["pack_page"]
        table["end"] = table["first"] + runs["pages"]
        self._coming.append(table)
        self._count += len(table)
        if self._count >= max(self._at_once, len(self._merged)):
            self._merge()

    def finish(self) -> None:
        """To be called when all maps are added, and before anything is asked: several threads may ask then."""
        self._merge()

    def of(self, owner: str, pack: int) -> tuple[Pages, Pages]:
        """The first pages of the intervals of this pack, and the pages behind their last ones, in order."""
        assert not self._coming, "not finished"
        number = self._numbers.get(owner)
        if number is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        # Of the columns' own type: otherwise numpy would convert the whole column each time.
        left, right = np.searchsorted(self._merged["owner"], np.array([number, number + 1], np.uint32))
        packs = self._merged["pack"][left:right]
        begin, end = left + np.searchsorted(packs, np.array([pack, pack + 1], np.uint32))
        rows = self._merged[begin:end]
        return rows["first"], rows["end"]

    def _merge(self) -> None:
        table = np.concatenate([self._merged, *self._coming])
        self._coming, self._count = [], 0
        table = table[np.lexsort((table["first"], table["pack"], table["owner"]))]
        other = np.ones(len(table), np.bool_)
        other[1:] = (table["owner"][1:] != table["owner"][:-1]) | (table["pack"][1:] != table["pack"][:-1])
        # One axis for all packs, so that one pass finds where an interval ends: a pack has less than 2^33 pages.
        axis = (np.cumsum(other) - 1) << 33
        reach = np.maximum.accumulate(axis + table["end"])
        begins = np.ones(len(table), np.bool_)
        begins[1:] = axis[1:] + table["first"][1:] > reach[:-1]
        starts = np.flatnonzero(begins)
        merged = table[starts]
        if len(starts):
            lasts = np.append(starts[1:], len(table)) - 1
            merged["end"] = reach[lasts] - axis[lasts]
        self._merged = merged
