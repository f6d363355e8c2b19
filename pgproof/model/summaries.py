"""When the server's WAL summaries may tell what changed, and what they tell of shortened relations.

PostgreSQL's own incremental backup is not safe by itself (docs/decisions/0012): each rule here is a case in which
it was seen, or is known, to be wrong. Where a rule fails, pages are compared instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.relation_files import Relation, RelationFile

OLDEST_MAJOR = 17


class SummariesUnusable(PreconditionError):
    """The summaries cannot be used for this backup; comparing can."""

    def __init__(self, reason: str, **facts: Any) -> None:
        super().__init__(reason, hint="take the backup with --change-detection compare", **facts)


@dataclass(frozen=True, slots=True)
class SummarizingServer:
    """What the server says of itself over an ordinary connection, just before the backup."""

    system_identifier: str
    in_recovery: bool
    timeline: int
    timeline_history: bytes
    position: Lsn
    summarizes: bool
    log_hints: bool
    segment_bytes: int


class Summary(NamedTuple):
    """The range of WAL that one summary covers."""

    timeline: int
    start: Lsn
    end: Lsn


def reason_against(
    base: Manifest, server: SummarizingServer, major: int, system_identifier: str, data_checksums: bool
) -> str:
    """Why summaries must not be used on top of `base`, or an empty string."""
    degrading = sorted({finding.kind for finding in base.findings if finding.degrades})
    hints = base.settings.get("wal_log_hints") == "on" and server.log_hints
    rules = [
        (major < OLDEST_MAJOR, "the server is older than PostgreSQL 17"),
        (server.system_identifier != system_identifier, "two connections reached two different clusters"),
        (server.in_recovery, "the server is a standby"),
        (not server.summarizes, "summarize_wal is off"),
        (
            not data_checksums and not hints,
            "the cluster has neither data checksums nor, since the base, wal_log_hints",
        ),
        (base.data_checksums != data_checksums, "data checksums were switched since the base"),
        (base.major_version != major, "the base is of another major version"),
        (
            (base.timeline, base.timeline_history) != (server.timeline, server.timeline_history),
            "the server was promoted or restored since the base",
        ),
        (server.position < base.stop_lsn, "the server is behind the base: it was put back"),
        (bool(degrading), f"the base is degraded ({', '.join(degrading)})"),
        (base.standby is not None, "the base was taken from a standby"),
        (not 1 << 20 <= server.segment_bytes <= 1 << 40, "the size of relation segments is unknown"),
    ]
    return next((text for holds, text in rules if holds), "")


def overlapping(summaries: Iterable[Summary], timeline: int, start: Lsn, end: Lsn) -> list[Summary]:
    """The summaries that the server uses for the range.

    Raises SummariesUnusable unless they cover every byte of it.
    """
    found = sorted(s for s in summaries if s.timeline == timeline and s.end > start and s.start < end)
    reached = start
    for summary in found:
        if summary.start > reached:
            break
        reached = max(reached, summary.end)
    if reached < end:
        raise SummariesUnusable("WAL summaries are missing", from_lsn=reached, to_lsn=end)
    return found


@dataclass
class LimitBlocks:
    """For each fork that was created, shortened or removed in a range of WAL: the least length that it had."""

    limits: dict[tuple[Relation, int], int] = field(default_factory=dict)
    _new_databases: set[tuple[int, int]] = field(default_factory=set)

    def add(self, relation: Relation, fork: int, block: int) -> None:
        if not relation.number:
            self._new_databases.add((relation.tablespace, relation.database))
        key = relation, fork
        self.limits[key] = min(block, self.limits.get(key, block))

    def limit(self, relation: Relation, fork: int) -> int | None:
        """Blocks from this one on are not what they were at the beginning of the range; None for no such block."""
        if self._database_is_new(relation):
            return 0
        return self.limits.get((relation, fork))

    def in_file(self, file: RelationFile, segment_pages: int) -> int | None:
        """The same, counted within one segment of the fork."""
        limit = self.limit(file.relation, file.fork)
        return None if limit is None else max(0, limit - file.segment * segment_pages)

    def touches(self, relation: Relation) -> bool:
        """Whether any fork of the relation has a limit."""
        return self._database_is_new(relation) or any((relation, fork) in self.limits for fork in range(4))

    def _database_is_new(self, relation: Relation) -> bool:
        return (relation.tablespace, relation.database) in self._new_databases
