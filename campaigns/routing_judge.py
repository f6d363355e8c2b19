"""What must hold of a router's calls, whatever happened to the servers: see the table in docs/campaigns.md."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from campaigns.campaign import Campaign
from campaigns.routing_faults import FAULTS, Round
from campaigns.routing_load import WRITES, Call
from campaigns.routing_world import Promotion, World
from pgproof.model.token import Token

# Beside the longest time that our own event loop came late: servers are slow too, where many share two cores.
_SLACK = 0.25
# A page's header: the primary names the byte behind it, a replica the byte before it.
_HEADER = 40
_TOKEN_KINDS = ("token", "own", "session")


@dataclass
class _Track:
    """How far one server had written when, by what it said itself: a lower bound."""

    moments: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def add(self, calls: Iterable[Call]) -> None:
        for call in sorted(calls, key=lambda call: call.at):
            if not self.moments or (call.at > self.moments[-1] and call.lsn.value > self.positions[-1]):
                self.moments.append(call.at)
                self.positions.append(call.lsn.value)

    def position(self, moment: float) -> int | None:
        index = bisect_right(self.moments, moment)
        return self.positions[index - 1] if index else None

    def passed(self, position: int) -> float | None:
        """When it had certainly written more than that."""
        index = bisect_left(self.positions, position + 1)
        return self.moments[index] if index < len(self.moments) else None


@dataclass
class Judge:
    """`wrong` holds a line for everything that must not be."""

    campaign: Campaign
    world: World
    max_lag_bytes: int
    max_lag_seconds: float
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _writes: dict[int, Call] = field(default_factory=dict)
    _strays: list[tuple[int, str, float]] = field(default_factory=list)
    _silent_after: dict[str, float] = field(default_factory=dict)
    _seen_timelines: dict[int, float] = field(default_factory=dict)
    _tracks: dict[str, _Track] = field(default_factory=lambda: defaultdict(_Track))

    def round(self, now: Round) -> None:
        """Judge every call that has ended since the last time."""
        load, count = now.load, self.campaign.count
        now.ended = time.time()
        reads, load.reads = load.reads, []
        writes, load.writes = load.writes, []
        slack = _SLACK + load.longest_stall(now.begun, now.ended)
        self._silent_after |= {server: moment + slack for server, moment in now.silent_after.items()}
        for line in now.wrong:
            self._say(line)
        count("rounds", by=int(now.fault in FAULTS))
        count("reads", len(reads))
        count("writes", len(writes))
        self._silent(now, reads + writes)
        self._forward(now, writes)
        self._failures(now, reads + writes)
        self._tokens(now, reads)
        self._lag(now, reads, writes, slack)
        self._strays += [row for server, rows in now.strays.items() for row in rows if row[1] == server]
        self._writes |= {call.number: call for call in writes}
        self._measure(now, reads, writes, slack)

    def end(self, numbers: set[int]) -> None:
        """Judge what has come of the acknowledged writes; `numbers` are all that are on the primary."""
        self._late_writes()
        acknowledged = [call for call in self._writes.values() if not call.error]
        for call in acknowledged:
            lost = call.token is not None and self._lost(call.token)
            if call.number in numbers:
                self.campaign.count("tokens behind a branch whose row was not", by=int(lost))
            elif lost:
                self.campaign.count("acknowledged writes behind the branch of a failover, and so lost")
            else:
                self._say(f"an acknowledged write is missing: {call}")
        unknown = numbers - self._writes.keys()
        assert not unknown, f"rows that nobody wrote: {unknown}"
        self.campaign.count("acknowledged writes", len(acknowledged))

    def _say(self, what: str) -> None:
        self.wrong.append(what)
        print(f"WRONG: {what}", flush=True)

    def _lost(self, token: Token) -> bool:
        return any(
            each.parent == token.timeline and token.lsn > each.branch for each in self.world.promotions
        )

    def _excused(self, call: Call) -> bool:
        """The write was lost, or who may not read the timelines' histories cannot tell; that is said and is no old read."""
        if call.token is not None and self._lost(call.token):
            return True
        return self.world.rights != "replication" and "is not known" in call.words

    def _silent(self, now: Round, calls: list[Call]) -> None:
        """Nobody is led to a server that was deposed, once that could be known."""
        for call in calls:
            if call.error or call.server not in self._silent_after:
                continue
            begun = call.at if call.kind in WRITES else call.start
            late = begun - self._silent_after[call.server]
            if late > 0:
                self._say(f"{now.fault}: led to a deposed server, {late:.2f} s too late: {call}")

    def _forward(self, now: Round, writes: list[Call]) -> None:
        """No write on a timeline below one that the router knew when the write began."""
        for timeline, moment in now.view.timelines.items():
            known = self._seen_timelines.get(timeline, moment)
            self._seen_timelines[timeline] = min(known, moment)
        for call in writes:
            if call.token is not None:
                known = self._seen_timelines.get(call.token.timeline, call.end)
                self._seen_timelines[call.token.timeline] = min(known, call.end)
        for call in writes:
            if call.token is not None and any(
                moment < call.start and timeline > call.token.timeline
                for timeline, moment in self._seen_timelines.items()
            ):
                self._say(f"{now.fault}: a write on a timeline that was left: {call}")

    def _failures(self, now: Round, calls: list[Call]) -> None:
        for call in calls:
            if not call.error:
                continue
            self.campaign.count(f"{_sort(call)} that failed with {call.error}")
            if "is not known" in call.words and call.error == "DataError":
                self.campaign.count(
                    "tokens of which nothing could be told, without the right to read histories"
                )
            if call.error in ("hangs", "raw"):
                self._say(f"{now.fault}: {call}")
            elif call.kind == "stream" and call.rows:
                self.campaign.count("streams that broke after their first rows")
            elif call.error == "DataError" and call.token is not None and self._excused(call):
                continue
            elif call.kind in now.must_succeed and call.start >= now.begun:
                self._say(f"{now.fault}: failed, and need not: {call}")

    def _tokens(self, now: Round, reads: list[Call]) -> None:
        for call in reads:
            if call.kind not in _TOKEN_KINDS or call.token is None:
                continue
            if not call.error:
                self.campaign.count("reads with a token")
                self.campaign.count(
                    "reads with a token of an older timeline",
                    by=int(call.token.timeline < self.world.timeline),
                )
                if not call.saw:
                    self._say(f"{now.fault}: a read older than its token: {call}")
            elif call.error == "DataError" and not self._excused(call):
                self._say(f"{now.fault}: called lost, and is not: {call}")

    def _lag(self, now: Round, reads: list[Call], writes: list[Call], slack: float) -> None:
        """No replica is read from that was over a limit already so long ago that it had to be known."""
        said: dict[str, list[Call]] = defaultdict(list)
        for call in (*reads, *writes):
            if not call.error and not call.recovering and call.server:
                said[call.server].append(call)
        for server, calls in said.items():
            self._tracks[server].add(calls)
        for call in reads:
            if call.error or not call.recovering:
                continue
            moment = call.start - now.grace - slack
            track = self._tracks[self._primary_at(moment)]
            position = track.position(moment)
            if position is None:
                continue
            behind = position - call.lsn.value
            passed = track.passed(call.lsn.value + _HEADER)
            seconds = moment - passed if passed is not None else 0.0
            if behind > self.max_lag_bytes or seconds > self.max_lag_seconds:
                self._say(f"{now.fault}: over the limit by {behind} bytes, {seconds:.2f} s: {call}")

    def _primary_at(self, moment: float) -> str:
        server = (
            self.world.promotions[0].deposed
            if self.world.promotions
            else self.world.server(self.world.primary)
        )
        for each in self.world.promotions:
            if each.done <= moment:
                server = each.server
        return server

    def _late_writes(self) -> None:
        """What a deposed server has taken late must have been on its way to it, and nobody was told that it succeeded."""
        for number, server, at in self._strays:
            late = at - self._silent_after[server]
            call = self._writes[number]
            if late <= 0 or not call.error:  # the call was judged with its round
                continue
            if call.start > self._silent_after[server]:
                self._say(f"{server} took write {number} {late:.2f} s too late: {call}")
            else:
                self.campaign.count(
                    "writes sent to a server before it froze, taken when it woke, never acknowledged"
                )

    def _measure(self, now: Round, reads: list[Call], writes: list[Call], slack: float) -> None:
        for what, figure in now.figures.items():
            self.figures[what].append(figure)
        during = [call for call in reads if call.start >= now.begun and call.kind == "plain"]
        self.figures[f"slowest plain read, seconds: {now.fault}"].append(
            max((call.seconds for call in during), default=0)
        )
        self.figures["slowest call of all, seconds"].append(
            max((call.seconds for call in reads + writes), default=0)
        )
        self.figures["lateness of our own event loop, seconds"].append(slack - _SLACK)
        for promotion in self._promotions_of(now):
            ends = [call.end for call in writes if not call.error and call.server == promotion.server]
            if ends:
                self.figures[f"seconds from pg_promote() to the first write: {now.fault}"].append(
                    min(ends) - promotion.begun
                )

    def _promotions_of(self, now: Round) -> list[Promotion]:
        return [each for each in self.world.promotions if each.begun >= now.begun]


def _sort(call: Call) -> str:
    if call.kind in _TOKEN_KINDS:
        return "reads with a token"
    return "writes" if call.kind in WRITES else "plain reads"
