"""Timelines: PostgreSQL's history files, and the way from the root to a timeline.

A history file names every timeline that was left on the way, oldest first, each with the position where it was
left. Rules: PostgreSQL's src/backend/access/transam/timeline.c; timelines are hexadecimal in names and decimal in
the files.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Self

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn

MAX_TIMELINE = 2**32 - 1
# A line has some sixty bytes: this is more promotions than a cluster lives through.
MAX_HISTORY = 4 << 20
_LINE = re.compile(r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s|\Z)")


@dataclass(frozen=True, slots=True)
class Switch:
    """A timeline that was left, and where."""

    timeline: int
    at: Lsn


@dataclass(frozen=True, slots=True)
class Span:
    """The stretch of one timeline on a path; the last one has no end."""

    timeline: int
    start: Lsn
    end: Lsn | None

    def __contains__(self, lsn: Lsn) -> bool:
        return self.start <= lsn and (self.end is None or lsn < self.end)


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """A timeline and those it came from, oldest first. A timeline without a history file is a root."""

    timeline: int
    switches: tuple[Switch, ...] = ()

    @classmethod
    def parse(cls, timeline: int, content: bytes) -> Self:
        """Read the history file of `timeline`. Raises DataError for what PostgreSQL would not accept either."""
        if len(content) > MAX_HISTORY:
            raise DataError(
                "a timeline history is too large to be one", timeline=timeline, bytes=len(content)
            )
        switches: list[Switch] = []
        for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found = _LINE.match(line)
            if found is None:
                raise DataError("a timeline history is not well formed", timeline=timeline, line=number)
            switches.append(Switch(int(found[1]), Lsn.parse(found[2])))
        history = cls(timeline, tuple(switches))
        history._check()
        return history

    def _check(self) -> None:
        numbers = [*(switch.timeline for switch in self.switches), self.timeline]
        positions = [switch.at for switch in self.switches]
        if (
            numbers[0] < 1
            or numbers[-1] > MAX_TIMELINE
            or any(a >= b for a, b in itertools.pairwise(numbers))
            or any(b < a for a, b in itertools.pairwise(positions))
        ):
            raise DataError("a timeline history is not in order", timeline=self.timeline)

    @property
    def parent(self) -> int | None:
        """The timeline that this one branched from."""
        return self.switches[-1].timeline if self.switches else None

    @property
    def begin(self) -> Lsn:
        """Where the timeline itself begins."""
        return self.switches[-1].at if self.switches else Lsn(0)

    def spans(self) -> tuple[Span, ...]:
        """The path from the root; each timeline's stretch ends where the next one's begins. Some may be empty."""
        starts = [Lsn(0), *(switch.at for switch in self.switches)]
        ends = [*(switch.at for switch in self.switches), None]
        timelines = [*(switch.timeline for switch in self.switches), self.timeline]
        return tuple(
            Span(timeline, start, end) for timeline, start, end in zip(timelines, starts, ends, strict=True)
        )

    def timeline_at(self, lsn: Lsn) -> int:
        """The timeline on which the byte at `lsn` was written."""
        return next(span.timeline for span in reversed(self.spans()) if span.start <= lsn)

    def passes(self, timeline: int, lsn: Lsn) -> bool:
        """Whether whoever stands at `lsn` of `timeline` is on the way here: a backup that ended there can be
        rolled forward to this timeline."""
        return any(
            span.timeline == timeline and span.start <= lsn and (span.end is None or lsn <= span.end)
            for span in self.spans()
        )
