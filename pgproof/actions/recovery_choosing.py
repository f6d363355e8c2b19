"""Choose the backup, the timeline and the stop of a restore; nothing is written but scratch files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pgproof.actions.find_stop import StopFinder
from pgproof.actions.materialise import read_essentials
from pgproof.actions.wal_reading import wal_reading
from pgproof.errors import DataError
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import PHYSICAL, Manifest
from pgproof.model.recovery_choice import (
    Base,
    Reach,
    choose_bases,
    choose_timeline,
    find_reaches,
    refuse_branches,
)
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import RecoveryTarget, TargetKind
from pgproof.model.stop_point import StopPoint
from pgproof.model.timelines import TimelineHistory
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import find_programs
from pgproof.repository.catalog import find_backup, list_backups, refutation
from pgproof.repository.integrity import check_objects
from pgproof.repository.repository import Repository
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_inventory import Inventory

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ChosenRecovery:
    """`wal_end` is how far WAL from the repository is needed, None where the backup's own is enough."""

    manifest: Manifest
    history: TimelineHistory
    stop: StopPoint
    wal_end: Lsn | None
    archive: WalArchive
    inventory: Inventory
    notes: tuple[str, ...] = ()


def choose_recovery(
    repository: Repository,
    config: BackupConfig,
    backup_id: str | None,
    request: RecoveryRequest,
    *,
    recover: bool,
    user: OsUser | None,
    job: Job,
) -> ChosenRecovery:
    """Without `backup_id` the backup is picked that leads to the target with the least WAL.

    Raises PreconditionError for a target that cannot be reached, saying what can be; DataError for damage.
    """
    # The newest backup may end behind the target: then "latest" can only mean that one shall be picked.
    picked = backup_id is None or (backup_id == "latest" and request.target is not None)
    newest = find_backup(repository, "latest" if backup_id is None else backup_id, PHYSICAL)
    bases = all_bases(repository, newest) if picked else [_base(newest)]
    archive = WalArchive(repository, newest.system_identifier, newest.wal_segment_size)
    inventory = archive.inventory()
    chooser = _Chooser(repository, config, request, archive, inventory, newest, bases, picked, user, job)
    return chooser.choose(recover)


@dataclass(frozen=True)
class _Chooser:
    repository: Repository
    config: BackupConfig
    request: RecoveryRequest
    archive: WalArchive
    inventory: Inventory
    newest: Manifest
    bases: Sequence[Base]
    picked: bool
    user: OsUser | None
    job: Job

    def choose(self, recover: bool) -> ChosenRecovery:
        target = self.request.wanted
        if not self.picked:
            self._require_own_wal(self.newest)
        histories = known_histories(self.archive, self.inventory, self.newest, self.bases)
        own = None if self.picked else self.bases[0]
        wanted = own.timeline if own and target.kind is TargetKind.BACKUP_END else self.request.timeline
        history = choose_timeline(wanted, histories, self.bases, own)
        if self.request.standby is not None and self.request.timeline is None:
            coverage = self.inventory.coverage()
            refuse_branches(histories, history, coverage, self.archive.segment_size)
        reaches = find_reaches(self.bases, self.inventory.coverage(), history, self.archive.segment_size)
        others = [timeline for timeline in sorted(histories) if timeline != history.timeline]
        if not reaches or target.kind not in (TargetKind.LATEST, TargetKind.BACKUP_END):
            reach, stop = self._find(target, history, reaches, others)
            bases = choose_bases([reach], stop.at)
            manifest, notes = self._healthy(bases)
            return self._chosen(manifest, history, stop, reach.end, notes)
        manifest, notes = self._healthy(choose_bases(reaches, None))
        at_least = Lsn(manifest.stop_lsn.value - 1)
        if target.kind is TargetKind.BACKUP_END:
            stop = StopPoint(at_least, backup_end=True)
            return self._chosen(manifest, histories[manifest.timeline], stop, None, notes)
        reach = reaches[-1]
        if reach.end <= manifest.wal_segments[-1].end and history.timeline == manifest.timeline:
            return self._chosen(manifest, history, StopPoint(at_least), None, notes)
        stop = StopPoint(at_least)
        if recover:
            _reach, stop = self._find(target, history, reaches, others)
        return self._chosen(manifest, history, stop, reach.end, notes)

    def _chosen(
        self,
        manifest: Manifest,
        history: TimelineHistory,
        stop: StopPoint,
        wal_end: Lsn | None,
        notes: Iterable[str],
    ) -> ChosenRecovery:
        notes = (*notes, *stop.notes)
        useless = {segment.start + offset for segment, offset in self.inventory.minimal}
        if stop.at is None and wal_end in useless:
            # The segment goes on, and PostgreSQL would give up at the record that stands here.
            stop = replace(stop, at=wal_end, inclusive=False)
            notes = (
                *notes,
                f"from {wal_end} on the server ran with wal_level = minimal: no restore passes that",
            )
        return ChosenRecovery(manifest, history, stop, wal_end, self.archive, self.inventory, notes)

    def _find(
        self,
        target: RecoveryTarget,
        history: TimelineHistory,
        reaches: Sequence[Reach],
        others: Sequence[int],
    ) -> tuple[Reach, StopPoint]:
        programs = find_programs(self.newest.major_version, self.config.bin_dir)
        with wal_reading(
            self.archive, self.inventory, history, self.config, programs, self.user, self.job
        ) as reading:
            return StopFinder(reading, reaches, others, self._begun, self.job).find(target)

    def _begun(self, base: Base) -> datetime:
        """The time of the checkpoint that a backup begins with. The clock that matters is the server's."""
        picked = base.backup_id != self.newest.backup_id
        manifest = self.repository.read_manifest(base.backup_id) if picked else self.newest
        try:
            if manifest is not None:
                return read_essentials(self.repository, manifest).parsed.checkpoint_time
        except DataError:
            if not self.picked:
                raise
        # It will not be chosen, but the WAL from its start on may serve another one.
        return base.stopped_at

    def _healthy(self, bases: Sequence[Base]) -> tuple[Manifest, list[str]]:
        """The best of the bases whose objects are all there and that no audit refuted; a named one is taken as it is."""
        if not self.picked:
            wrong = refutation(self.repository, self.newest.backup_id)
            return self.newest, [f"DO NOT TRUST this backup: {wrong}"] if wrong else []
        notes: list[str] = []
        for base in bases:
            self.job.checkpoint()
            try:
                manifest = self.repository.read_manifest(base.backup_id)
                if manifest is None:
                    continue
                self._require_own_wal(manifest)
                _detail, damage = check_objects(self.repository, manifest, self.job)
                wrong = refutation(self.repository, base.backup_id)
                damage = [wrong, *damage] if wrong else damage
                if not damage:
                    return manifest, notes
            except DataError as error:
                damage = [str(error).partition("\n")[0]]
            notes.append(f"backup {base.backup_id} was passed over, because it is damaged: {damage[0]}")
        raise DataError(
            "every backup that leads to the target is damaged",
            hint="\n".join(notes[:_SHOWN]) or "choose another target",
        )

    def _require_own_wal(self, manifest: Manifest) -> None:
        coverage = self.inventory.coverage()
        for segment in manifest.wal_segments:
            if coverage.run_end(segment.timeline, segment.start) < min(segment.end, manifest.stop_lsn):
                raise DataError(
                    "a WAL segment is missing",
                    hint="this backup cannot be restored; take another one",
                    key=self.repository.layout.segment(segment),
                    backup=manifest.backup_id,
                )


def known_histories(
    archive: WalArchive, inventory: Inventory, newest: Manifest, bases: Iterable[Base]
) -> dict[int, TimelineHistory]:
    """Every timeline that is known; one without a history file is a root, as PostgreSQL has it."""
    timelines = {*inventory.histories, *inventory.coverage().timelines}
    timelines |= {base.timeline for base in bases}
    found = {}
    for timeline in timelines:
        history = archive.history(timeline) if timeline in inventory.histories else TimelineHistory(timeline)
        found[timeline] = history
    if newest.timeline_history and newest.timeline not in inventory.histories:
        try:
            found[newest.timeline] = TimelineHistory.parse(newest.timeline, newest.timeline_history)
        except DataError as error:
            key = archive.repository.layout.manifest(newest.backup_id)
            raise DataError(error.message, hint=error.hint, key=key, **error.context) from error
    return found


def _base(manifest: Manifest) -> Base:
    return Base(
        manifest.backup_id, manifest.timeline, manifest.start_lsn, manifest.stop_lsn, manifest.finished_at
    )


def all_bases(repository: Repository, newest: Manifest) -> list[Base]:
    """All backups of the same cluster; what cannot be read is no place to start from."""
    return [
        Base(info.backup_id, info.timeline, info.start_lsn, info.stop_lsn, info.finished_at)
        for info in list_backups(repository)
        if info.status != "damaged"
        and info.method == newest.method
        and info.system_identifier == newest.system_identifier
    ]
