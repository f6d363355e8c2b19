"""What can be restored now, for a drill to draw its moment from, and for its forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgproof.actions.recovery_choosing import all_bases, known_histories
from pgproof.errors import DataError
from pgproof.model.drill import DrillRequest, draw_moment
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import PHYSICAL, Manifest
from pgproof.model.recovery_choice import Base, Reach, choose_bases, choose_timeline, find_reaches, refuse
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import RecoveryTarget, TargetKind
from pgproof.model.source_fingerprint import SourceFingerprint
from pgproof.repository.catalog import find_backup, find_fingerprint, fingerprint_positions
from pgproof.repository.repository import Repository
from pgproof.repository.wal_archive import WalArchive


@dataclass(frozen=True, slots=True)
class Window:
    """Every stretch that can be restored along the newest timeline, or from the one backup that was named."""

    newest: Manifest
    reaches: tuple[Reach, ...]
    bases: tuple[Base, ...]

    def newest_wal_bytes(self, repository: Repository) -> tuple[Manifest, int]:
        """The backup that a recovery to the newest moment begins with, and the WAL it replays."""
        end = self.reaches[-1].end
        for base in choose_bases(self.reaches, None):
            manifest = _readable(repository, base.backup_id)
            if manifest is not None:
                return manifest, end - manifest.start_lsn
        return self.newest, max(0, end - self.newest.start_lsn)


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a drill goes to; `source` are fingerprints that were taken exactly there."""

    request: RecoveryRequest
    backup_id: str | None
    source: SourceFingerprint | None


def look(repository: Repository, backup_id: str | None) -> Window:
    """Raises PreconditionError if there is no such backup, or nothing can be restored."""
    newest = find_backup(repository, backup_id or "latest", PHYSICAL)
    bases = all_bases(repository, newest)
    own = None
    if backup_id is not None:
        bases = [base for base in bases if base.backup_id == newest.backup_id]
        own = bases[0] if bases else None
    archive = WalArchive(repository, newest.system_identifier, newest.wal_segment_size)
    inventory = archive.inventory()
    histories = known_histories(archive, inventory, newest, bases)
    history = choose_timeline(None, histories, bases, own)
    reaches = find_reaches(bases, inventory.coverage(), history, archive.segment_size)
    if not reaches:
        raise refuse("nothing can be restored", reaches, backup=backup_id or "any")
    return Window(newest, reaches, tuple(bases))


def choose_goal(repository: Repository, window: Window, request: DrillRequest, seed: int) -> Goal:
    """The moment that was asked for, else one that is drawn."""
    backup_id = window.newest.backup_id if request.backup_id is not None else None
    if request.target is not None:
        at = request.target.value if request.target.kind is TargetKind.LSN else None
        source = _source(repository, window, at) if isinstance(at, Lsn) else None
        return _goal(request.target, backup_id, source)
    moment = draw_moment(seed, window.reaches, fingerprint_positions(repository))
    source = _source(repository, window, moment.lsn) if moment.compared else None
    return _goal(RecoveryTarget(TargetKind.LSN, moment.lsn), backup_id, source)


def _goal(target: RecoveryTarget, backup_id: str | None, source: SourceFingerprint | None) -> Goal:
    if source is None:
        return Goal(RecoveryRequest(target), backup_id, None)
    exactly = RecoveryTarget(TargetKind.LSN, source.lsn, inclusive=False)
    return Goal(RecoveryRequest(exactly, source.timeline), backup_id, source)


def _source(repository: Repository, window: Window, at: Lsn) -> SourceFingerprint | None:
    known: Sequence[Lsn] = fingerprint_positions(repository)
    return find_fingerprint(repository, str(at), window.newest.system_identifier) if at in known else None


def _readable(repository: Repository, backup_id: str) -> Manifest | None:
    try:
        return repository.read_manifest(backup_id)
    except DataError:
        return None
