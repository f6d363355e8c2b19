"""What comes out of a run table is what went in, in whatever order and however little of it fits into memory."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import TransientError
from pgproof.repository.run_table import RunTable


@st.composite
def placements(draw: st.DrawFn) -> list[tuple[int, int, int, int, int, int]]:
    """Files whose pages are all placed once, some runs continuing others, in any order."""
    chance = random.Random(draw(st.integers(0, 1 << 30)))
    runs = []
    next_page = {owner: chance.randrange(5) for owner in range(3)}
    for file in range(draw(st.integers(1, 8))):
        page = 0
        for _ in range(chance.randrange(6)):
            owner, pages = chance.randrange(3), chance.randrange(1, 4)
            if chance.random() < 0.3:
                next_page[owner] += chance.randrange(1, 9)
            runs.append((file, page, pages, owner, chance.randrange(2), next_page[owner]))
            next_page[owner] += pages
            page += pages
    if draw(st.booleans()):
        chance.shuffle(runs)
    return runs


@given(placements(), st.integers(1, 6))
def test_every_page_is_where_it_was_put(
    runs: list[tuple[int, int, int, int, int, int]], rows_in_memory: int
) -> None:
    table = RunTable(rows_in_memory)
    for run in runs:
        table.add(*run)
    table.finish()
    for file in range(9):
        wanted = {
            page + n: (owner, pack, pack_page + n)
            for number, page, pages, owner, pack, pack_page in runs
            if number == file
            for n in range(pages)
        }
        found = table.rows_of(file)
        starts = np.concatenate([[0], np.cumsum(found["pages"])[:-1]]) if len(found) else np.empty(0)
        assert found["file_page"].tolist() == starts.tolist()
        pages_found = {
            int(row["file_page"]) + n: (int(row["owner"]), int(row["pack"]), int(row["pack_page"]) + n)
            for row in found
            for n in range(int(row["pages"]))
        }
        assert pages_found == wanted
    for owner in range(3):
        assert table.packs(owner) == sorted({run[4] for run in runs if run[3] == owner})
        assert table.pages(owner) == sum(run[2] for run in runs if run[3] == owner)


def test_runs_that_continue_each_other_are_one() -> None:
    table = RunTable(2)
    for page in range(0, 50, 5):
        table.add(0, page, 5, 0, 7, 100 + page)
        table.add(1, page, 5, 1, 8, 200 + page)
    table.finish()
    assert table.rows_of(0).tolist() == [(0, 50, 0, 7, 100)]
    assert table.rows_of(1).tolist() == [(0, 50, 1, 8, 200)]


def test_no_room_for_what_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    table = RunTable(1)
    table.add(0, 0, 1, 0, 0, 0)
    with pytest.raises(TransientError, match="does not fit into the temporary directory"):
        table.add(1, 0, 1, 0, 0, 5)
