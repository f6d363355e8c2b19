"""What a failover would lose: against what the primary was last seen to have, against the archive and the other nodes, and
whether synchronous replication guarantees that no acknowledged commit is among it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.model.failover_evidence import Archived, LastPrimary, NodeFacts
from pgproof.model.failover_nodes import Verdict
from pgproof.model.lsn import Lsn
from pgproof.model.node import record_end
from pgproof.model.synchronous import required
from pgproof.model.wal_stream import APPLICATION_NAME

# The weaker ones do not wait for a standby's disk, or for no standby at all.
_WAITS_FOR_FLUSH = ("on", "remote_apply")


@dataclass(frozen=True, slots=True)
class Loss:
    """Every record that ends at or before `kept` survives. Each figure is in bytes behind that; None is not known.

    `guaranteed` says that no commit that was acknowledged under the primary's own synchronous_commit is lost.
    """

    kept: Lsn
    timeline: int
    primary_bytes: int | None = None
    primary_at: datetime | None = None
    archive_bytes: int | None = None
    archive_end: Lsn | None = None
    other_bytes: int = 0
    other_node: str = ""
    guaranteed: bool = False
    why: str = ""

    @property
    def known_bytes(self) -> int:
        """What is known to be lost; it may be more."""
        return max(self.primary_bytes or 0, self.archive_bytes or 0, self.other_bytes)

    def lines(self) -> list[str]:
        found = [f"kept: everything up to {self.kept} of timeline {self.timeline}"]
        if self.primary_bytes is None:
            found.append("the primary's last position is not known: how much is lost is not known either")
        elif self.primary_at is not None:
            found.append(
                f"the primary was {self.primary_bytes:,} bytes ahead of that when it was last seen, "
                f"at {self.primary_at:%Y-%m-%d %H:%M:%S} UTC"
            )
        if self.archive_bytes:
            found.append(
                f"the archive is ahead of the new timeline by {self.archive_bytes:,} bytes, up to {self.archive_end}; to look "
                f"into them: pgproof restore --data-dir DIR --to-lsn {self.archive_end} --timeline {self.timeline}"
            )
        elif self.archive_bytes == 0:
            found.append("the archive is not ahead of the new timeline")
        if self.other_bytes:
            found.append(f"{self.other_node}, which cannot take over, holds {self.other_bytes:,} bytes more")
        found.append(f"synchronous replication: {self.why}")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "kept_lsn": str(self.kept),
            "timeline": self.timeline,
            "known_lost_bytes": self.known_bytes,
            "primary_ahead_bytes": self.primary_bytes,
            "primary_seen_at": self.primary_at.isoformat() if self.primary_at else None,
            "archive_ahead_bytes": self.archive_bytes,
            "archive_end_lsn": None if self.archive_end is None else str(self.archive_end),
            "other_node": self.other_node or None,
            "other_ahead_bytes": self.other_bytes,
            "nothing_acknowledged_is_lost": self.guaranteed,
            "synchronous": self.why,
        }


def loss_of(
    chosen: Verdict,
    verdicts: Sequence[Verdict],
    last: LastPrimary | None,
    archive: Archived | None,
    facts: Mapping[str, NodeFacts],
) -> Loss:
    """If `chosen` took over with what it holds now."""
    kept, timeline = chosen.held, chosen.timeline
    size = chosen.state.segment_size if chosen.state else 1 << 24

    def ahead(lsn: Lsn) -> int:
        return max(0, record_end(lsn, size) - record_end(kept, size))

    known = last if last is not None and last.timeline == timeline else None
    end = archive.ends.get(timeline) if archive else None
    others = [
        each for each in verdicts if each.state and each.timeline == timeline and each.node != chosen.node
    ]
    most = max(others, key=lambda each: each.held, default=None)
    more = ahead(most.held) if most is not None and most.state and most.state.in_recovery else 0
    guaranteed, why = _guarantee(chosen, verdicts, last, end, facts)
    return Loss(
        kept=kept,
        timeline=timeline,
        primary_bytes=None if known is None else ahead(known.position),
        primary_at=None if known is None else known.at,
        archive_bytes=None if archive is None else 0 if end is None else ahead(end),
        archive_end=end,
        other_bytes=more,
        other_node=most.node if more and most is not None else "",
        guaranteed=guaranteed,
        why=why,
    )


def _guarantee(
    chosen: Verdict,
    verdicts: Sequence[Verdict],
    last: LastPrimary | None,
    archived: Lsn | None,
    facts: Mapping[str, NodeFacts],
) -> tuple[bool, str]:
    """Each commit is on `count` of the listed standbys. Whoever asks all but `count - 1` of them has asked one that has it,
    and the most advanced of those has all (the reasoning of a quorum)."""
    setting = last.synchronous_standby_names if last else None
    if setting is None:
        own = facts.get(chosen.node, NodeFacts()).synchronous_standby_names
        if not own:
            return False, "not known of the old primary"
        return False, f"{chosen.node} is set to '{own}'; whether the old primary was, is not known"
    count, names = required(setting)
    if not count:
        return False, "off, so that what was acknowledged last may be lost"
    if last is not None and last.synchronous_commit not in _WAITS_FOR_FLUSH:
        return (
            False,
            f"synchronous_commit is {last.synchronous_commit}: commits do not wait for a standby's disk",
        )
    if "*" in names:
        return False, "every standby may be the one that a commit waited for, and not all are known"
    standbys = [each for each in verdicts if each.state and each.state.in_recovery and each.node in facts]
    asked = Counter(facts[each.node].name.lower() for each in standbys)
    if doubled := sorted(name for name in names if asked[name] > 1):
        return False, f"several nodes are called {', '.join(doubled)}"
    seen = {facts[each.node].name.lower(): each.held for each in standbys if each.timeline == chosen.timeline}
    if archived is not None:
        seen[APPLICATION_NAME] = archived
    listed = {name: seen[name] for name in names if name in seen}
    wanted = len(set(names)) - count + 1
    if len(listed) < wanted:
        missing = ", ".join(sorted(set(names) - set(listed)))
        return False, f"a commit may have waited for {missing} alone, which cannot be asked"
    size = chosen.state.segment_size if chosen.state else 1 << 24
    ahead = [n for n, held in listed.items() if record_end(held, size) > record_end(chosen.held, size)]
    if ahead:
        return False, f"{', '.join(sorted(ahead))} holds more than {chosen.node}"
    return True, f"no acknowledged commit is lost: each waited for {count} of {', '.join(names)}"
