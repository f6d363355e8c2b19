"""Whether the base, which was made by WAL summaries, had left out blocks that had changed.

A page whose LSN is below the base's start was the same when that one began, so the base has it, in the same place;
a page of zeros that nothing cut off since was zeros then. What differs all the same was omitted. Not judged are free space
maps, visibility maps (clearing a bit leaves no LSN), pages without an LSN, and pages that fail their checksum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pgproof.model.filemap import ZEROS
from pgproof.model.lsn import Lsn
from pgproof.model.pages import bad_pages
from pgproof.model.relation_files import FSM, VM, RelationFile, relation_file
from pgproof.model.summaries import LimitBlocks
from pgproof.repository.base import NOWHERE, OldPages
from pgproof.repository.comparing import Compared

_KEPT = 10_000
_Mask = npt.NDArray[np.bool_]


class Omitted(NamedTuple):
    """A page that the base should have had: its LSN (0 for zeros), and where what the base has instead lies."""

    path: bytes
    page: int
    lsn: int
    owner: int
    pack: int
    pack_page: int


@dataclass
class Audit:
    """Looks at the pages that differ from a base that began at `since`.

    `limits` say what was cut off since; without them pages of zeros are not judged.
    """

    since: Lsn
    page_size: int
    segment_pages: int
    has_checksums: bool
    limits: LimitBlocks | None = None
    judged: int = 0
    count: int = 0
    omitted: list[Omitted] = field(default_factory=list)

    def look(self, compared: Compared, content: memoryview) -> None:
        """`content` is the frame's, of which `compared` is a part."""
        member, old = compared.member, compared.old
        if member.old is None or not isinstance(old, OldPages) or compared.same.all():
            return
        file = relation_file(member.old.path)
        if file is None or file.fork in (FSM, VM):
            return
        candidates = self._known(compared, old, member.old.length) & self._not_cut(compared, file)
        if not candidates.any():
            return
        first, size = compared.at * self.page_size, self.page_size
        words = np.frombuffer(content[first : first + member.pages * size], "<u4").reshape(member.pages, -1)
        lsn = words[:, 0].astype(np.uint64) << np.uint64(32) | words[:, 1]
        self.judged += int(np.count_nonzero(candidates))
        wrong = candidates & (lsn > 0) & (lsn < np.uint64(self.since.value))
        if self.limits is not None:
            for row in np.flatnonzero(candidates & (lsn == 0)).tolist():
                wrong[row] = not words[row].any() and self._had_something(old, row)
        for row in np.flatnonzero(wrong).tolist():
            page = member.file_page + row
            data = content[first + row * size : first + (row + 1) * size]
            if self.has_checksums and bad_pages(data, file.segment * self.segment_pages + page, size):
                continue  # damaged at the source, which the server tells
            self.count += 1
            if len(self.omitted) < _KEPT:
                where = int(old.owner[row]), int(old.pack[row]), int(old.page[row])
                self.omitted.append(Omitted(member.old.path, page, int(lsn[row]), *where))

    @staticmethod
    def _known(compared: Compared, old: OldPages, length: int) -> _Mask:
        """Pages that differ although it is known what the base has; behind its end it has nothing."""
        behind = compared.member.file_page + np.arange(compared.member.pages) >= length
        known: _Mask = ~compared.same & ((old.owner != NOWHERE) | behind)
        return known

    def _not_cut(self, compared: Compared, file: RelationFile) -> _Mask:
        limit = None if self.limits is None else self.limits.in_file(file, self.segment_pages)
        pages = compared.member.file_page + np.arange(compared.member.pages)
        kept: _Mask = np.ones(len(pages), np.bool_) if limit is None else pages < limit
        return kept

    @staticmethod
    def _had_something(old: OldPages, row: int) -> bool:
        return int(old.owner[row]) not in (NOWHERE, ZEROS)
