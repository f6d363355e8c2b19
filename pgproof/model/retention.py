"""Which backups stay, and why: a table of backups in, a plan with a reason for each of them out. Pure.

Rules and floors are told in docs/decisions/0014-retention.md. Ages count back from the newest backup of the same method, so that
nothing grows old while no backup is taken, whatever a clock says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pgproof.model.config import BackupType
from pgproof.model.manifest import PHYSICAL
from pgproof.model.pin import Pin
from pgproof.model.retention_periods import Period, stand_ins
from pgproof.model.retention_policy import RetentionPolicy

# Clocks may differ by so much before anything is said to lie in the future.
CLOCK_SLACK = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backup as retention sees it.

    `finished_at` is by the clock of who took it, `stored_at` the store's time of its manifest. `good`: status ok, no failed
    verification, everything that it names is listed. `clean`: no damaged page was found in it. `readable` is false where
    the manifest is not. `locked_until` is when its bucket lets it be deleted.
    """

    backup_id: str
    type: BackupType
    method: str
    finished_at: datetime
    stored_at: datetime
    good: bool = True
    proven: bool = False
    clean: bool = True
    readable: bool = True
    pin: Pin | None = None
    locked_until: datetime | None = None

    @property
    def begun_by_id(self) -> datetime:
        """The second in its id: never earlier than that of a backup before it, whatever a clock said."""
        return datetime.fromisoformat(self.backup_id[:16])

    @property
    def youngest(self) -> datetime:
        """When it was taken, by the clock that makes it youngest."""
        return max(self.finished_at, self.stored_at, self.begun_by_id)

    @property
    def told_at(self) -> datetime:
        """The time that decides about its day, week and month: that of who took it, which is the same in every copy, unless
        by that it ended before it began. Then that clock went back."""
        return self.stored_at if self.finished_at < self.begun_by_id else self.finished_at


@dataclass(frozen=True, slots=True)
class Verdict:
    """One backup's fate, with every reason for it; the first is the strongest."""

    candidate: Candidate
    keep: bool
    reasons: tuple[str, ...]

    @property
    def backup_id(self) -> str:
        return self.candidate.backup_id


@dataclass(frozen=True)
class RetentionPlan:
    """A verdict for every backup, oldest first."""

    verdicts: tuple[Verdict, ...]
    _by_id: dict[str, Verdict] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_id.update((verdict.backup_id, verdict) for verdict in self.verdicts)

    def of(self, backup_id: str) -> Verdict:
        return self._by_id[backup_id]

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(verdict.backup_id for verdict in self.verdicts if verdict.keep)

    @property
    def removed(self) -> tuple[str, ...]:
        return tuple(verdict.backup_id for verdict in self.verdicts if not verdict.keep)


WalBases = Callable[[Sequence[Candidate], datetime], Iterable[str]]
"""From the physical backups and the beginning of the window to the ids of those that it is recovered from."""


def oldest_base(physical: Sequence[Candidate], window: datetime) -> list[str]:
    """The newest good one from before the window, else the oldest good one: the base where there is one timeline."""
    good = sorted((each for each in physical if each.good), key=_order)
    before = [each for each in good if each.youngest <= window]
    return [(before[-1] if before else good[0]).backup_id] if good else []


def plan_retention(
    candidates: Iterable[Candidate], policy: RetentionPolicy, now: datetime, wal_bases: WalBases = oldest_base
) -> RetentionPlan:
    """`now` is the earlier one of the store's time and ours."""
    reasons: dict[str, list[str]] = {}
    against: dict[str, list[str]] = {}
    everything = sorted(candidates, key=lambda each: each.backup_id)
    for method in sorted({each.method for each in everything}):
        group = [each for each in everything if each.method == method]
        _Group(group, policy, now, wal_bases, reasons, against).judge()
    return RetentionPlan(
        tuple(
            Verdict(
                each,
                each.backup_id in reasons,
                tuple(reasons.get(each.backup_id) or against[each.backup_id]),
            )
            for each in everything
        )
    )


def reference_time(group: Iterable[Candidate], now: datetime) -> datetime:
    """From when ages count back: the newest backup, unless it lies in the future."""
    return min(now, max((each.youngest for each in group if each.youngest <= now + CLOCK_SLACK), default=now))


@dataclass(frozen=True)
class _Group:
    """The backups of one method, in the order of their ids; `reasons` and `against` are filled."""

    backups: Sequence[Candidate]
    policy: RetentionPolicy
    now: datetime
    wal_bases: WalBases
    reasons: dict[str, list[str]]
    against: dict[str, list[str]]

    def judge(self) -> None:
        self._floors()
        self._rules()

    def _keep(self, candidate: Candidate, why: str) -> None:
        self.reasons.setdefault(candidate.backup_id, []).append(why)

    def _floors(self) -> None:
        for each in self.backups:
            if each.pin is not None and each.pin.holds(self.now):
                self._keep(each, str(each.pin))
            if not each.readable:
                self._keep(each, "its manifest cannot be read, so nobody can tell what it is worth")
            if each.youngest > self.now + CLOCK_SLACK:
                self._keep(each, "it lies in the future: a clock was wrong")
            if each.locked_until is not None and self.now < each.locked_until:
                self._keep(each, f"Object Lock holds it until {each.locked_until:%Y-%m-%d %H:%M} UTC")
        readable = [each for each in self.backups if each.readable]
        self._newest(readable, "newest: the next backup builds on it")
        past = [each for each in readable if each.youngest <= self.now + CLOCK_SLACK]
        if past:
            self._keep(max(past, key=_youngest), "the others' ages count back from it")
        full = [each for each in readable if each.type is BackupType.FULL]
        self._newest(full, "newest full: the next differential builds on it")
        good = [each for each in readable if each.good]
        self._newest(good, "newest good one")
        self._newest([each for each in readable if each.proven], "newest proven one")
        self._newest([each for each in readable if each.clean], "newest with clean pages")
        # Where nothing is good, the newest of what there is.
        for each in (good or readable)[-self.policy.at_least :]:
            self._keep(each, f"one of {self.policy.at_least} that always stay")
        if self.backups and self.backups[0].method == PHYSICAL:
            window = reference_time(readable, self.now) - timedelta(days=self.policy.pitr_days)
            bases = set(self.wal_bases(readable, window))
            for each in readable:
                if each.backup_id in bases:
                    self._keep(
                        each, f"recovery to any moment of the last {self.policy.pitr_days} days begins here"
                    )

    def _newest(self, some: Sequence[Candidate], why: str) -> None:
        if some:
            self._keep(some[-1], why)

    def _rules(self) -> None:
        policy = self.policy
        readable = [each for each in self.backups if each.readable]
        reference = reference_time(readable, self.now)
        for place, each in enumerate(reversed(readable)):
            age, against = reference - each.youngest, []
            if policy.last is not None:
                if place < policy.last:
                    self._keep(each, f"one of the last {policy.last}")
                against.append(f"{place} newer ones, and the last {policy.last} are kept")
            if policy.days is not None:
                if age <= timedelta(days=policy.days):
                    self._keep(each, f"not older than {policy.days} days")
                against.append(f"older than {policy.days} days")
            if policy.hours and age <= timedelta(hours=policy.hours):
                self._keep(each, f"not older than {policy.hours} hours")
            if policy.hours and not policy.by_calendar:
                against.append(f"older than {policy.hours} hours")
            self.against[each.backup_id] = against
        if policy.by_calendar:
            self._periods([each for each in readable if each.youngest <= self.now + CLOCK_SLACK], reference)

    def _periods(self, past: Sequence[Candidate], reference: datetime) -> None:
        counts = {
            Period.DAY: self.policy.daily,
            Period.WEEK: self.policy.weekly,
            Period.MONTH: self.policy.monthly,
        }
        times = [each.told_at for each in past]
        better = [each.good for each in past]
        stands_for: dict[int, dict[Period, int]] = {}
        for period, count in counts.items():
            for number, chosen in stand_ins(times, better, reference, period, count).items():
                stands_for.setdefault(number, {})[period] = chosen
        for number, each in enumerate(past):
            others = []
            for period, chosen in stands_for.get(number, {}).items():
                if chosen == number:
                    self._keep(each, f"stands for its {period}")
                else:
                    others.append(f"{past[chosen].backup_id} stands for its {period}")
            longest = max((p for p, count in counts.items() if count), key=list(Period).index)
            self.against[each.backup_id].append(
                others[0] if others else f"older than {counts[longest]} {longest}s"
            )


def _order(candidate: Candidate) -> str:
    return candidate.backup_id


def _youngest(candidate: Candidate) -> tuple[datetime, str]:
    return candidate.youngest, candidate.backup_id
