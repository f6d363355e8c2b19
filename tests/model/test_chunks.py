"""Cuts of a dump: nothing is lost, sizes have bounds, and what did not change is found again; records and their damage."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.chunks import (
    HEAD_LENGTH,
    LEAST,
    LOOK_AHEAD,
    MOST,
    RECORD_SIZE,
    contents,
    cuts,
    put_record,
)

PAGE = 8192


def chunks(data: bytes, at_once: int = LOOK_AHEAD) -> list[bytes]:
    """As a dump is cut that comes in pieces of `at_once` bytes."""
    rest, found = memoryview(data), []
    while rest:
        at = 0
        for end in cuts(rest[:at_once], final=len(rest) <= at_once):
            found.append(bytes(rest[at:end]))
            at = end
        rest = rest[at:]
    return found


@st.composite
def dumps(draw: st.DrawFn) -> bytes:
    """Rows of one kind of length: none, tiny, all equal, ordinary, longer than a chunk."""
    random_bytes = random.Random(draw(st.integers(0, 1 << 30)))
    length = draw(st.sampled_from([0, 1, 7, 60, 4000, 200_000, 700_000]))
    total = draw(st.sampled_from([0, 1, LEAST, MOST, MOST + 1, 3 * MOST]))
    same = draw(st.booleans())
    row = random_bytes.randbytes(length).replace(b"\n", b"!")
    rows = []
    size = 0
    while size < total:
        row = row if same else random_bytes.randbytes(length).replace(b"\n", b"!")
        rows.append(row + b"\n")
        size += len(rows[-1])
    return b"".join(rows)[: total if draw(st.booleans()) else None]


@given(dumps(), st.sampled_from([LOOK_AHEAD, LOOK_AHEAD + 5, 4 << 20]))
def test_chunks_are_the_dump_and_none_is_too_large_or_too_small(data: bytes, at_once: int) -> None:
    found = chunks(data, at_once)
    assert b"".join(found) == data
    assert all(0 < len(chunk) <= MOST for chunk in found)
    assert all(len(chunk) > LEAST for chunk in found[:-1])
    # How much is looked at decides nothing.
    assert found == chunks(data)


def rows(numbers: Iterator[int] | range) -> list[bytes]:
    return [b"%d\t%s\towner of %d\n" % (n, b"x" * (n * 7919 % 90), n) for n in numbers]


@settings(max_examples=25)
@given(st.integers(0, 99_999), st.integers(0, 3))
def test_rows_that_come_go_or_change_touch_only_the_chunks_beside_them(at: int, what: int) -> None:
    before = rows(range(100_000))
    after = list(before)
    match what:
        case 0:
            del after[at : at + 3]
        case 1:
            after[at:at] = rows(range(1_000_000, 1_000_020))
        case 2:
            after[at] = b"changed\n"
        case _:
            after += after[:100]
    known = set(chunks(b"".join(before)))
    new = [chunk for chunk in chunks(b"".join(after)) if chunk not in known]
    assert sum(map(len, new)) <= 4 * MOST, "a cut moved that had nothing to do with the change"
    assert len(new) <= 6


def test_rows_that_are_all_the_same_and_files_without_rows_make_large_chunks() -> None:
    assert len(chunks(b"\\N\t\\N\n" * 1_000_000)) < 14
    assert [len(chunk) for chunk in chunks(bytes(MOST * 2 + 5))] == [MOST, MOST, 5]


def stored(pieces: list[bytes], page_size: int = PAGE) -> bytes:
    room = memoryview(bytearray(RECORD_SIZE))
    found = b""
    for piece in pieces:
        pages = put_record(memoryview(piece), room, page_size)
        found += bytes(room[: pages * page_size])
    return found


@given(st.lists(st.binary(min_size=1, max_size=40_000), max_size=5), st.integers(1, 9))
def test_records_give_back_what_they_hold_however_their_pages_come(pieces: list[bytes], pages: int) -> None:
    data = stored(pieces)
    assert len(data) % PAGE == 0
    step = pages * PAGE
    assert list(contents((data[at : at + step] for at in range(0, len(data), step)), PAGE)) == pieces


def test_the_largest_record_fills_its_room() -> None:
    assert len(stored([bytes(MOST)])) == RECORD_SIZE


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d: bytes(HEAD_LENGTH) + d[HEAD_LENGTH:], id="no length"),
        pytest.param(lambda d: b"\xff\xff\xff\xff" + d[HEAD_LENGTH:], id="a length beyond all"),
        pytest.param(lambda d: d[:-1] + b"!", id="something behind the end"),
        pytest.param(lambda d: d[:-PAGE], id="cut short"),
        pytest.param(lambda d: d + b"\1\0\0", id="cut in a length"),
        pytest.param(lambda d: d + bytes(PAGE), id="an empty record"),
    ],
)
def test_what_is_no_record_is_damage(damage: object) -> None:
    data = stored([b"a" * 20_000])
    assert callable(damage)
    with pytest.raises(DataError):
        list(contents([damage(data)], PAGE))
