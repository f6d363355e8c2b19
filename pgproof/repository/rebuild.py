"""Files of which the server sent only the changed blocks: their map is the base's, with these in their places.

A block that was not sent is the base's only where it cannot have been cut off since: at or above the least length that
the file had meanwhile it is zeros (PostgreSQL logs no pages of zeros at the end of a file, so its summaries lack
them). Pages of visibility maps are inherited only where no block they speak of changed: in version 17
clearing their bits leaves no trace in the summaries, and zeros are always safe there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pgproof.model.filemap import RUN_TYPE, ZEROS, Runs, distinct, printable
from pgproof.model.incremental_file import IncrementalHead
from pgproof.model.relation_files import MAIN, VM, Relation, RelationFile, map_coverage, relation_file
from pgproof.model.summaries import LimitBlocks, SummariesUnusable
from pgproof.repository.base import Base, OldFile

_Mask = npt.NDArray[np.bool_]


class Patch(NamedTuple):
    """What of a file is not sent: its `runs`, for `pages` pages in all. `sent` are the blocks that are."""

    pages: int
    sent: npt.NDArray[np.uint32]
    runs: Runs


@dataclass
class PageCounts:
    """Where the pages of such files come from."""

    sent: int = 0
    inherited: int = 0
    zeroed: int = 0

    def to_json(self) -> dict[str, int]:
        return {"sent": self.sent, "inherited": self.inherited, "zeroed": self.zeroed}


@dataclass(frozen=True, slots=True)
class _Map:
    """A visibility map on its way: which of its pages are inherited is known when all files have come."""

    file: int
    relation: Relation
    old: OldFile
    head: IncrementalHead


class Rebuild:
    """Makes the map of each incremental file from the base's. `segment_pages` are those of a relation's segment."""

    def __init__(self, base: Base, limits: LimitBlocks, page_size: int, segment_pages: int) -> None:
        self.segment_pages = segment_pages
        self.counts = PageCounts()
        self._base = base
        self._limits = limits
        self._covers = map_coverage(page_size)
        self._maps: list[_Map] = []
        # For each heap of which anything changed, the pages of its visibility map that speak of it.
        self._changed: dict[Relation, set[int]] = {}

    def whole(self, path: bytes, pages: int) -> None:
        """A file comes whole."""
        file = relation_file(path)
        if file is not None and file.fork == MAIN:
            first = file.segment * self.segment_pages
            self._note(file.relation, range(first // self._covers, (first + pages) // self._covers + 1))

    def patch(self, number: int, path: bytes, head: IncrementalHead) -> Patch:
        """File `number` comes with the blocks of `head`. Raises SummariesUnusable if the base lacks the others."""
        file, old = relation_file(path), self._base.file(path)
        if self._base.given_up:
            raise SummariesUnusable("the base is damaged", object=min(self._base.given_up))
        if file is None or old is None:
            raise SummariesUnusable("the base lacks a file that the server builds on", path=printable(path))
        self.counts.sent += len(head.blocks)
        if file.fork == VM:
            self._maps.append(_Map(number, file.relation, old, head))
            return Patch(head.pages, head.blocks, np.empty(0, RUN_TYPE))
        if file.fork == MAIN and len(head.blocks):
            blocks = head.blocks.astype(np.int64) + file.segment * self.segment_pages
            self._note(file.relation, distinct((blocks // self._covers).astype(np.uint32)))
        return Patch(head.pages, head.blocks, self._runs(old, head, self._inheritable(file, head)))

    def deferred(self) -> Iterator[tuple[int, Runs]]:
        """The runs of the visibility maps, once all files have come."""
        for each in self._maps:
            keep = np.ones(each.head.pages, np.bool_)
            if self._limits.touches(each.relation):
                keep[:] = False
            for page in self._changed.get(each.relation, ()):
                if page < len(keep):
                    keep[page] = False
            yield each.file, self._runs(each.old, each.head, keep)

    def _note(self, relation: Relation, map_pages: range | list[int]) -> None:
        self._changed.setdefault(relation, set()).update(map_pages)

    def _inheritable(self, file: RelationFile, head: IncrementalHead) -> _Mask | None:
        limit = self._limits.in_file(file, self.segment_pages)
        if limit is None or limit >= head.pages:
            return None
        keep = np.ones(head.pages, np.bool_)
        keep[limit:] = False
        return keep

    def _runs(self, old: OldFile, head: IncrementalHead, keep: _Mask | None) -> Runs:
        """The base's runs for the blocks that were not sent; zeros where `keep` is false and where it has none."""
        if keep is None and not len(head.blocks) and old.length == head.pages <= head.truncation:
            return self._all_of(old)
        owner = np.full(head.pages, ZEROS, np.uint32)
        pack = np.zeros(head.pages, np.uint32)
        page = np.zeros(head.pages, np.uint32)
        there = min(head.pages, head.truncation, old.length)
        runs = old.all_runs()
        lengths = runs["pages"]
        owner[:there] = np.repeat(runs["owner"].astype(np.uint32), lengths)[:there]
        pack[:there] = np.repeat(runs["pack"], lengths)[:there]
        first = np.repeat(runs["pack_page"].astype(np.int64) - runs["file_page"], lengths)[:there]
        page[:there] = (first + np.arange(there)).astype(np.uint32)
        if keep is not None:
            owner[~keep] = ZEROS
        zero = owner == ZEROS
        pack[zero] = page[zero] = 0
        unsent = np.ones(head.pages, np.bool_)
        unsent[head.blocks] = False
        self.counts.zeroed += int(np.count_nonzero(zero & unsent))
        self.counts.inherited += int(np.count_nonzero(~zero & unsent))
        return _as_runs(owner, pack, page, unsent)

    def _all_of(self, old: OldFile) -> Runs:
        """A file that is as it was, as most are: the same as page by page, and many times cheaper."""
        runs = old.all_runs()
        zeroed = int(runs["pages"][runs["owner"] == ZEROS].sum(dtype=np.int64))
        self.counts.zeroed += zeroed
        self.counts.inherited += old.length - zeroed
        return runs


def _as_runs(
    owner: npt.NDArray[np.uint32], pack: npt.NDArray[np.uint32], page: npt.NDArray[np.uint32], wanted: _Mask
) -> Runs:
    """Page by page to runs, of the wanted pages only."""
    pages = len(owner)
    if not pages:
        return np.empty(0, RUN_TYPE)
    breaks = np.ones(pages, np.bool_)
    breaks[1:] = (
        (wanted[1:] != wanted[:-1])
        | (owner[1:] != owner[:-1])
        | (pack[1:] != pack[:-1])
        | ((page[1:].astype(np.int64) - page[:-1] != 1) & (owner[1:] != ZEROS))
    )
    starts = np.flatnonzero(breaks)
    runs = np.empty(len(starts), RUN_TYPE)
    runs["file_page"] = starts
    runs["pages"] = np.diff(np.append(starts, pages))
    runs["owner"], runs["pack"], runs["pack_page"] = owner[starts], pack[starts], page[starts]
    return runs[wanted[starts]]
