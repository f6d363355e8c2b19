"""Which pages of a frame an earlier backup has already: those whose tag is that of the page at the same place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pgproof.model.filemap import ZEROS
from pgproof.repository.base import NOWHERE, OldFile, OldPages, OldRun
from pgproof.repository.frame_slots import FRAME_SIZE, SMALLEST_PAGE

_Mask = npt.NDArray[np.bool_]
_ALL = np.ones(FRAME_SIZE // SMALLEST_PAGE, np.bool_)
_NONE = ~_ALL


class Member(NamedTuple):
    """Some pages of a file that lie in a frame, and the file as an earlier backup has it."""

    file: int
    file_page: int
    pages: int
    old: OldFile | None = None


class Compared(NamedTuple):
    """A member, the page of the frame at which it begins, and which of its pages are `old` ones."""

    member: Member
    at: int
    old: OldRun | OldPages | None
    same: _Mask

    @property
    def unchanged(self) -> bool:
        return isinstance(self.old, OldRun)

    def changed(self) -> Iterator[tuple[int, Member]]:
        """The pages that must be stored: where they begin in the frame, and what they are."""
        for begin, end in _stretches(~self.same):
            yield self.at + begin, Member(self.member.file, self.member.file_page + begin, end - begin)

    def kept(self) -> Iterator[tuple[int, int, int, int, int]]:
        """The others as runs: page of the file, pages, and owner, pack and page where they lie."""
        if self.old is None:
            return
        if isinstance(self.old, OldRun):
            yield (self.member.file_page, self.member.pages, *self.old[:3])
            return
        owner, pack, page, _tags = self.old
        for begin, end in _stretches(self.same):
            breaks = (
                np.flatnonzero(
                    (np.diff(owner[begin:end]) != 0)
                    | (np.diff(pack[begin:end]) != 0)
                    | ((np.diff(page[begin:end].astype(np.int64)) != 1) & (owner[begin + 1 : end] != ZEROS))
                )
                + begin
                + 1
            )
            for first, last in zip([begin, *breaks.tolist()], [*breaks.tolist(), end], strict=True):
                yield (
                    self.member.file_page + first,
                    last - first,
                    int(owner[first]),
                    int(pack[first]),
                    int(page[first]),
                )


def compare(members: Sequence[Member], digests: bytes) -> list[Compared]:
    """`digests` are those of the frame's pages; a page's tag is the beginning of its digest."""
    pages = sum(member.pages for member in members)
    tags = np.frombuffer(digests, "<u8").reshape(pages, -1)[:, 0]
    found = []
    at = 0
    for member in members:
        found.append(_compare(member, at, tags[at : at + member.pages]))
        at += member.pages
    return found


def _compare(member: Member, at: int, tags: npt.NDArray[np.uint64]) -> Compared:
    if member.old is None:
        return Compared(member, at, None, _NONE[: member.pages])
    run = member.old.run_of(member.file_page, member.pages)
    if run is not None and run.tags.tobytes() == tags.tobytes():
        return Compared(member, at, run, _ALL[: member.pages])
    old = member.old.pages(member.file_page, member.pages)
    return Compared(member, at, old, (old.tags == tags) & (old.owner != NOWHERE))


def _stretches(mask: _Mask) -> Iterator[tuple[int, int]]:
    """Where the mask is true without a break: beginnings and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
