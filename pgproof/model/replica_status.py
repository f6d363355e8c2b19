"""The state of a replicated cluster: what each node is, how far it is behind, and what is wrong. Pure.

What a role may not see is None, and named in `hidden`: nothing is judged by what was not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pgproof.model.lag import Lag
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.replication_config import ReplicaType
from pgproof.model.wal_status import SlotStatus


class Role(StrEnum):
    """What a node is by what all of them say. STALE is out of recovery on a timeline that has been left, FOREIGN of another
    cluster, and DIVERGED has replayed what its primary never wrote or gave up."""

    PRIMARY = "primary"
    STANDBY = "standby"
    STALE = "stale primary"
    FOREIGN = "foreign cluster"
    DIVERGED = "diverged"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Sender:
    """What pg_stat_replication says of one that streams; lags are the server's own figures, in seconds.

    `replay_lag` is of the newest WAL that was replayed: while replay stands still it keeps its last value, so nothing is judged
    by it.
    """

    pid: int
    application: str
    state: str | None
    sync_state: str | None
    sent: Lsn | None
    flushed: Lsn | None
    replayed: Lsn | None
    flush_lag: float | None
    replay_lag: float | None
    slot: str | None = None

    def to_json(self, position: Lsn | None) -> dict[str, Any]:
        def behind(lsn: Lsn | None) -> int | None:
            return None if lsn is None or position is None else max(0, position - lsn)

        return {
            "application_name": self.application,
            "state": self.state,
            "sync_state": self.sync_state,
            "slot": self.slot,
            "sent_lag_bytes": behind(self.sent),
            "flush_lag_bytes": behind(self.flushed),
            "replay_lag_bytes": behind(self.replayed),
            "flush_lag_seconds": self.flush_lag,
            "replay_lag_seconds": self.replay_lag,
        }


@dataclass(frozen=True, slots=True)
class NodeDetails:
    """What a node tells beside NodeState, asked after it.

    `position` is how far it had written or received by then. `receiving` says whether it has a WAL receiver, `configured`
    whether it is told where to stream from (None if that may not be seen). `conflicts` counts queries that were cancelled for
    recovery since its statistics began.
    """

    position: Lsn | None = None
    slots: tuple[SlotStatus, ...] = ()
    senders: tuple[Sender, ...] = ()
    receiving: bool = False
    configured: bool | None = None
    slot_name: str = ""
    application: str | None = None
    upstream: str | None = None
    conflicts: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node. `lag` is None where nothing is known of it; `sender` is what the node that it streams from says of it.

    `new_conflicts` are those since the look before this one.
    """

    name: str
    server: str
    role: Role
    type: ReplicaType | None = None
    state: NodeState | None = None
    error: str = ""
    hint: str = ""
    lag: Lag | None = None
    details: NodeDetails | None = None
    sender: Sender | None = None
    new_conflicts: int | None = None

    @property
    def up(self) -> bool:
        return self.state is not None

    @property
    def delay(self) -> float:
        """How many seconds it stays behind on purpose."""
        return 0.0 if self.state is None else self.state.apply_delay

    @property
    def excess(self) -> Lag | None:
        """The lag that is held against the limits. Of a node that replays late on purpose: what it has not received, and the
        seconds beyond its delay."""
        if self.lag is None or not self.delay or self.state is None:
            return self.lag
        unreceived = max(0, self.lag.nbytes - max(0, self.state.held - self.state.reached))
        seconds = None if self.lag.seconds is None else max(0.0, self.lag.seconds - self.delay)
        return Lag(unreceived, seconds)

    def to_json(self, position: Lsn | None) -> dict[str, Any]:
        lag, excess, details = self.lag, self.excess, self.details
        return {
            "node": self.name,
            "server": self.server,
            "role": str(self.role),
            "type": None if self.type is None else str(self.type),
            "up": self.up,
            "error": self.error or None,
            "lag_bytes": None if lag is None else lag.nbytes,
            "lag_seconds": None if lag is None else lag.seconds,
            "judged_lag_bytes": None if excess is None else excess.nbytes,
            "judged_lag_seconds": None if excess is None else excess.seconds,
            "state": None if self.state is None else self.state.to_json(),
            "receiving": None if details is None or self.role is Role.PRIMARY else details.receiving,
            "upstream": None if details is None else details.upstream,
            "slot_name": None if details is None else details.slot_name or None,
            "replication": None if self.sender is None else self.sender.to_json(position),
            "slots": None if details is None else [each.to_json() for each in details.slots],
            "conflicts": None if details is None else details.conflicts,
            "new_conflicts": self.new_conflicts,
            "settings": None if details is None else dict(details.settings),
            "not_seen": [] if details is None else list(details.hidden),
        }


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """What counts as too far behind."""

    lag_bytes: int
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class ReplicaProblem:
    """Something that somebody has to do something about; `kind` is one word for programs, `node` whom it is about."""

    kind: str
    node: str
    message: str
    hint: str

    @property
    def key(self) -> str:
        """Names it from one look to the next."""
        return f"{self.kind} {self.node}".strip()

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "node": self.node, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Everything together. `primary` names the node that the lag of the others is counted from, None if there is none."""

    cluster: str
    at: datetime
    limits: ReplicaLimits
    primary: str | None
    nodes: tuple[NodeStatus, ...]
    problems: tuple[ReplicaProblem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def primary_node(self) -> NodeStatus | None:
        return next((each for each in self.nodes if each.name == self.primary), None)

    @property
    def position(self) -> Lsn | None:
        """Where the primary stood when the others were asked."""
        node = self.primary_node
        return None if node is None or node.state is None else node.state.position

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "at": self.at.isoformat(),
            "ok": self.ok,
            "primary": self.primary,
            "max_lag_bytes": self.limits.lag_bytes,
            "max_lag_seconds": self.limits.lag_seconds,
            "nodes": [each.to_json(self.position) for each in self.nodes],
            "problems": [each.to_json() for each in self.problems],
        }
