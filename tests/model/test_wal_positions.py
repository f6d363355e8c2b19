"""LSNs and segment names, against PostgreSQL's own arithmetic and for every segment size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.lsn import Lsn, WalSegment, segments_between
from tests.support.postgres import Cluster

MB = 1 << 20
sizes = st.sampled_from([MB << n for n in range(11)])
lsns = st.integers(0, 2**64 - 1).map(Lsn)
# Hexadecimal in names: 0x0A and 0x1F are where decimal readers go wrong.
timelines = st.one_of(st.sampled_from([1, 0x0A, 0x10, 0x1F, 2**32 - 1]), st.integers(1, 2**32 - 1))


@given(lsns)
def test_an_lsn_is_read_as_it_is_printed(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn
    assert Lsn.parse(str(lsn).lower()) == lsn


@given(lsns, lsns)
def test_lsns_are_ordered_as_positions(one: Lsn, two: Lsn) -> None:
    assert (one < two) == (one.value < two.value)
    assert two + (one - two) == one


@pytest.mark.parametrize(
    "text", ["", "0", "/", "0/", "/0", "0/0/0", "123456789/0", "0/123456789", "G/0", "-1/0", "+1/0", "1_0/0"]
)
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


@given(st.text(alphabet="0123456789ABCDEFabcdef/ _+-x", max_size=20))
def test_whatever_is_read_is_printed_the_same(text: str) -> None:
    try:
        lsn = Lsn.parse(text)
    except ValueError:
        return
    high, low = text.split("/")
    assert str(lsn) == f"{high.lstrip('0') or '0'}/{low.lstrip('0') or '0'}".upper()


@given(timelines, lsns, sizes)
def test_a_segment_is_read_by_its_name(timeline: int, lsn: Lsn, size: int) -> None:
    segment = WalSegment.containing(timeline, lsn, size)
    assert WalSegment.parse(segment.name, size) == segment
    assert segment.start <= lsn
    assert lsn.value < segment.end.value
    assert segment.start == lsn.segment_start(size)
    assert segment.next().start == segment.end


@given(timelines, lsns, st.integers(0, 40), sizes)
def test_segments_cover_a_stretch_and_no_more(timeline: int, start: Lsn, count: int, size: int) -> None:
    stop = start + count * size // 3
    segments = segments_between(timeline, start, stop, size)
    assert segments[0].start <= start
    assert segments[-1].end.value >= stop.value
    assert all(a.end == b.start for a, b in itertools.pairwise(segments))
    assert all(s.start < stop for s in segments[1:])


def test_a_stop_on_a_boundary_needs_no_further_segment() -> None:
    assert [s.number for s in segments_between(1, Lsn(0), Lsn(MB), MB)] == [0]
    assert [s.number for s in segments_between(1, Lsn(0), Lsn(MB + 1), MB)] == [0, 1]
    assert [s.number for s in segments_between(1, Lsn(5), Lsn(5), MB)] == [0]


@pytest.mark.parametrize(
    "name", ["", "0" * 23, "0" * 25, "00000001000000000000000g", "00000001000000000000000a"]
)
def test_what_is_no_segment_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a WAL segment"):
        WalSegment.parse(name, 16 * MB)


def test_a_name_beyond_the_last_of_its_size_is_refused() -> None:
    assert WalSegment.parse("0000000A00000001000000FF", 16 * MB).end == Lsn(2 << 32)
    with pytest.raises(ValueError, match="of 16777216 bytes"):
        WalSegment.parse("0000000A0000000100000100", 16 * MB)
    assert WalSegment.parse("0000001F0000000100000FFF", MB).timeline == 0x1F


def test_names_are_the_servers(pg18: Cluster) -> None:
    for text in ("0/1", "0/FFFFFF", "0/1000000", "16/B374D848", "FFFFFFFF/FFFFFFFE"):
        name = pg18.psql(f"SELECT pg_walfile_name('{text}')")
        assert WalSegment.containing(1, Lsn.parse(text), 16 * MB).name == name
