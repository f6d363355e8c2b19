"""What of a repository is still needed: by backups that stay, by runs at work, by what cannot be read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pgproof.model.config import BackupType
from pgproof.model.wal_retention import NeededWal, WalBase

# A run without a sign of life is dead: sooner once a later backup is there, because then nobody goes on with what it stored.
SILENT = timedelta(hours=24)
SILENT_AND_NEWEST = timedelta(days=7)
# What nothing explains is left alone while it is young.
UNEXPLAINED = timedelta(days=1)
# A run may need WAL from before its intent: a standby's last restart point is up to a day old.
WAL_BEFORE_INTENT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class StoredBackup:
    """What a readable manifest names: packs by their owner as a bitmap (bit n is pack n), maps by their hashes."""

    backup_id: str
    type: BackupType
    method: str
    finished_at: datetime
    status: str
    clean: bool
    packs: Mapping[str, int]
    maps: Sequence[str]
    wal: WalBase | None
    last_segment: int = 0
    history: bytes = b""
    block_size: int = 8192


@dataclass(frozen=True, slots=True)
class StoredRun:
    """An intent without a readable manifest. `parents` are the runs whose packs it may name, None where that cannot be
    read; `intended` and `last_sign` are by the store's clock."""

    backup_id: str
    parents: tuple[str, ...] | None
    intended: datetime
    last_sign: datetime

    def dead(self, newest_backup: str, now: datetime) -> bool:
        """Whether it has been silent for so long that it is given up."""
        silence = SILENT if self.backup_id < newest_backup else SILENT_AND_NEWEST
        return now - self.last_sign > silence


@dataclass
class Needed:
    """What may not be deleted."""

    packs: dict[str, int] = field(default_factory=dict)
    runs: set[str] = field(default_factory=set)
    maps: set[str] = field(default_factory=set)
    wal: NeededWal = field(default_factory=NeededWal)
    all_packs: bool = False
    all_maps: bool = False
    all_wal: bool = False
    # Only WAL that was stored before this may go.
    wal_before: datetime | None = None

    def needs_pack(self, owner: str, number: int) -> bool:
        return self.all_packs or owner in self.runs or bool(self.packs.get(owner, 0) >> number & 1)

    def needs_map(self, name: str) -> bool:
        return self.all_maps or name in self.maps

    def needs_wal(self, timeline: int, number: int, stored_at: datetime) -> bool:
        return (
            self.all_wal
            or (timeline, number) in self.wal
            or (self.wal_before is not None and stored_at >= self.wal_before)
        )

    def add_backup(self, backup: StoredBackup) -> None:
        for owner, numbers in backup.packs.items():
            self.packs[owner] = self.packs.get(owner, 0) | numbers
        self.maps.update(backup.maps)

    def add_run(self, run: StoredRun) -> None:
        """One that is at work: it may find any map stored already, and needs WAL that nobody knows of yet."""
        self._add_packs_of(run)
        self.all_maps = True
        before = run.intended - WAL_BEFORE_INTENT
        self.wal_before = before if self.wal_before is None else min(self.wal_before, before)

    def add_unreadable(self, intent: StoredRun | None) -> None:
        """A manifest that cannot be read may name all that its intent allows, any map and any WAL."""
        self._add_packs_of(intent)
        self.all_maps = self.all_wal = True

    def _add_packs_of(self, run: StoredRun | None) -> None:
        if run is None or run.parents is None:
            self.all_packs = True
        else:
            self.runs.update((run.backup_id, *run.parents))


def needed(
    kept: Iterable[StoredBackup],
    running: Iterable[StoredRun],
    unreadable: Iterable[StoredRun | None],
    wal: NeededWal,
) -> Needed:
    """All that may not be deleted: `kept` are the backups that stay, `unreadable` intents of manifests that cannot be read."""
    found = Needed(wal=wal)
    for backup in kept:
        found.add_backup(backup)
    for run in running:
        found.add_run(run)
    for intent in unreadable:
        found.add_unreadable(intent)
    return found
