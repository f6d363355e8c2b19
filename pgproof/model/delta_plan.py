"""What a restore over an existing directory removes, and what it leaves alone.

PostgreSQL keeps its own files in directories of fixed names. What lies in these and is not in the backup goes:
relation files that survived would be extra data, and old WAL would be replayed. Everything else in the directory
is somebody's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgproof.model.lsn import Lsn

# Tells a directory in the middle of a delta restore, which has no pg_control, from any other.
MARKER = b"pgproof-delta-restore"
_DIRECTORIES = frozenset(
    b"base global pg_commit_ts pg_dynshmem pg_logical pg_multixact pg_notify pg_replslot pg_serial pg_snapshots "
    b"pg_stat pg_stat_tmp pg_subtrans pg_tblspc pg_twophase pg_wal pg_xact".split()
)
_FILES = frozenset(
    b"PG_VERSION backup_label backup_label.old backup_manifest backup_manifest.tmp current_logfiles "
    b"postgresql.auto.conf postgresql.auto.conf.parked postgresql.auto.conf.tmp postmaster.opts postmaster.pid "
    b"recovery.signal standby.signal tablespace_map tablespace_map.old".split()
)
_SHOWN = 20


def belongs_to_postgres(path: bytes) -> bool:
    """Whether a path, relative to a data directory, is one where PostgreSQL keeps its own files."""
    head, slash, _rest = path.partition(b"/")
    return head in _DIRECTORIES if slash else head in _FILES


def is_fixed_directory(path: bytes) -> bool:
    """Whether it is one of the directories themselves."""
    return path in _DIRECTORIES


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """`state`, `timeline` and `checkpoint_lsn` describe the cluster that is overwritten; None where an earlier
    delta restore was broken off. `removed` and `kept` are paths for people, the first ones of `removed_count`
    and `kept_count`."""

    state: str | None
    timeline: int | None
    checkpoint_lsn: Lsn | None
    removed: tuple[str, ...]
    removed_count: int
    kept: tuple[str, ...]
    kept_count: int

    def lines(self) -> list[str]:
        old = (
            f"a cluster that is {self.state}, on timeline {self.timeline}, last checkpoint {self.checkpoint_lsn}"
            if self.state
            else "what a delta restore that was broken off has left"
        )
        text = [f"overwrites        {old}"]
        for word, paths, count in (
            ("removes", self.removed, self.removed_count),
            ("leaves alone", self.kept, self.kept_count),
        ):
            shown = paths[:_SHOWN]
            text += [f"{word:<18}{path}" for path in shown]
            if count > len(shown):
                text.append(f"{word:<18}and {count - len(shown):,} more")
        return text

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "timeline": self.timeline,
            "checkpoint_lsn": str(self.checkpoint_lsn) if self.checkpoint_lsn else None,
            "removed": list(self.removed),
            "removed_count": self.removed_count,
            "left_alone": list(self.kept),
            "left_alone_count": self.kept_count,
        }
