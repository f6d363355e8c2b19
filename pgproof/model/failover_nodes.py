"""Which nodes could take over, and why the others cannot. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pgproof.errors import EngineError
from pgproof.model.failover_evidence import Answers, Archived
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end
from pgproof.model.replication_config import PRIMARY, ReplicationConfig, ReplicaType


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a node is, and whether it could be promoted; `reason` says why, or why never."""

    node: str
    state: NodeState | None
    eligible: bool
    reason: str

    @property
    def held(self) -> Lsn:
        return self.state.held if self.state else Lsn(0)

    @property
    def timeline(self) -> int:
        return self.state.timeline if self.state else 0

    def to_json(self) -> dict[str, Any]:
        state = self.state
        return {
            "node": self.node,
            "role": None if state is None else "standby" if state.in_recovery else "primary",
            "timeline": None if state is None else state.timeline,
            "received_lsn": None if state is None else str(state.held),
            "replay_lsn": None if state is None or state.replayed is None else str(state.replayed),
            "eligible": self.eligible,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Roles:
    """Who writes now: `current`, or nobody. `stale` are nodes out of recovery that an older timeline has left behind,
    `rivals` are out of recovery on the newest timeline beside `current`."""

    current: NodeState | None
    stale: tuple[NodeState, ...] = ()
    rivals: tuple[NodeState, ...] = ()


def cluster_of(answers: Answers, archive: Archived | None) -> int | None:
    """The system identifier that counts: the configured primary's, else the repository's, else that of most nodes; None where
    nobody answers, or as many nodes are of one cluster as of another."""
    first = answers.get(PRIMARY)
    if isinstance(first, NodeState):
        return first.system_identifier
    if archive is not None:
        return archive.system_identifier
    most = Counter(each.system_identifier for each in answers.values() if isinstance(each, NodeState))
    ranked = most.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def roles_of(answers: Answers, cluster: int | None) -> Roles:
    """Roles are measured: whoever is out of recovery on the highest timeline that any node is on."""
    members = [
        each for each in answers.values() if isinstance(each, NodeState) and each.system_identifier == cluster
    ]
    newest = max((each.timeline for each in members), default=0)
    writing = [each for each in members if each.primary]
    now = [each for each in writing if each.timeline == newest]
    stale = tuple(each for each in writing if each.timeline < newest)
    return Roles(now[0] if now else None, stale, tuple(now[1:]))


def judge_nodes(
    answers: Answers,
    replication: ReplicationConfig,
    cluster: int | None,
    archive: Archived | None,
    current: NodeState | None,
) -> tuple[Verdict, ...]:
    """One for each node, in the order of the configuration."""
    types = {each.id: each.replica_type for each in replication.replicas}
    found = []
    for node, answer in answers.items():
        if isinstance(answer, EngineError):
            found.append(Verdict(node, None, False, _words(answer)))
            continue
        never = _never(answer, types.get(node, ReplicaType.READ_ONLY), cluster, archive, current)
        found.append(Verdict(node, answer, not never, never or "a standby that could take over"))
    return tuple(found)


def _never(
    state: NodeState,
    kind: ReplicaType,
    cluster: int | None,
    archive: Archived | None,
    current: NodeState | None,
) -> str:
    """Why it can never take over; empty if it can."""
    if state.system_identifier != cluster:
        return f"another cluster: its system identifier is {state.system_identifier}"
    if state.primary:
        newest = current is not None and state.node == current.node
        return "it is the primary" if newest else "out of recovery on a timeline that was left"
    if kind is ReplicaType.DELAYED or state.apply_delay > 0:
        return "it stays behind on purpose" + (
            f" ({state.apply_delay:g} s)" if state.apply_delay > 0 else " (delayed)"
        )
    if state.replay_paused:
        return "its replay is paused"
    if not state.held.value:
        return "it has no WAL yet"
    if current is not None and diverged(state, current):
        return f"it has WAL beyond {current.branched_at}, where timeline {current.timeline} branched off"
    history = archive.histories.get(archive.timeline) if archive else None
    end = record_end(state.held, state.segment_size)
    if history is not None and state.timeline < history.timeline and not history.passes(state.timeline, end):
        return f"it is not on the way to timeline {history.timeline}, which the archive knows"
    return ""


def diverged(state: NodeState, primary: NodeState, kept: Lsn | None = None) -> bool:
    """Whether a standby holds WAL of the old timeline behind the point where the primary's own branched off.

    Up to `kept`, what the promoted server had received itself, that can only be the beginning of a record that never came whole.
    """
    branch = primary.branched_at
    if branch is None or state.timeline >= primary.timeline:
        return False
    size = state.segment_size
    limit = max(branch, kept or branch)
    replayed = record_end(state.replayed or Lsn(0), size)
    return replayed > branch or record_end(state.held, size) > limit


def rank(verdict: Verdict, replication: ReplicationConfig) -> tuple[int, Lsn, bool]:
    """The most advanced is the highest; among equals one that is there to take over."""
    standby = any(
        each.id == verdict.node and each.replica_type is ReplicaType.STANDBY for each in replication.replicas
    )
    return verdict.timeline, verdict.held, standby


def _words(error: EngineError) -> str:
    # Of libpq's sentence the end tells: where it tried is in the plan, and what it asks back is our question.
    reason = str(error.context.get("reason", "")).rpartition(" failed: ")[2].partition(" Is the server")[0]
    return f"{error.message} ({reason})" if reason else error.message
