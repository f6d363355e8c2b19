"""From what the user named to the one record where replay stops, found by decoding the WAL around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta

from pgproof.actions.wal_reading import TRANSACTIONS, WalReading
from pgproof.errors import PreconditionError
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_choice import Base, Reach, refuse, why_unreachable
from pgproof.model.recovery_target import RecoveryTarget, TargetKind
from pgproof.model.stop_point import StopPoint
from pgproof.model.wal_records import TransactionEnd, WalRecord, restore_point, transaction_end

# The commits on both sides are shown where they are near; a quiet server may have none for days.
_NEAR = 8
# To seconds; and it is taken a moment before the position from which on WAL is replayed.
_CHECKPOINT_TIME_IS_ROUNDED = timedelta(seconds=2)
TooLate = Callable[[TransactionEnd], bool]


class StopFinder:
    """Searches what can be restored along one timeline. Each answer is the reach it lies in, and the stop.

    `begun` tells when a backup began, by its server's clock.
    """

    def __init__(
        self,
        reading: WalReading,
        reaches: Sequence[Reach],
        others: Sequence[int],
        begun: Callable[[Base], datetime],
        job: Job,
    ) -> None:
        self._begun = begun
        self._reading = reading
        self._reaches = reaches
        self._others = others
        self._job = job

    def find(self, target: RecoveryTarget) -> tuple[Reach, StopPoint]:
        """Raises PreconditionError for what cannot be reached, saying what can be."""
        self._job.report("looking for the target in the WAL")
        if not self._reaches:
            raise self.refusal(why_unreachable(self._reaches, Lsn(0)), target)
        value = target.value
        if target.kind is TargetKind.LSN:
            assert isinstance(value, Lsn)
            return self._lsn(target, value)
        if target.kind is TargetKind.XID:
            assert isinstance(value, int)
            return self._xid(target, value)
        if target.kind is TargetKind.NAME:
            assert isinstance(value, str)
            return self._name(target, value)
        if target.kind is TargetKind.TIME:
            assert isinstance(value, datetime)
            return self._time(target, value)
        return self._reaches[-1], self.end_of(self._reaches[-1])

    def refusal(self, why: str, target: RecoveryTarget) -> PreconditionError:
        """With the times of the last commits, which the WAL alone knows."""
        known = []
        for reach in self._reaches:
            last = self._reading.last_commit(reach.bases[0].start, reach.end)
            known.append(replace(reach, last_time=last.time if last else None))
        return refuse(why, known, self._others, target=target)

    def end_of(self, reach: Reach, note: str = "") -> StopPoint:
        """Everything there is."""
        last = self._reading.last_record(reach.bases[0].start, reach.end)
        notes = [note] if note else []
        if reach.missing is not None:
            notes.append(
                f"WAL is missing from {reach.end} to {reach.missing}: what was written behind it cannot be reached"
            )
        before = self._before(reach, reach.end)
        # Consistency is reached where the backup ended, whatever the last record is.
        at_least = Lsn(reach.bases[0].stop.value - 1)
        return StopPoint(max(at_least, last.lsn) if last else at_least, before=before, notes=tuple(notes))

    def _lsn(self, target: RecoveryTarget, lsn: Lsn) -> tuple[Reach, StopPoint]:
        for reach in self._reaches:
            if reach.start <= lsn <= reach.end:
                record = self._reading.first_record(lsn, reach.end)
                if record is None:
                    note = f"no record begins at or behind {lsn}: this is the end of the WAL"
                    return reach, self.end_of(reach, note)
                return reach, self._at(reach, record, inclusive=target.inclusive)
        raise self.refusal(why_unreachable(self._reaches, lsn), target)

    def _xid(self, target: RecoveryTarget, xid: int) -> tuple[Reach, StopPoint]:
        for reach in reversed(self._reaches):
            for low, high in self._reading.backwards(reach.start, reach.end):
                self._job.report("looking for the transaction", reach.end - high, reach.end - reach.start)
                found = None
                with closing(self._reading.records(low, high, TRANSACTIONS)) as records:
                    for record in records:
                        end = transaction_end(record)
                        found = end if end is not None and end.xid == xid else found
                if found is not None:
                    note = "" if found.committed else f"transaction {xid} was rolled back"
                    return reach, self._at(reach, found.record, inclusive=target.inclusive, note=note)
        raise self.refusal("this transaction ends nowhere in the WAL that can be reached", target)

    def _name(self, target: RecoveryTarget, name: str) -> tuple[Reach, StopPoint]:
        found: list[tuple[Reach, WalRecord]] = []
        for reach in self._reaches:
            with closing(self._reading.records(reach.start, reach.end, ("XLOG",))) as records:
                found += [(reach, record) for record in records if restore_point(record) == name]
        if not found:
            raise self.refusal("there is no such restore point in the WAL that can be reached", target)
        if len(found) > 1:
            ways = []
            for reach, record in found:
                before = self._before(reach, record.lsn)
                when = f", after a commit of {before.time:%Y-%m-%d %H:%M:%S} UTC" if before else ""
                ways.append(f"  --to-lsn {record.lsn}{when}")
            raise PreconditionError(
                f"{len(found)} restore points have this name; nothing was written",
                hint="choose one of them by its position:\n" + "\n".join(ways),
                name=name,
            )
        return found[0][0], self._at(*found[0], inclusive=True)

    def _time(self, target: RecoveryTarget, time: datetime) -> tuple[Reach, StopPoint]:
        """PostgreSQL's rule: replay stops before the first commit that is later (or, exclusive, as late)."""

        def too_late(commit: TransactionEnd) -> bool:
            return commit.time > time or (not target.inclusive and commit.time == time)

        before: Reach | None = None
        for reach in self._reaches:
            covered = self._covers(reach, time)
            commit = self.first_too_late(reach, too_late) if covered else None
            if commit is not None and commit.lsn >= reach.start:
                return reach, self._at(reach, commit.record, inclusive=False)
            if commit is not None or not covered:
                hole = f"behind a hole in the WAL that begins at {before.end}" if before else ""
                place = hole or "before the end of the oldest backup"
                raise self.refusal(f"the target lies {place}", target)
            before = reach
        return self._after_the_last_commit(target, time)

    def _covers(self, reach: Reach, time: datetime) -> bool:
        """Whether nothing that is in the first backup, and not in the WAL, was committed later than `time`.

        That is so if the backup began before, or if the WAL from its start on has a commit that is as early.
        """
        base = reach.bases[0]
        if time >= self._begun(base) + _CHECKPOINT_TIME_IS_ROUNDED:
            return True
        first = self._reading.first_commit(base.start, reach.end)
        return first is not None and first.time <= time

    def _after_the_last_commit(self, target: RecoveryTarget, time: datetime) -> tuple[Reach, StopPoint]:
        """PostgreSQL would give up for a time behind the last commit (F12)."""
        reach = self._reaches[-1]
        if reach.missing is not None:
            raise self.refusal(f"the target lies behind a hole in the WAL that begins at {reach.end}", target)
        stop = self.end_of(reach)
        last = f", which was at {stop.before.time:%Y-%m-%d %H:%M:%S.%f} UTC" if stop.before else ""
        note = f"the target is later than the last commit in the WAL{last}: everything there is is restored"
        return reach, replace(stop, notes=(note, *stop.notes))

    def first_too_late(self, reach: Reach, too_late: TooLate) -> TransactionEnd | None:
        """The segment by bisection over the segments' first commits; then every commit in it.

        Commits of one moment may stand in the WAL out of order, but not by more than a segment.
        """
        size = self._reading.segment_size
        start = reach.bases[0].start
        edges = [start, *(Lsn(at) for at in range((start.value // size + 1) * size, reach.end.value, size))]
        low, high = 0, len(edges)
        # The first commit behind edges[high] is too late or there is none; that behind edges[low - 1] is not.
        while low < high:
            middle = (low + high) // 2
            self._job.report("looking for the time", len(edges) - (high - low), len(edges))
            commit = self._first_from(edges, middle, high, reach.end)
            if commit is not None and not too_late(commit):
                low = middle + 1
            else:
                high = middle
        begin = edges[max(low - 2, 0)]
        with closing(self._reading.commits(begin, reach.end)) as commits:
            return next((commit for commit in commits if too_late(commit)), None)

    def _first_from(self, edges: Sequence[Lsn], number: int, high: int, end: Lsn) -> TransactionEnd | None:
        """The first commit from this edge on, but before the edge `high`; None if there is none."""
        for each in range(number, high):
            until = edges[each + 1] if each + 1 < len(edges) else end
            commit = self._reading.first_commit(edges[each], until)
            if commit is not None:
                return commit
        return None

    def _at(self, reach: Reach, record: WalRecord, *, inclusive: bool, note: str = "") -> StopPoint:
        before_it = record.lsn + 1 if inclusive else record.lsn
        return StopPoint(
            last=record.lsn if inclusive else record.prev,
            at=record.lsn,
            inclusive=inclusive,
            before=self._before(reach, before_it),
            after=self._after(reach, before_it),
            notes=(note,) if note else (),
        )

    def _before(self, reach: Reach, end: Lsn) -> TransactionEnd | None:
        size = self._reading.segment_size
        first = Lsn(max((end.value // size - _NEAR) * size, reach.bases[0].start.value))
        return self._reading.last_commit(first, end)

    def _after(self, reach: Reach, start: Lsn) -> TransactionEnd | None:
        until = min(reach.end, start + _NEAR * self._reading.segment_size)
        return self._reading.first_commit(start, until)
