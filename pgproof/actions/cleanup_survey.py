"""What a cleanup goes by: the copies of the repository, what their manifests say, and what the store's lists are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgproof.actions.cleanup_lists import kept_last, refuse_holes, refuse_wrong_clock
from pgproof.actions.opening import open_repository
from pgproof.errors import DataError
from pgproof.model.collection import StoredBackup, StoredRun
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.model.manifest import PHYSICAL
from pgproof.model.pin import Pin
from pgproof.model.report import VerificationSummary
from pgproof.model.retention import Candidate, RetentionPlan, reference_time
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_retention import WalBase, window_bases
from pgproof.repository.catalog import summarise
from pgproof.repository.mirror import refuse_stranger
from pgproof.repository.object_lock import bucket_of, default_lock
from pgproof.repository.opening import open_mirror
from pgproof.repository.pins import read_pin
from pgproof.repository.repository import Repository
from pgproof.repository.survey import Clock, ManifestReader, Survey, our_clock, read_manifests, survey
from pgproof.repository.wal_archive import WalArchive

_AT_ONCE = 8


@dataclass
class CleanupSurvey:
    """`copies` are the repository and its mirror, `locks` for how long each keeps new objects; the rest is of both.

    `now` is the earliest of the clocks. `unreadable` says why, by backup.
    """

    copies: tuple[Survey, ...]
    locks: tuple[timedelta | None, ...]
    reader: ManifestReader
    now: datetime
    segment_size: int
    backups: Mapping[str, StoredBackup]
    unreadable: Mapping[str, str]
    verified: Mapping[str, VerificationSummary | None]
    pins: Mapping[str, Pin]
    histories: Mapping[int, TimelineHistory]
    unknown_histories: bool
    pitr_days: int
    notes: tuple[str, ...]
    clock: Clock

    @property
    def newest(self) -> str:
        return max(self.backups, default="")

    @property
    def running(self) -> set[str]:
        """Intents without a manifest in any copy."""
        known = self.backups.keys() | self.unreadable.keys()
        return {backup_id for copy in self.copies for backup_id in copy.runs if backup_id not in known}

    def intent_of(self, backup_id: str) -> StoredRun | None:
        return next((copy.runs[backup_id] for copy in self.copies if backup_id in copy.runs), None)

    def candidates(self) -> list[Candidate]:
        packs: dict[str, int] = {}
        maps: set[str] = set()
        segments: set[tuple[int, int]] = set()
        for copy in self.copies:
            maps |= copy.maps.keys()
            segments |= {place for place, objects in copy.wal.items() if any(_whole(o.key) for o in objects)}
            for owner, found in copy.packs.items():
                packs[owner] = packs.get(owner, 0) | _bits(found)
        return [
            *(self._candidate(each, packs, maps, segments) for each in self.backups.values()),
            *(self._unreadable(each) for each in self.unreadable),
        ]

    def _candidate(
        self, backup: StoredBackup, packs: Mapping[str, int], maps: set[str], segments: set[tuple[int, int]]
    ) -> Candidate:
        whole = all(not numbers & ~packs.get(owner, 0) for owner, numbers in backup.packs.items())
        whole = whole and maps.issuperset(backup.maps)
        if backup.wal is not None:
            first = backup.wal.start.value // self.segment_size
            own = range(first, backup.last_segment + 1)
            whole = whole and all((backup.wal.timeline, number) in segments for number in own)
        verified = self.verified.get(backup.backup_id)
        good = backup.status == "ok" and whole and (verified is None or verified.ok)
        return Candidate(
            backup.backup_id,
            backup.type,
            backup.method,
            backup.finished_at,
            self._stored_at(backup.backup_id),
            good=good,
            proven=whole and verified is not None and verified.proven,
            clean=backup.clean,
            pin=self.pins.get(backup.backup_id),
            locked_until=self._locked_until(backup.backup_id),
        )

    def _unreadable(self, backup_id: str) -> Candidate:
        begun, kind, _nonce = backup_id.split("-")
        at = datetime.fromisoformat(begun)
        pin, stored = self.pins.get(backup_id), self._stored_at(backup_id)
        return Candidate(
            backup_id, BackupType(kind), "unknown", at, stored, good=False, readable=False, pin=pin
        )

    def _stored_at(self, backup_id: str) -> datetime:
        """A mirror may have got it much later."""
        return min(
            c.listed.manifests[backup_id].modified for c in self.copies if backup_id in c.listed.manifests
        )

    def _locked_until(self, backup_id: str) -> datetime | None:
        ends = [
            copy.listed.manifests[backup_id].modified + lock
            for copy, lock in zip(self.copies, self.locks, strict=True)
            if lock is not None and backup_id in copy.listed.manifests
        ]
        return max(ends, default=None)

    # WAL

    def window_bases(self, physical: Sequence[Candidate], window: datetime) -> Iterable[str]:
        return [base.backup_id for base in self._bases(physical, window).values() if base is not None]

    def window(self, plan: RetentionPlan) -> dict[int, WalBase | None]:
        """The bases again, for the WAL behind them."""
        physical = [
            v.candidate for v in plan.verdicts if v.candidate.method == PHYSICAL and v.candidate.readable
        ]
        return self._bases(physical, reference_time(physical, self.now) - timedelta(days=self.pitr_days))

    def _bases(self, physical: Sequence[Candidate], window: datetime) -> dict[int, WalBase | None]:
        newest: dict[int, datetime] = {}
        for copy in self.copies:
            for (timeline, _number), objects in copy.wal.items():
                stored = max(info.modified for info in objects)
                newest[timeline] = max(stored, newest.get(timeline, stored))
        bases = [
            WalBase(each.backup_id, wal.timeline, wal.start, wal.stop, each.youngest, each.good)
            for each in physical
            if (wal := self.backups[each.backup_id].wal) is not None
        ]
        return window_bases(bases, self.histories, newest, window)

    def oldest_end(self, kept: Iterable[str]) -> int | None:
        """The earliest position at which a physical backup that stays ended."""
        ends = [self.backups[each].wal for each in kept if each in self.backups]
        return min((wal.stop.value for wal in ends if wal is not None), default=None)


def look(config: BackupConfig, job: Job) -> CleanupSurvey:
    """Raises PreconditionError where clocks differ too much, DataError for a store whose lists have holes."""
    job.report("opening repository")
    opened = open_repository(config)
    bucket = open_mirror(config)
    repositories = [Repository(opened.bucket, opened.key, config.cluster, bucket)]
    if bucket is not None:
        refuse_stranger(opened.bucket, bucket)
        repositories.append(Repository(bucket, opened.key, config.cluster, opened.bucket))
    locks, notes = _locks(config, mirrored=bucket is not None)
    return look_at(repositories, config.retention.pitr_days, job, locks=locks, notes=notes)


def look_at(
    repositories: Sequence[Repository],
    pitr_days: int,
    job: Job,
    *,
    locks: Sequence[timedelta | None] = (),
    notes: Sequence[str] = (),
    clock: Clock = our_clock,
) -> CleanupSurvey:
    """`repositories` are the copies, each with another one behind it."""
    archive = WalArchive.open(repositories[0])
    # Before the lists: what came in and was kept meanwhile, by another cleanup, cannot be in them.
    kept = [kept_last(repository) for repository in repositories]
    copies = [survey(repository, archive.segment_size, job, clock) for repository in repositories]
    for copy, there in zip(copies, kept, strict=True):
        refuse_wrong_clock(copy)
        refuse_holes(copy, there)
    reader = ManifestReader(repositories[0], {name for copy in copies for name in copy.maps})
    backups: dict[str, StoredBackup] = {}
    unreadable: dict[str, str] = {}
    for copy in copies:
        read_manifests(copy, reader, job, backups)
        backups |= copy.backups
        unreadable |= copy.unreadable
    unreadable = {backup_id: why for backup_id, why in unreadable.items() if backup_id not in backups}
    histories, unknown = _histories(archive, copies, backups.values())
    return CleanupSurvey(
        copies=tuple(copies),
        locks=tuple(locks) or (None,) * len(copies),
        reader=reader,
        now=min(clock(), *(copy.now for copy in copies)),
        segment_size=archive.segment_size,
        backups=backups,
        unreadable=unreadable,
        verified=_verified(repositories[0], copies, job),
        pins=_pins(repositories[0], copies),
        histories=histories,
        unknown_histories=unknown,
        pitr_days=pitr_days,
        notes=tuple(notes),
        clock=clock,
    )


def _histories(
    archive: WalArchive, copies: Iterable[Survey], backups: Iterable[StoredBackup]
) -> tuple[dict[int, TimelineHistory], bool]:
    """The ways to all timelines that have WAL, and whether one of them is not known: then no WAL may go."""
    wanted = {timeline for copy in copies for timeline, _number in copy.wal}
    told = {backup.wal.timeline: backup.history for backup in backups if backup.wal is not None}
    found: dict[int, TimelineHistory] = {}
    unknown = False
    for timeline in sorted(wanted | told.keys()):
        try:
            content = archive.read_history(timeline)
            if content is None:
                content = told.get(timeline, b"" if timeline == 1 else None)
            if content is None:
                raise DataError("a timeline has no history")
            found[timeline] = TimelineHistory.parse(timeline, content)
        except DataError:
            unknown = True
    return found, unknown


def _verified(
    repository: Repository, copies: Iterable[Survey], job: Job
) -> dict[str, VerificationSummary | None]:
    keys: dict[str, set[str]] = {}
    for copy in copies:
        for backup_id, found in copy.listed.verifications.items():
            keys.setdefault(backup_id, set()).update(found)

    def read(some: set[str]) -> VerificationSummary | None:
        job.checkpoint()
        return summarise(repository, sorted(some))

    job.report("reading verifications")
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-cleanup") as pool:
        return dict(zip(keys, pool.map(read, keys.values()), strict=True))


def _pins(repository: Repository, copies: Iterable[Survey]) -> dict[str, Pin]:
    keys: dict[str, set[str]] = {}
    for copy in copies:
        for backup_id, found in copy.listed.pins.items():
            keys.setdefault(backup_id, set()).update(found)
    pins = {backup_id: read_pin(repository, some) for backup_id, some in keys.items()}
    return {backup_id: pin for backup_id, pin in pins.items() if pin is not None}


def _locks(config: BackupConfig, *, mirrored: bool) -> tuple[tuple[timedelta | None, ...], tuple[str, ...]]:
    buckets = [bucket_of(config), *([bucket_of(config, mirror=True)] if mirrored else [])]
    answers = [default_lock(config, bucket) for bucket in buckets]
    return tuple(lock for lock, _note in answers), tuple(note for _lock, note in answers if note)


def _bits(numbers: Iterable[int]) -> int:
    found = 0
    for number in numbers:
        found |= 1 << number
    return found


def _whole(key: str) -> bool:
    """Whether a WAL object is a whole segment: 24 digits and nothing else."""
    return len(key.rpartition("/")[2]) == 24
