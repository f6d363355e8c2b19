"""Everything that a router knows, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from pgproof.model.lag import Lag
from pgproof.model.node import NodeState
from pgproof.model.patroni import PatroniView
from pgproof.model.routing import Health, Role
from pgproof.routing.cluster import Cluster
from pgproof.routing.node import Counts, Node


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node. `lag` was measured by its last good check, `checked_seconds_ago`; `reason` says why it takes no reads, if it
    does not. `tier` is the place of its group in the order in which reads are tried, from 0, and `share` its part of the
    group's reads. `pools` has psycopg_pool's figures for reads and for writes.
    """

    id: str
    server: str
    health: Health
    role: Role
    state: NodeState | None
    lag: Lag | None
    latency_seconds: float
    weight: float
    tier: int | None
    share: float
    reason: str
    checked_seconds_ago: float | None
    next_check_seconds: float
    failed_in_row: int
    counts: Counts
    pools: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "server": self.server,
            "health": str(self.health),
            "role": str(self.role),
            "timeline": self.state.timeline if self.state else None,
            "lag_bytes": self.lag.nbytes if self.lag else None,
            "lag_seconds": self.lag.seconds if self.lag else None,
            "latency_seconds": round(self.latency_seconds, 6),
            "weight": self.weight,
            "tier": self.tier,
            "share": round(self.share, 6),
            "reason": self.reason,
            "checked_seconds_ago": self.checked_seconds_ago,
            "next_check_seconds": self.next_check_seconds,
            "failed_in_row": self.failed_in_row,
            "counts": asdict(self.counts),
            "pools": dict(self.pools),
            "state": self.state.to_json() if self.state else None,
        }


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """`primary` is the node that is the primary, `writer` the same if it may be written to; `reason` says why there is none.
    `timeline` is the highest one that was seen, and `switches` how often the primary has become another one. `patroni` is what it
    said last, where one is configured, and `patroni_problem` why it cannot be asked now.
    """

    at: datetime
    primary: str | None
    writer: str | None
    reason: str
    system_identifier: int | None
    timeline: int
    switches: int
    patroni: PatroniView | None
    patroni_problem: str
    nodes: tuple[NodeStatus, ...]

    def node(self, name: str) -> NodeStatus:
        return next(each for each in self.nodes if each.id == name)

    def to_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "primary": self.primary,
            "writer": self.writer,
            "reason": self.reason,
            "system_identifier": None if self.system_identifier is None else str(self.system_identifier),
            "timeline": self.timeline,
            "switches": self.switches,
            "patroni_leader": leader.name if self.patroni and (leader := self.patroni.leader) else None,
            "patroni_problem": self.patroni_problem,
            "nodes": [each.to_json() for each in self.nodes],
        }


def status_of(cluster: Cluster) -> RouterStatus:
    routing, now = cluster.routing, monotonic()
    return RouterStatus(
        at=datetime.now(UTC),
        primary=routing.primary,
        writer=routing.primary if routing.writable else None,
        reason=routing.reason,
        system_identifier=cluster.memory.system_identifier,
        timeline=cluster.memory.floor,
        switches=cluster.switches,
        patroni=cluster.patroni.view,
        patroni_problem=cluster.patroni.problem,
        nodes=tuple(_node(cluster, each, now) for each in tuple(cluster.nodes.values())),
    )


def _node(cluster: Cluster, node: Node, now: float) -> NodeStatus:
    tier, share = None, 0.0
    for number, each in enumerate(cluster.routing.tiers):
        if node.id in each.nodes:
            tier, share = number, each.share(node.id)
            break
    return NodeStatus(
        id=node.id,
        server=str(node.config),
        health=node.seen(now).health,
        role=cluster.role(node.id),
        state=node.state,
        lag=node.lag if cluster.role(node.id) is not Role.PRIMARY else None,
        latency_seconds=node.latency,
        weight=node.weight,
        tier=tier,
        share=share,
        reason=node.reason or cluster.routing.unread.get(node.id, ""),
        checked_seconds_ago=None if node.state is None else now - node.checked,
        next_check_seconds=max(0.0, node.next_check - now),
        failed_in_row=node.failed_in_row,
        counts=Counts(**asdict(node.counts)),
        pools=node.figures(),
    )
