"""Maps: what a builder wrote is read back, and what nobody wrote is refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.filemap import (
    DIRECTORY,
    FILE,
    RUN_TYPE,
    ZEROS,
    Segment,
    SegmentBuilder,
    bitmap_of,
    check_path,
    decode_segment,
    numbers_of,
)

PAGE = 8192
OWNERS = ("20261123T213000Z-full-000001", "20261123T213000Z-incremental-000002")

names = st.binary(min_size=1, max_size=8).filter(
    lambda b: b"/" not in b and b"\0" not in b and b.strip(b".") != b""
)
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)


@st.composite
def runs_for(draw: st.DrawFn, pages: int) -> list[tuple[int, ...]]:
    """Rows that cover `pages` pages in order."""
    rows: list[tuple[int, ...]] = []
    at = 0
    while at < pages:
        length = draw(st.integers(1, pages - at))
        owner = draw(st.sampled_from([0, 1, ZEROS]))
        place = (0, 0) if owner == ZEROS else (draw(st.integers(0, 5)), draw(st.integers(0, 2**31)))
        rows.append((at, length, owner, *place))
        at += length
    return rows


@st.composite
def segments(
    draw: st.DrawFn,
) -> tuple[SegmentBuilder, list[tuple[bytes, int, int, int, list[tuple[int, ...]]]]]:
    builder, files = SegmentBuilder(), []
    for path in sorted(draw(st.sets(paths, min_size=1, max_size=6))):
        kind = draw(st.sampled_from([FILE, DIRECTORY]))
        size = draw(st.integers(0, 5 * PAGE)) if kind == FILE else 0
        mode = draw(st.integers(0, 0o7777))
        rows = draw(runs_for(-(-size // PAGE)))
        builder.add(path, kind, size, mode, np.array(rows, RUN_TYPE), OWNERS)
        files.append((path, kind, size, mode, rows))
    return builder, files


@given(segments())
def test_a_segment_is_read_as_it_was_written(
    made: tuple[SegmentBuilder, list[tuple[bytes, int, int, int, list[tuple[int, ...]]]]],
) -> None:
    builder, files = made
    segment = decode_segment(builder.encode(), PAGE)
    assert [(e.path, e.kind, e.size, e.mode) for e in segment.files] == [f[:4] for f in files]
    for entry, (*_rest, rows) in zip(segment.files, files, strict=True):
        found = [
            (*row[:2], row[2] if row[2] == ZEROS else OWNERS.index(segment.owners[row[2]]), *row[3:])
            for row in segment.runs_of(entry).tolist()
        ]
        assert found == rows
    assert builder.bytes == sum(f[2] for f in files)
    assert builder.first == files[0][0]


@given(segments(), st.data())
def test_a_changed_segment_is_refused_or_still_sound(
    made: tuple[SegmentBuilder, list[tuple[bytes, int, int, int, list[tuple[int, ...]]]]], data: st.DataObject
) -> None:
    payload = bytearray(made[0].encode())
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        _must_be_sound(decode_segment(bytes(payload), PAGE))


@given(segments(), st.data())
def test_a_cut_or_longer_segment_is_refused(
    made: tuple[SegmentBuilder, list[tuple[bytes, int, int, int, list[tuple[int, ...]]]]], data: st.DataObject
) -> None:
    payload = made[0].encode()
    with pytest.raises(DataError):
        decode_segment(payload[: data.draw(st.integers(0, len(payload) - 1))], PAGE)
    with pytest.raises(DataError):
        decode_segment(payload + data.draw(st.binary(min_size=1, max_size=40)), PAGE)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_sound(payload: bytes) -> None:
    with contextlib.suppress(DataError):
        _must_be_sound(decode_segment(payload, PAGE))


def test_lengths_that_would_need_all_memory_are_refused() -> None:
    with pytest.raises(DataError):
        decode_segment(b"\xff" * 16 + b"\0" * 100, PAGE)


def _must_be_sound(segment: Segment) -> None:
    """Every file's pages are covered once and in order, by owners that are listed, at paths that stay inside."""
    last = b""
    for entry in segment.files:
        check_path(entry.path)
        assert entry.path > last
        last, at = entry.path, 0
        for file_page, pages, owner, _pack, _pack_page in segment.runs_of(entry).tolist():
            assert file_page == at
            assert owner == ZEROS or owner < len(segment.owners)
            at += pages
        assert at == (-(-entry.size // PAGE) if entry.kind == FILE else 0)


@pytest.mark.parametrize(
    "path", [b"", b"/etc/passwd", b"a//b", b"a/", b"./a", b"a/../b", b"..", b"a\0b", b"a" * 4097]
)
def test_a_path_that_leads_elsewhere_is_refused(path: bytes) -> None:
    with pytest.raises(DataError):
        check_path(path)
    builder = SegmentBuilder()
    builder.add(path, FILE, 0, 0o600, np.empty(0, RUN_TYPE), ())
    with pytest.raises(DataError):
        decode_segment(builder.encode(), PAGE)


@pytest.mark.parametrize("order", [[b"b", b"a"], [b"a", b"a"]])
def test_paths_out_of_order_or_twice_are_refused(order: list[bytes]) -> None:
    builder = SegmentBuilder()
    for path in order:
        builder.add(path, FILE, 0, 0o600, np.empty(0, RUN_TYPE), ())
    with pytest.raises(DataError, match="order"):
        decode_segment(builder.encode(), PAGE)


@given(st.sets(st.integers(0, 3000)))
def test_a_bitmap_holds_its_numbers(numbers: set[int]) -> None:
    bitmap = bitmap_of(sorted(numbers))
    assert numbers_of(bitmap) == sorted(numbers)
    assert len(bitmap) == (max(numbers) // 8 + 1 if numbers else 0)
    for number in numbers:
        assert bitmap[number // 8] >> number % 8 & 1
