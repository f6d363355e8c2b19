"""The list of a dump, whatever its names hold."""

from __future__ import annotations

import pytest

from pgproof.model.dump_contents import entries
from pgproof.model.dump_list import list_for_table
from pgproof.model.table_names import TableName


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_line_feeds_end_an_entry(odd: str) -> None:
    name = f"a{odd}9; 0 9 TABLE DATA public other owner"
    ours = f"7; 0 16384 TABLE DATA public {name} owner"
    listing = f"{ours}\n8; 0 16385 TABLE DATA public b owner\n"
    assert list_for_table(listing, TableName("public", name)) == f"{ours}\n"


def test_numbers_have_no_more_digits_than_pg_restore_writes() -> None:
    assert [
        each.number for each in entries(f"{'9' * 5000}; 1 2 x\n٣; 1 2 x\n3; 1259 4294967295 TABLE x")
    ] == [3]
    (entry,) = entries(f"3; 1 2 VIEW x\n;\tdepends on: 5 {'9' * 5000}\n;\tdepends on: 5 6\n")
    assert entry.needs == (5, 6)
