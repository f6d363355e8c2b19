"""Many parts of an open segment become few, for a price that stays small."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.model.lsn import WalSegment
from pgproof.model.wal_merging import covers, longest, worth_merging
from pgproof.model.wal_names import StoredRange

SEGMENT = WalSegment(1, 7, 16 << 20)


def part(start: int, end: int) -> StoredRange:
    return StoredRange(SEGMENT, start, end)


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([8, 200, 5_000, 40_000]), min_size=1, max_size=3),
    st.integers(1, 1500),
    st.sampled_from([4, 64]),
)
def test_few_parts_stay_and_little_is_rewritten(lengths: list[int], count: int, most: int) -> None:
    parts: list[StoredRange] = []
    end = rewritten = 0
    for number in range(count):
        length = lengths[number % len(lengths)]
        if end + length > SEGMENT.size:
            break
        parts.append(part(end, end + length))
        end += length
        merged = worth_merging(parts, most)
        if merged is not None:
            rewritten += merged.length
            parts = [each for each in parts if not covers(merged, each)] + [merged]
        # Each is a third of all behind it at least, so they are as few as their lengths allow.
        assert len(parts) < max(most, math.log(SEGMENT.size, 4 / 3)) + 1
        assert [each.start for each in parts[1:]] == [each.end for each in parts[:-1]]
    assert rewritten <= end * (2 + math.log(max(2, end / min(lengths)), 4 / 3))


def test_equal_parts_are_rewritten_a_few_times() -> None:
    """A synchronous server's small commits fill a segment."""
    parts: list[StoredRange] = []
    rewritten, length = 0, 256
    for start in range(0, SEGMENT.size, length):
        parts.append(part(start, start + length))
        merged = worth_merging(parts)
        if merged is not None:
            rewritten += merged.length
            parts = [each for each in parts if not covers(merged, each)] + [merged]
    print(f"rewritten {rewritten / SEGMENT.size:.1f} times, {len(parts)} parts at the end")
    assert rewritten < 5 * SEGMENT.size
    assert len(parts) < 64


def test_what_another_part_covers_does_not_count() -> None:
    parts = [part(0, 100), *[part(at, at + 1) for at in range(100)], part(100, 110)]
    assert longest(parts) == [part(0, 100), part(100, 110)]
    assert worth_merging(parts) is None
