"""Whether the WAL is there that leads from a directory, or from a backup, to the primary. Pure."""

from __future__ import annotations

from pgproof.model.rebuild_evidence import Directory, Primary, Stored, StoredBackup
from pgproof.model.wal_coverage import reachable_end


def lacks_wal(directory: Directory, primary: Primary, stored: Stored | None) -> str:
    """Empty if the primary has all WAL from the replica's position on, or the repository has it up to where the primary's
    begins."""
    size = primary.state.segment_size
    needed = directory.position.segment_start(size)
    if primary.oldest_wal is not None and primary.oldest_wal <= needed:
        return ""
    reached = needed if stored is None else reachable_end(stored.coverage, needed, primary.history, size)
    if primary.oldest_wal is not None and reached >= primary.oldest_wal:
        return ""
    where = "the primary" if stored is None else "neither the primary nor the repository"
    has = "does not have" if stored is None else "has"
    return f"{where} {has} all the WAL from {needed} on"


def leading_backup(primary: Primary, stored: Stored | None) -> StoredBackup | None:
    """The newest one from which WAL leads to the primary."""
    if stored is None or primary.oldest_wal is None:
        return None
    size = primary.state.segment_size
    for backup in stored.backups:
        if not primary.history.passes(backup.timeline, backup.stop):
            continue
        start = backup.stop.segment_start(size)
        reached = max(backup.stop, reachable_end(stored.coverage, start, primary.history, size))
        if reached >= primary.oldest_wal:
            return backup
    return None
