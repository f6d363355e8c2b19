"""How far WAL is stored without a hole: the one number that lets PostgreSQL recycle what lies below."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from pgproof.model.lsn import Lsn


@dataclass(slots=True)
class DurableFront:
    """Everything below `lsn` is stored.

    Uploads finish in any order, and after a reconnect ranges overlap; the front moves only over what is
    stored without a hole, and never back.
    """

    lsn: Lsn
    _ahead: list[tuple[Lsn, Lsn]] = field(default_factory=list)

    def stored(self, start: Lsn, end: Lsn) -> Lsn:
        """Note that the store has confirmed these bytes; return where the front is now."""
        heapq.heappush(self._ahead, (start, end))
        while self._ahead and self._ahead[0][0] <= self.lsn:
            _start, end = heapq.heappop(self._ahead)
            self.lsn = max(self.lsn, end)
        return self.lsn
