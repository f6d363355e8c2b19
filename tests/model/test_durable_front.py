"""The one number that lets PostgreSQL recycle WAL never passes a hole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.durable_front import DurableFront
from pgproof.model.lsn import Lsn

_START = 1000
_RANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=40)


@given(_RANGES)
def test_the_front_is_the_end_of_what_is_stored_without_a_hole(ranges: list[tuple[int, int]]) -> None:
    front, stored, before = DurableFront(Lsn(_START)), set[int](), Lsn(_START)
    for offset, length in ranges:
        # Some begin below the front, as after a reconnect, and they come in any order.
        start = _START - 50 + offset
        stored.update(range(start, start + length))
        now = front.stored(Lsn(start), Lsn(start + length))
        expected = _START
        while expected in stored:
            expected += 1
        assert now == front.lsn == Lsn(expected)
        assert now >= before, "what was acknowledged stays acknowledged"
        before = now


@given(_RANGES, st.randoms())
def test_the_order_of_the_uploads_changes_nothing(ranges: list[tuple[int, int]], chance: object) -> None:
    shuffled = list(ranges)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    fronts = []
    for order in (ranges, shuffled):
        front = DurableFront(Lsn(_START))
        for offset, length in order:
            front.stored(Lsn(_START + offset), Lsn(_START + offset + length))
        fronts.append(front.lsn)
    assert fronts[0] == fronts[1]
