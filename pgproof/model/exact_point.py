"""A position in the WAL that separates what a snapshot sees from what it does not.

A server that was recovered to exactly there holds what the snapshot saw, and nothing else. Not every snapshot has
such a position: a transaction becomes visible a moment after its commit record was written, so two may do so in the
other order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn
from pgproof.model.wal_records import TransactionEnd

_SNAPSHOT = re.compile(r"(\d+):(\d+):((?:\d+(?:,\d+)*)?)\Z", re.ASCII)
_HALF = 1 << 31
_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """As pg_current_snapshot() tells it: transactions before `xmin` have ended, those from `xmax` on have not begun,
    and of those between, `running` had not ended."""

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        found = _SNAPSHOT.match(text)
        if found is None:
            raise DataError("not a snapshot", snapshot=text[:100])
        running = tuple(int(xid) for xid in found[3].split(",") if xid)
        return cls(int(found[1]), int(found[2]), running)

    def sees(self, xid: int) -> bool:
        """Whether what this transaction committed is seen. The WAL has the lower half of its number."""
        full = self._full(xid)
        return full < self.xmin or (full < self.xmax and full not in self.running)

    def _full(self, xid: int) -> int:
        full = (self.xmax & ~(_WRAP - 1)) | xid
        if full > self.xmax + _HALF:
            return full - _WRAP
        return full + _WRAP if full < self.xmax - _HALF else full

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"


def separating_point(
    snapshots: Sequence[Snapshot], commits: Iterable[TransactionEnd], end: Lsn
) -> Lsn | None:
    """The position for all of the snapshots at once; None if there is none.

    `commits` are all that were written from before the first snapshot up to `end`, behind the last one, in the
    order of the WAL.
    """
    point = None
    for commit in commits:
        seen = {snapshot.sees(commit.xid) for snapshot in snapshots}
        if seen == {False}:
            point = point or commit.lsn
        elif point is not None or seen != {True}:
            return None
    return point or end
