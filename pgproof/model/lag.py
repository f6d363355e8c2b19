"""How far a replica is behind, in bytes and in seconds. Pure: the clock is an argument.

Seconds are counted by what we saw ourselves: the primary stood where the replica stands now, so long ago. No server's
clock is in it, and a primary that writes nothing is no lag.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end


@dataclass(frozen=True, slots=True)
class Lag:
    """`seconds` is an upper bound as far as our looks reach, None if nothing is known of it."""

    nbytes: int
    seconds: float | None

    def within(self, max_bytes: int, max_seconds: float) -> bool:
        return self.nbytes <= max_bytes and self.seconds is not None and self.seconds <= max_seconds


NO_LAG = Lag(0, 0.0)


@dataclass(slots=True)
class PrimaryTrack:
    """Where the primary of one timeline stood when; `keep` seconds of it. Moments are of a clock that only runs."""

    timeline: int
    keep: float = 3600.0
    _moments: list[float] = field(default_factory=list)
    _positions: list[int] = field(default_factory=list)

    def saw(self, position: Lsn, moment: float) -> None:
        """The primary stood at `position` when it was asked at `moment`, or beyond it by when it answered."""
        if self._positions and position.value < self._positions[-1]:
            return  # a late answer
        # Of a stretch without writing the first look and the last are enough.
        if len(self._positions) >= 2 and self._positions[-2] == self._positions[-1] == position.value:
            self._moments[-1] = moment
        else:
            self._moments.append(moment)
            self._positions.append(position.value)
        old = bisect_right(self._moments, moment - self.keep)
        # One older look stays: it bounds what is older than all the others.
        if old > 1 and old > len(self._moments) // 2:
            del self._moments[: old - 1], self._positions[: old - 1]

    @property
    def newest(self) -> Lsn | None:
        return Lsn(self._positions[-1]) if self._positions else None

    def lag(self, replica: NodeState, now: float) -> Lag:
        """Of a replica that was asked after the newest look at the primary; `now` is the moment of that asking."""
        if not self._positions:
            return Lag(0, None)
        newest = record_end(Lsn(self._positions[-1]), replica.segment_size)
        reached = replica.reached
        behind = newest - reached
        if behind <= 0:
            return NO_LAG
        # The last look at which the primary had written no more than the replica has replayed now.
        index = bisect_right(self._positions, reached.value) - 1
        if index >= 0:
            return Lag(behind, max(0.0, now - self._moments[index]))
        # It is behind all that we saw: by its own clock, which counts from its last transaction.
        return Lag(behind, replica.replayed_age)
