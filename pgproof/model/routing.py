"""Which node is written to, and which may be read from. Pure: what was measured, what is remembered and the limits come in.

The writer is the node out of recovery on the highest timeline that was ever seen. A node that is not of our system, that
is out of recovery without being the primary, or that went another way than the primary's timeline is read from by nobody.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import accumulate
from typing import Final

from pgproof.model.cluster_memory import Memory, Standing, standing
from pgproof.model.lag import Lag
from pgproof.model.node import NodeState

# Turns that advance by the golden ratio fall evenly into any shares, and into those of every second or third turn as well.
GOLDEN: Final = 0.6180339887498949
# How much slower than the nearest node still counts as near: a part of its latency, and seconds.
_NEAR_PART, _NEAR_SECONDS = 0.25, 0.0003


class ReadPolicy(StrEnum):
    """By weight among all usable replicas; or by weight among those that are least behind, or nearest by measured latency."""

    WEIGHTED = "weighted"
    LEAST_LAG = "least_lag"
    NEAREST = "nearest"


class Health(StrEnum):
    """SUSPECT after one sign that a node fails, DOWN after a second one by another connection."""

    UNKNOWN = "unknown"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"


class Role(StrEnum):
    """What a node is by what it said last. STALE: out of recovery on a timeline that was left. RIVAL: a second primary on the
    primary's timeline. DIVERGED: a standby that replayed what is not in the primary's history, as far as we can tell.
    """

    UNKNOWN = "unknown"
    PRIMARY = "primary"
    STANDBY = "standby"
    STALE = "stale"
    RIVAL = "rival"
    DIVERGED = "diverged"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one node now: what it said last, how far it was behind then, its smoothed latency in seconds.

    `reads` says whether it may be read from while it is a standby.
    """

    node: str
    health: Health
    state: NodeState | None = None
    lag: Lag | None = None
    latency: float = 0.0
    weight: float = 1.0
    reads: bool = True

    @property
    def alive(self) -> bool:
        return self.state is not None and self.health in (Health.UP, Health.SUSPECT)


@dataclass(frozen=True, slots=True)
class Tier:
    """Nodes that share the reads, and the upper bounds of their shares from 0 to 1."""

    nodes: tuple[str, ...]
    bounds: tuple[float, ...]

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Tier:
        weights = [each.weight for each in seen]
        if not sum(weights):
            weights = [1.0] * len(seen)
        total = sum(weights)
        return cls(tuple(each.node for each in seen), tuple(sofar / total for sofar in accumulate(weights)))

    def pick(self, turn: float) -> str:
        """The node whose share `turn`, a number from 0 to below 1, falls into."""
        return self.nodes[min(bisect_right(self.bounds, turn), len(self.nodes) - 1)]

    def share(self, node: str) -> float:
        index = self.nodes.index(node)
        return self.bounds[index] - (self.bounds[index - 1] if index else 0.0)

    def without(self, nodes: Iterable[str]) -> Tier | None:
        """None if nothing is left."""
        gone = set(nodes)
        widths = [b - a for a, b in zip((0.0, *self.bounds), self.bounds, strict=False)]
        kept = [(node, width) for node, width in zip(self.nodes, widths, strict=True) if node not in gone]
        total = sum(width for _, width in kept)
        if not kept:
            return None
        shares = [width / total for _, width in kept] if total else [1 / len(kept)] * len(kept)
        return Tier(tuple(node for node, _ in kept), tuple(accumulate(shares)))


@dataclass(frozen=True, slots=True)
class Rules:
    """What was configured about reads."""

    max_lag_bytes: int
    max_lag_seconds: float
    policy: ReadPolicy = ReadPolicy.WEIGHTED
    primary_reads: bool = True


@dataclass(frozen=True, slots=True)
class Routing:
    """A decision. `primary` is the node that is the primary; it is `writable` unless `reason` says why not. `rivals`: several
    nodes claim to be it. `unread` has the reason for each node that takes no reads. Reads go to the first of the `tiers` that
    serves.
    """

    primary: str | None = None
    writable: bool = False
    rivals: bool = False
    reason: str = "no node was asked yet"
    roles: Mapping[str, Role] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = ()


def decide(seen: Sequence[Seen], memory: Memory, rules: Rules) -> Routing:
    """`memory` is the one after these were seen."""
    chosen = _choose_primary(seen, memory)
    primary = next((each for each in seen if each.node == chosen.primary), None)
    roles = {each.node: _role(each, chosen, memory) for each in seen}
    unread = {each.node: why for each in seen if (why := _unread(each, roles[each.node], rules))}
    replicas = [each for each in seen if roles[each.node] is Role.STANDBY and each.node not in unread]
    up = [each for each in replicas if each.health is Health.UP]
    tiers = [
        _best([each for each in up if each.weight], rules.policy),
        [each for each in up if not each.weight],
    ]
    rest = [each for each in up if each.weight and each not in tiers[0]]
    tiers.insert(1, rest)
    suspect = [each for each in replicas if each.health is Health.SUSPECT]
    if primary is not None and rules.primary_reads and primary.health is Health.UP:
        tiers += [[primary], suspect]
    else:
        tiers += [suspect, [primary] if primary is not None and rules.primary_reads else []]
    return replace(chosen, roles=roles, unread=unread, tiers=tuple(Tier.of(each) for each in tiers if each))


def _choose_primary(seen: Sequence[Seen], memory: Memory) -> Routing:
    ours = [each for each in seen if each.state is not None and _is_ours(each.state, memory)]
    found = [
        each
        for each in ours
        if each.alive and each.state and each.state.primary and each.state.timeline >= memory.floor
    ]
    written = memory.written
    if written is not None and written[1] == memory.floor:
        stays = [each for each in found if each.node == written[0]]
        if found and not stays:
            return Routing(
                rivals=True,
                reason=f"{found[0].node} is out of recovery on the timeline on which {written[0]} was written to",
            )
        found = stays
    if len(found) > 1:
        names = " and ".join(each.node for each in found)
        return Routing(rivals=True, reason=f"{names} are both primaries of one timeline")
    if not found:
        return Routing(reason=_no_primary(seen, ours, memory))
    state = found[0].state
    assert state is not None
    if state.read_only:
        return Routing(
            found[0].node, reason=f"{found[0].node} is set to read-only (default_transaction_read_only)"
        )
    return Routing(found[0].node, writable=True, reason="")


def _no_primary(seen: Sequence[Seen], ours: Sequence[Seen], memory: Memory) -> str:
    for each in ours:
        if each.state and each.state.primary:
            if each.state.timeline < memory.floor:
                return f"{each.node} is on timeline {each.state.timeline}, and {memory.floor} has begun"
            return f"the primary {each.node} is {each.health}"
    if ours:
        return "every node that answers is in recovery"
    return "no node answers" if not any(each.alive for each in seen) else "the nodes are of different systems"


def _role(each: Seen, chosen: Routing, memory: Memory) -> Role:
    state = each.state
    if state is None:
        return Role.UNKNOWN
    if not _is_ours(state, memory):
        return Role.FOREIGN
    if state.primary:
        if each.node == chosen.primary:
            return Role.PRIMARY
        if state.timeline < memory.floor:
            return Role.STALE
        return Role.RIVAL if chosen.primary or chosen.rivals else Role.PRIMARY
    if state.timeline == memory.floor:
        return Role.STANDBY
    return Role.STANDBY if standing(state.timeline, state.reached, memory) is Standing.KEPT else Role.DIVERGED


def _unread(each: Seen, role: Role, rules: Rules) -> str:
    """Why this node takes no reads now; nothing if it does, or is the primary."""
    if role is Role.PRIMARY:
        return ""
    if not each.alive:
        return f"it is {each.health}"
    if role is not Role.STANDBY:
        return f"it is {role}"
    if not each.reads:
        return "it is configured for other things than reads"
    if each.lag is None or each.lag.seconds is None:
        return "how far it is behind is not known"
    if not each.lag.within(rules.max_lag_bytes, rules.max_lag_seconds):
        return f"it is {each.lag.nbytes} bytes, {each.lag.seconds:.1f} s behind"
    return ""


def _best(seen: list[Seen], policy: ReadPolicy) -> list[Seen]:
    if policy is ReadPolicy.WEIGHTED or not seen:
        return seen
    if policy is ReadPolicy.LEAST_LAG:
        least = min(each.lag.nbytes for each in seen if each.lag is not None)
        return [each for each in seen if each.lag is not None and each.lag.nbytes == least]
    nearest = min(each.latency for each in seen)
    return [each for each in seen if each.latency <= nearest * (1 + _NEAR_PART) + _NEAR_SECONDS]


def _is_ours(state: NodeState, memory: Memory) -> bool:
    return state.system_identifier == memory.system_identifier
