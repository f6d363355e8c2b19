"""Which pages of packs are named: the intervals against a plain set of pages."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.filemap import RUN_TYPE, ZEROS, Segment
from pgproof.model.live_pages import LivePages

OWNERS = ("20261124T213000Z-full-000000", "20261125T213000Z-full-000001", "20261126T213000Z-full-000002")
_RUN = st.tuples(st.sampled_from([0, 1, 2, ZEROS]), st.integers(0, 2), st.integers(0, 40), st.integers(1, 12))


@given(st.lists(st.lists(_RUN, max_size=12), max_size=8), st.integers(1, 20))
def test_intervals_are_what_a_set_of_pages_would_be(
    maps: list[list[tuple[int, int, int, int]]], at_once: int
) -> None:
    watched = OWNERS[:2]
    live = LivePages(watched, at_once)
    pages: dict[tuple[str, int], set[int]] = {}
    for number, rows in enumerate(maps):
        # Each map numbers its owners in its own way.
        owners = OWNERS[number % 3 :] + OWNERS[: number % 3]
        runs = np.zeros(len(rows), RUN_TYPE)
        for row, (owner, pack, first, count) in enumerate(rows):
            runs[row] = (0, count, owner, 0, 0) if owner == ZEROS else (0, count, owner, pack, first)
            if owner != ZEROS and owners[owner] in watched:
                pages.setdefault((owners[owner], pack), set()).update(range(first, first + count))
        live.add(Segment((), owners, runs))
    live.finish()
    for owner in OWNERS:
        for pack in range(3):
            firsts, ends = live.of(owner, pack)
            found = [page for first, end in zip(firsts, ends, strict=True) for page in range(first, end)]
            assert found == sorted(pages.get((owner, pack), set()))
            # As few as there can be: none touches the next one.
            assert all(firsts[1:] > ends[:-1])
