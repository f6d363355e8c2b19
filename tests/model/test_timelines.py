"""History files, against PostgreSQL's own and for every shape that is none; paths through random trees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn
from pgproof.model.timelines import Switch, TimelineHistory


@st.composite
def histories(draw: st.DrawFn) -> TimelineHistory:
    numbers = sorted(draw(st.sets(st.integers(1, 2**32 - 1), min_size=1, max_size=6)))
    positions = sorted(
        draw(st.lists(st.integers(0, 2**64 - 1), min_size=len(numbers) - 1, max_size=len(numbers) - 1))
    )
    switches = zip(numbers[:-1], map(Lsn, positions), strict=True)
    return TimelineHistory(numbers[-1], tuple(Switch(*each) for each in switches))


def printed(history: TimelineHistory, end: str = "\n") -> bytes:
    return "".join(
        f"{s.timeline}\t{s.at}\tno recovery target specified{end}" for s in history.switches
    ).encode()


@given(histories())
def test_a_history_is_read_as_it_is_printed(history: TimelineHistory) -> None:
    assert TimelineHistory.parse(history.timeline, printed(history)) == history
    with_notes = b"# a comment\n\n" + printed(history, "\n\n  # another\n")
    assert TimelineHistory.parse(history.timeline, with_notes) == history


@given(histories(), st.integers(0, 2**64 - 1).map(Lsn))
def test_every_position_lies_in_one_span(history: TimelineHistory, lsn: Lsn) -> None:
    inside = [span for span in history.spans() if lsn in span]
    assert [span.timeline for span in inside] == [history.timeline_at(lsn)]
    assert history.passes(history.timeline_at(lsn), lsn)
    assert not history.passes(history.timeline + 1, lsn)


def test_whoever_stands_behind_a_switch_is_on_another_branch() -> None:
    history = TimelineHistory(5, (Switch(1, Lsn(100)), Switch(3, Lsn(200))))
    assert [(s.timeline, s.start.value, s.end and s.end.value) for s in history.spans()] == [
        (1, 0, 100),
        (3, 100, 200),
        (5, 200, None),
    ]
    assert history.passes(1, Lsn(100)), "the very end of what was kept"
    assert not history.passes(1, Lsn(101))
    assert not history.passes(2, Lsn(50))
    assert (history.parent, history.begin) == (3, Lsn(200))
    assert (TimelineHistory(1).parent, TimelineHistory(1).begin) == (None, Lsn(0))


@pytest.mark.parametrize(
    "content",
    [
        b"1\n",
        b"1\t0/0/0\tx\n",
        b"x\t0/100\tx\n",
        b"-1\t0/100\tx\n",
        b"1\t0/G\tx\n",
        b"1 0/100000000\tx\n",
        b"0\t0/100\tx\n",
        b"2\t0/100\tx\n1\t0/200\ty\n",
        b"1\t0/100\tx\n1\t0/200\ty\n",
        b"1\t0/200\tx\n2\t0/100\ty\n",
        b"7\t0/100\tx\n",
        b"9\t0/100\tx\n",
        b"\xff\xfe\n",
        b"1\t0/100\tx\n" + bytes(5 << 20),
    ],
)
def test_what_is_no_history_of_this_timeline_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="timeline history"):
        TimelineHistory.parse(7, content)


def test_a_last_timeline_out_of_range_is_refused() -> None:
    with pytest.raises(DataError, match="not in order"):
        TimelineHistory.parse(2**32, b"1\t0/100\tx\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_history_or_refused(content: bytes) -> None:
    try:
        found = TimelineHistory.parse(9, content)
    except DataError:
        return
    assert TimelineHistory.parse(9, printed(found)) == found
