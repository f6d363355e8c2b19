"""Looks at a cluster's replicas that are remembered: one line each. Pure.

They answer how long ago the primary stood where a replica stands now, which problems have lasted, and what a chart shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pgproof.errors import DataError
from pgproof.model.failover_evidence import LastPrimary
from pgproof.model.lag import PrimaryTrack
from pgproof.model.lsn import Lsn
from pgproof.model.replica_status import NodeStatus, ReplicaStatus, Role

KEEP = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class NodeLook:
    """The lag is the one that is held against the limits; None while nothing is known of it, as of a node that is down.
    `timeline` is the highest that the node was known to be on, 0 if none was."""

    role: str
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    conflicts: int | None = None
    timeline: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """One look. `problems` are the keys of what was wrong, `near` those of lags above half of their limit; `synchronous` are
    the primary's synchronous_standby_names and synchronous_commit, which a failover wants to know."""

    at: datetime
    max_lag_bytes: int
    max_lag_seconds: float
    system: int | None = None
    timeline: int = 0
    primary: str | None = None
    position: Lsn | None = None
    nodes: Mapping[str, NodeLook] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    synchronous: tuple[str, str] | None = None

    def line(self) -> str:
        """One line of JSON, without its end."""
        found = {
            "at": self.at.isoformat(),
            "limits": [self.max_lag_bytes, self.max_lag_seconds],
            "system": None if self.system is None else str(self.system),
            "timeline": self.timeline,
            "primary": self.primary,
            "lsn": None if self.position is None else str(self.position),
            "nodes": {
                name: [each.role, each.lag_bytes, each.lag_seconds, each.conflicts, each.timeline]
                for name, each in self.nodes.items()
            },
            "problems": self.problems,
            "near": self.near,
            "sync": self.synchronous,
        }
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def parse(cls, line: str) -> Look:
        """Raises DataError for what is no such line."""
        try:
            found = json.loads(line)
            at = datetime.fromisoformat(found["at"])
            at.utctimetuple()
            if at.tzinfo is None:
                raise ValueError("a time without its zone")
            return cls(
                at=at,
                max_lag_bytes=int(found["limits"][0]),
                max_lag_seconds=float(found["limits"][1]),
                system=None if found["system"] is None else int(found["system"]),
                timeline=int(found["timeline"]),
                primary=found["primary"],
                position=None if found["lsn"] is None else Lsn.parse(found["lsn"]),
                nodes={str(name): _node(each) for name, each in found["nodes"].items()},
                problems=tuple(map(str, found["problems"])),
                near=tuple(map(str, found["near"])),
                synchronous=_pair(found.get("sync")),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError("a line of the history is damaged", reason=repr(error)[:200]) from error


def _node(given: Any) -> NodeLook:
    role, nbytes, seconds, conflicts, timeline = given
    return NodeLook(
        str(role),
        None if nbytes is None else int(nbytes),
        None if seconds is None else float(seconds),
        None if conflicts is None else int(conflicts),
        int(timeline),
    )


def _pair(given: Any) -> tuple[str, str] | None:
    if given is None:
        return None
    names, commit = given
    return str(names), str(commit)


def look_of(status: ReplicaStatus) -> Look:
    """What is remembered of a status."""
    primary = status.primary_node
    state = None if primary is None else primary.state
    return Look(
        at=status.at,
        max_lag_bytes=status.limits.lag_bytes,
        max_lag_seconds=status.limits.lag_seconds,
        system=None if state is None else state.system_identifier,
        timeline=0 if state is None else state.timeline,
        primary=status.primary,
        position=status.position,
        nodes={each.name: _look_at(each) for each in status.nodes},
        problems=tuple(each.key for each in status.problems),
        near=tuple(_near(status)),
        synchronous=_synchronous(primary),
    )


def last_primary(looks: Sequence[Look]) -> LastPrimary | None:
    """The primary as it was seen last, by whoever looked."""
    for look in reversed(looks):
        if look.primary is not None and look.position is not None:
            names, commit = look.synchronous or (None, "on")
            return LastPrimary(look.timeline, look.position, look.at, look.primary, names, commit)
    return None


def _synchronous(primary: NodeStatus | None) -> tuple[str, str] | None:
    settings = {} if primary is None or primary.details is None else primary.details.settings
    if "synchronous_standby_names" not in settings:
        return None
    return settings["synchronous_standby_names"], settings.get("synchronous_commit", "on")


def _look_at(node: NodeStatus) -> NodeLook:
    lag = node.excess if node.role is Role.STANDBY else None
    conflicts = None if node.details is None else node.details.conflicts
    timeline = 0 if node.state is None else node.state.timeline
    if lag is None:
        return NodeLook(str(node.role), conflicts=conflicts, timeline=timeline)
    seconds = None if lag.seconds is None else round(lag.seconds, 3)
    return NodeLook(str(node.role), lag.nbytes, seconds, conflicts, timeline)


def _near(status: ReplicaStatus) -> Iterable[str]:
    for node in status.nodes:
        lag = node.excess
        if lag is None or node.role is not Role.STANDBY:
            continue
        if 2 * lag.nbytes > status.limits.lag_bytes:
            yield f"lag-bytes {node.name}"
        if lag.seconds is not None and 2 * lag.seconds > status.limits.lag_seconds:
            yield f"lag-seconds {node.name}"


def track_of(looks: Sequence[Look], system: int, timeline: int, now: datetime) -> PrimaryTrack:
    """Where the primary of this timeline stood when, by these looks; moments are seconds since 1970."""
    track = PrimaryTrack(timeline, keep=KEEP.total_seconds())
    for look in looks:
        # What lies in the future was written before the clock was set back.
        if (look.system, look.timeline) == (system, timeline) and look.position and look.at < now:
            track.saw(look.position, look.at.timestamp())
    return track


def timelines_of_nodes(looks: Sequence[Look]) -> dict[tuple[int, str], int]:
    """The highest timeline that each node was seen on, by system identifier and name."""
    found: dict[tuple[int, str], int] = {}
    for look in looks:
        for name, node in look.nodes.items():
            if look.system is not None:
                found[look.system, name] = max(found.get((look.system, name), 0), node.timeline)
    return found


def highest_timelines(looks: Sequence[Look]) -> dict[int, int]:
    """The highest timeline that a primary was ever seen on, by system identifier."""
    found: dict[int, int] = {}
    for look in looks:
        if look.system is not None:
            found[look.system] = max(found.get(look.system, 0), look.timeline)
    return found
