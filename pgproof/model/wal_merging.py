"""When parts of an open segment are worth one longer part, so that a quiet segment is never thousands of objects.

Rule: a part is rewritten only when three times its length and more lies behind it, or with an older one for which that holds.
What is rewritten so comes to lie in a part at least a third longer, unless it is rewritten for the first time: n bytes
cost O(n log n) in all (a segment of 64,000 equal parts 4.5 times its size, one of 16,000 3.5 times). What a merge
leaves are parts that grow towards the beginning, and so few.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.model.wal_names import StoredRange

MOST_PARTS = 64
_TIMES = 3


def covers(longer: StoredRange, part: StoredRange) -> bool:
    """Whether `longer` holds everything that `part` holds, and is another one."""
    return (
        longer != part
        and longer.segment == part.segment
        and longer.start <= part.start
        and part.end <= longer.end
    )


def longest(parts: Iterable[StoredRange]) -> list[StoredRange]:
    """The parts of a segment that no other one covers, in order."""
    found: list[StoredRange] = []
    for part in sorted(parts, key=lambda each: (each.start, -each.end)):
        if not found or part.end > found[-1].end:
            found.append(part)
    return found


def worth_merging(parts: Iterable[StoredRange], most: int = MOST_PARTS) -> StoredRange | None:
    """The part that should stand in place of the last ones of a segment, when there are `most` or more."""
    live = longest(parts)
    if len(live) < most:
        return None
    first, behind = len(live) - 1, 0
    for number in range(len(live) - 1, -1, -1):
        if _TIMES * live[number].length <= behind:
            first = number
        behind += live[number].length
    merged = StoredRange(live[first].segment, live[first].start, live[-1].end)
    return None if merged == live[-1] else merged
